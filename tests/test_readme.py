"""The commands of the README, of docs/training.md, leaderboard.md, evaluation.md and of the
scripts' docstrings run on
tiny data; the links of all pages lead somewhere; the demo works."""

import ast
import json
import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, launch, succeed

from reproduction import demo, run

LINKED = [
    "README.md",
    "CONTRIBUTING.md",
    *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))),
]
TINY = {
    "train_standard.py": "--width 4 --epochs 1 --batch-size 16 --num-steps 1 --eval-steps 1",
    "train_MI_estimator.py": "--epochs 1 --batch-size 16 --num-steps 1 --eval-steps 1 --n-units 8",
    "train_MI_estimator_only_max.py": "--epochs 1 --batch-size 16 --num-steps 1 --eval-steps 1 --n-units 8",
    "train_MIAT.py": "--width 4 --epochs 1 --batch-size 16 --num-steps 1 --eval-steps 1 --warmup-epochs 0",
    "test_comparison.py": "--limit-test 4",
}
MORE = {  # scripts of pages of their own
    "train_VIB.py": "--width 8 --layers 1 --bottleneck 4 --epochs 1 --batch-size 16 --eval-steps 1",
}


def read(page: str) -> str:
    return (ROOT / page).read_text()


def shell_commands(text: str) -> list[list[str]]:
    """List the words of each `python SCRIPT ...` command, without its comment. A line that ends in a backslash
    is joined to the next."""
    lines = [line.strip() for line in text.replace("\\\n", " ").splitlines()]
    return [
        shlex.split(line, comments=True)
        for line in lines
        if re.match(r"(\.venv/bin/)?python \w+\.py", line)
    ]


class Place:
    """A folder with four arrays shaped as CIFAR-10 that stands for runs/, my_data and datasets/ in the commands.

    A command that ran once is not run again: pages and docstrings share many.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.trained = {}  # {name of --model-dir: the command that trained it}
        self.evaluated = set()
        random = np.random.RandomState(0)
        for split, n in (("train", 60), ("test", 20)):
            np.save(
                folder / f"{split}_images.npy",
                random.randint(0, 256, (n, 32, 32, 3)).astype(np.uint8),
            )
            np.save(folder / f"{split}_labels.npy", np.arange(n) % 10)

    def text(self, text: str) -> str:
        """Put the folder's paths into a command's word or a file's text."""
        return text.replace("runs/", f"{self.folder}/runs/").replace("my_data", str(self.folder))

    def run(self, words: list[str]) -> None:
        """Run a command, with options that make it short where it does not give them itself."""
        command = words[1:]
        if "--tyro-write-completion" in command:
            succeed(command[0], *map(self.text, command[1:]))
            return
        if command[0] == "test_comparison.py":
            if tuple(command) not in self.evaluated:
                self.evaluated.add(tuple(command))
                self._evaluate(command)
            return
        at = command.index("--model-dir") + 1
        name = command[at]
        if self.trained.setdefault(name, command) != command:  # the name is taken by other settings
            command = [*command[:at], f"{name}-{len(self.trained)}", *command[at + 1 :]]
            self.trained[command[at]] = command
        elif (self.folder / name).exists():
            return
        given = self._shortened(command)
        if "--data-dir" not in given and "digits" not in given:
            given += ["--data-dir", str(self.folder)]
        succeed(command[0], *given)

    def _evaluate(self, command: list[str]) -> None:
        given = [
            re.sub(r"^(none,fgsm,|none,|)pgd-40$", r"\1pgd-2", word)
            for word in self._shortened(command)
        ]
        given = ["none,fgsm" if word == "none,aa" else word for word in given]  # 5,000 queries
        pretrained = "digits-namid" in given  # on its own data set, which needs no folder
        if "--model-dir" not in given and not pretrained:
            given += ["--data-dir", str(self.folder)]
        succeed(command[0], *given, "--restart")

    def _shortened(self, command: list[str]) -> list[str]:
        given = [self.text(word) for word in command[1:]]
        tiny = (TINY | MORE)[command[0]].split()
        for option, value in zip(tiny[::2], tiny[1::2]):
            if option not in given:
                given += [option, value]
        return given


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A place in which the README's stages have run, in their order."""
    place = Place(tmp_path_factory.mktemp("readme"))
    for words in shell_commands(read("README.md")):
        place.run(words)
    return place


def test_the_readme_has_the_four_stages_in_their_order(place):
    stages = ["train_standard.py", "train_MI_estimator.py", "train_MIAT.py", "test_comparison.py"]
    assert [words[1] for words in shell_commands(read("README.md"))] == stages
    rows = json.loads((place.folder / "runs/namid/results.json").read_text())["attacks"]
    assert list(rows) == ["none", "fgsm", "pgd-2"]


def test_the_commands_of_docs_training_run(place):
    commands = shell_commands(read("docs/training.md"))
    assert {words[1] for words in commands} == set(TINY)
    for words in commands:
        place.run(words)


def test_the_commands_of_docs_leaderboard_run(place):
    images = np.load(place.folder / "train_images.npy")
    np.savez(place.folder / "generated.npz", image=images, label=np.arange(len(images)) % 10)
    for words in shell_commands(read("docs/leaderboard.md")):
        place.run(words)
    about = json.loads((place.folder / "runs/generated/results.json").read_text())
    assert about["extra_data"] == "70 % generated.npz"
    assert (place.folder / "runs/leaderboard/results-last.json").exists()


