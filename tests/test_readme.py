"""Every command in the README and in the scripts' docstrings runs, on tiny data; its links lead somewhere; the demo works."""
import ast
import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, succeed

README = (ROOT / "README.md").read_text()
TINY = {"train_standard.py": "--width 4 --epochs 1 --batch-size 16 --num-steps 1 --eval-steps 1",
        "train_MI_estimator.py": "--epochs 1 --batch-size 16 --num-steps 1 --eval-steps 1 --n-units 8",
        "train_MI_estimator_only_max.py": "--epochs 1 --batch-size 16 --num-steps 1 --eval-steps 1 --n-units 8",
        "train_MIAT.py": "--width 4 --epochs 1 --batch-size 16 --num-steps 1 --eval-steps 1 --warmup-epochs 0",
        "test_comparison.py": "--limit-test 4"}


def shell_commands(text: str) -> list[list[str]]:
    """The words of each `python SCRIPT ...` line, without its comment."""
    lines = [line.strip() for line in text.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if re.match(r"(\.venv/bin/)?python \w+\.py", line)]


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    """Four arrays shaped as CIFAR-10, and the folder that the commands' runs/ becomes."""
    folder = tmp_path_factory.mktemp("readme")
    random = np.random.RandomState(0)
    for split, n in (("train", 60), ("test", 20)):
        np.save(folder / f"{split}_images.npy", random.randint(0, 256, (n, 32, 32, 3)).astype(np.uint8))
        np.save(folder / f"{split}_labels.npy", np.arange(n) % 10)
    return folder


def run(words: list[str], folder) -> None:
    """The command, its runs/ and data in `folder`, with options that make it short where it does not give them itself."""
    script, given = words[1], [word.replace("runs/", f"{folder}/runs/").replace("my_data", str(folder)) for word in words[2:]]
    tiny = TINY[script].split()
    for option, value in zip(tiny[::2], tiny[1::2]):
        if option not in given:
            given += [option, value]
    if script != "test_comparison.py" and "--data-dir" not in given and "digits" not in given:
        given += ["--data-dir", str(folder)]
    if script == "test_comparison.py":
        given = [word.replace("pgd-40", "pgd-2") for word in given] + ["--restart"]
        given += [] if "--model-dir" in given else ["--data-dir", str(folder)]
    succeed(script, *given)


def test_the_readmes_commands_run_in_their_order(arrays):
    commands = shell_commands(README)
    assert [words[1] for words in commands] == ["train_standard.py", "train_MI_estimator.py", "train_MIAT.py", "test_comparison.py",
                                                "train_standard.py"]
    for words in commands:
        run(words, arrays)


@pytest.mark.parametrize("script", [name for name in TINY if name != "test_comparison.py"])
def test_the_commands_of_a_scripts_docstring_run(script, arrays):
    if not (arrays / "runs/estimators").exists():
        for words in shell_commands(README)[:2]:
            run(words, arrays)
    commands = shell_commands(ast.get_docstring(ast.parse((ROOT / script).read_text())))
    assert commands and all(words[1] == script for words in commands)
    for i, words in enumerate(commands):
        # each into a folder of its own: another command may have used the one it names with other settings
        words = [f"{word}-{script}-{i}" if before == "--model-dir" else word for before, word in zip(["", *words], words)]
        run(words, arrays)


def test_the_readmes_links_and_files_exist():
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert link.startswith("http") or (ROOT / link).exists(), link
    for path in re.findall(r"`((?:docs|tests|models|utils|data|results)/[\w./-]*)`", README):
        assert (ROOT / path).exists(), path


def test_run_without_or_with_a_wrong_word_says_how():
    for words in ([], ["nosuch"]):
        ended = subprocess.run(["bash", ROOT / "run", *words], capture_output=True, text=True)
        assert ended.returncode == 2 and "./run demo" in ended.stderr


def test_the_demo_runs_whole(tmp_path, monkeypatch, capfd):
    """Everything the demo does, with fewer images and epochs."""
    from reproduction import demo
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(demo, "OUT", tmp_path)
    monkeypatch.setattr(demo, "DATA", demo.DATA.replace("--eval-steps 10", "--eval-steps 2") + " --limit-train 200 --num-steps 2")
    monkeypatch.setattr(demo, "EPOCHS", {"natural": 1, "standard": 1, "estimators": 1, "namid": 3})
    demo.main(demo.Settings())
    said = capfd.readouterr().out
    table = said[said.index("Accuracy in percent"):]
    for text in ("natural training", "standard AT", "NAMID", "no attack", "FGSM", "PGD-40"):
        assert text in table, said
    pictures = re.findall(r"^  (\S+\.png)$", table, re.M)
    assert len(pictures) == 7 and all(Path(path).read_bytes()[:4] == b"\x89PNG" for path in pictures)
