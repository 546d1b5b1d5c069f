"""The networks that come with the code: their size, their cards, and whose name wins."""

import json
import re
import shlex

import pytest
import torch
from conftest import ROOT, succeed

import models
from models.mi import load_net
from utils.mi.estimator import MIEstimator
from utils.mi.names import estimator_files

FOLDER = ROOT / "models/pretrained"
CARD = (FOLDER / "README.md").read_text()
README = (ROOT / "README.md").read_text()
NAMES = ("digits-natural", "digits-standard", "digits-namid")


def test_they_are_small_and_have_cards():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*.pth")) < 3_000_000
    assert {path.stem for path in FOLDER.glob("*.pth")} == set(NAMES)
    assert all(f"| `{name}` |" in CARD for name in NAMES)
    weights = sum(value.numel() for value in models.load("digits-namid").parameters())
    assert f"({weights:,} weights)" in CARD


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_evaluated_as_its_card_says(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--model", name, "--epsilon", 0.12, "--attacks", "none,fgsm"]
    succeed("test_comparison.py", *words, "--output", "r.json")
    found = json.loads((tmp_path / "r.json").read_text())
    assert (found["dataset"], found["n"], found["norm"]) == ("digits", 397, "linf")
    row = re.search(rf"\| `{name}` \|[^|]*\| ([\d.]+) .*?\| ([\d.]+) ", CARD)
    for attack, said in zip(("none", "fgsm"), row.groups()):
        # Another processor rounds otherwise: one image, 0.25 points, and the table's own rounding.
        assert found["attacks"][attack]["accuracy"] == pytest.approx(float(said), abs=0.31)


def test_a_file_of_the_name_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = models.build("vgg16", width=2)
    models.save(own, tmp_path / "digits-namid")
    assert models.load("digits-namid").arch == "vgg16"
    (tmp_path / "digits-namid").unlink()
    assert models.load("digits-namid").arch == "resnet18"
    assert str(models.found(tmp_path / "digits-namid")) == str(tmp_path / "digits-namid")


def test_the_estimators_go_with_the_network():
    target, x = models.load("digits-namid"), torch.rand(4, 3, 16, 16)
    nets = {
        name: load_net(path) for name, path in estimator_files(FOLDER / "digits-estimators").items()
    }
    for letter, pattern in (("n", x), ("a", 0.12 * (x - 0.5))):
        estimator = MIEstimator(nets[f"pre_local_{letter}"], nets[f"pre_global_{letter}"])
        values = estimator(pattern, target(x))
        assert values.shape == (4,) and values.isfinite().all()
    assert nets["pre_local_n"].about["dataset"] == target.about["dataset"] == "digits"


def test_the_commands_of_the_card_and_of_the_readme_run(tmp_path, monkeypatch):
    (inline,) = re.findall(r"`\.venv/bin/python (test_comparison\.py --model [^`]+)`", README)
    block = CARD.split("```sh\n")[1].split("```")[0].replace("python ", "")
    commands = [shlex.split(line) for line in [inline, *block.splitlines()]]
    assert [words[0] for words in commands] == [
        "test_comparison.py",
        "test_comparison.py",
        "analyze_MI.py",
    ]
    monkeypatch.chdir(ROOT)
    for words in commands:
        words = [str(tmp_path / "mi") if word == "runs/digits-mi" else word for word in words]
        succeed(*words, "--limit-test", 40)