def test_the_completion_of_docs_training_knows_options_and_choices(place):
    """As bash completes them, from the file that the page's command writes."""
    words = [
        words
        for words in shell_commands(read("docs/training.md"))
        if "--tyro-write-completion" in words
    ]
    place.run(words[0])
    file = place.folder / "runs" / "train_standard.bash"
    complete = re.search(r"^complete -F (\w+) \S*train_standard.py$", file.read_text(), re.M)[1]
    typed = f"COMP_CWORD={{1}}; COMP_WORDS=(train_standard.py {{0}}); {complete}"
    typed += "; echo ${{COMPREPLY[@]}}"
    for given, known in (("--aug", "--augmentation"), ("--preset lead", "leaderboard")):
        script = f"source {file}; " + typed.format(given, len(given.split()))
        found = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
        assert known in found.stdout.split(), found.stderr + found.stdout


def test_the_commands_of_docs_evaluation_run(place, monkeypatch):
    """And so does the file that the page shows beside them, a user's own network."""
    page = read("docs/evaluation.md")
    name, text = re.search(r"```python\n# (\w+\.py)\n(.*?)```", page, re.S).groups()
    (place.folder / name).write_text(place.text(text))
    monkeypatch.syspath_prepend(place.folder)
    for words in shell_commands(page):
        place.run(words)
    found = {path.name for path in (place.folder / "runs").rglob("*") if path.is_file()}
    assert {
        "black.json",
        "pgd.npz",
        "given.json",
        "sweep-sweep.csv",
        "other.json",
        "factory.json",
    } <= found


@pytest.mark.parametrize("script", [name for name in TINY | MORE if name != "test_comparison.py"])
def test_the_commands_of_a_scripts_docstring_run(script, place):
    commands = shell_commands(ast.get_docstring(ast.parse(read(script))))
    assert commands and all(words[1] == script for words in commands)
    for words in commands:
        place.run(words)


@pytest.mark.parametrize("page", LINKED)
def test_the_links_and_files_of_a_page_exist(page):
    text = read(page)
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        assert link.startswith("http") or (ROOT / page).parent.joinpath(link).exists(), link
    if page == "docs/ablations.md":
        return  # it names files that its reader makes
    for path in re.findall(r"`((?:docs|tests|models|utils|data|results)/[\w./-]*)`", text):
        pattern = re.sub("SETTING|SEED", "*", path)
        assert list(ROOT.glob(pattern)), path


def test_the_readme_is_one_page_and_every_page_is_in_the_index():
    lines = read("README.md").splitlines()
    assert len(lines) <= 110 and max(map(len, lines)) <= 100
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"]({page.name})" in read("docs/README.md"), page.name


def test_run_without_or_with_a_wrong_word_says_how():
    for words in ([], ["nosuch"]):
        ended = subprocess.run(["bash", ROOT / "run", *words], capture_output=True, text=True)
        assert ended.returncode == 2 and "./run demo" in ended.stderr


def run_notebook() -> list[str]:
    """Run the cells of demo.ipynb in their order; return the pictures that they show."""
    book, shown = json.loads((ROOT / "demo.ipynb").read_text()), []
    names = {"Image": lambda filename: filename, "display": shown.append}
    assert len(book["cells"]) == 8 and book["nbformat"] == 4
    code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    for cell in code:
        text = "".join(cell["source"])
        text = text.replace("from IPython.display import Image, display\n", "")  # Jupyter has it
        exec(compile(text, cell["id"], "exec"), names)
    return shown


def test_the_notebook_runs_whole_and_the_demo_alike(tmp_path, monkeypatch, capfd):
    """Everything the notebook does, with fewer images and epochs, in this process; the demo runs
    the same
    commands."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(run, "launch", launch)
    monkeypatch.setattr(demo, "OUT", tmp_path)
    monkeypatch.setattr(
        demo,
        "DATA",
        demo.DATA.replace("--eval-steps 10", "--eval-steps 2") + " --limit-train 200 --num-steps 2",
    )
    monkeypatch.setattr(demo, "EPOCHS", {"natural": 1, "standard": 1, "estimators": 1, "namid": 3})
    commands, command = {"notebook": [], "demo": []}, demo.command

    def noted(script, options, restart=False):
        commands["notebook"].append((script, options, restart))
        command(script, options, restart)

    monkeypatch.setattr(demo, "command", noted)
    shown = run_notebook()
    assert len(shown) == 4
    assert all(Path(path).read_bytes()[:4] == b"\x89PNG" for path in shown)
    said = capfd.readouterr().out
    monkeypatch.setattr(demo, "command", lambda *words: commands["demo"].append(words))
    monkeypatch.setattr(demo, "show", lambda: None)
    demo.main(demo.Settings())
    assert [each[:2] for each in commands["demo"]] == [each[:2] for each in commands["notebook"]]
    assert len(commands["demo"]) == 7
    table = said[said.index("Accuracy in percent") :]
    for text in ("natural training", "standard AT", "NAMID", "no attack", "FGSM", "PGD-40"):
        assert text in table, said
    pictures = re.findall(r"^  (\S+\.png)$", table, re.M)
    assert len(pictures) == 7 and all(
        Path(path).read_bytes()[:4] == b"\x89PNG" for path in pictures
    )
