"""docs/ablations.md stays true: its edits are made in a copy of the code, and its commands run there."""

import csv
import json
import re
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

PAGE = (ROOT / "docs/ablations.md").read_text()
APPEND = re.compile(r"At the end of `([^`]+)`:\n\n```python\n(.*?)```", re.S)
NEW = re.compile(r"A new file `([^`]+)`:\n\n```python\n(.*?)```", re.S)
COMMANDS = [
    line.split()
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.S)
    for line in block.splitlines()
]
# The commands one after another in one process, so that PyTorch is imported once; the edits are there before any of it.
RUN_ALL = """
import json, runpy, sys
sys.path.insert(0, ".")
for words in json.loads(sys.argv[1]):
    sys.argv = words
    try:
        runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        assert not end.code, (end.code, words)
"""


@pytest.fixture(scope="module")
def edited(tmp_path_factory):
    """A copy of the code after the page's edits and commands, and what the commands said."""
    copy = tmp_path_factory.mktemp("ablations")
    for name in ("common", "data", "models", "utils"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.glob("*.py"):
        shutil.copy(path, copy)
    for name, text in APPEND.findall(PAGE):
        (copy / name).write_text((copy / name).read_text() + "\n\n" + text)
    for name, text in NEW.findall(PAGE):
        assert not (copy / name).exists()
        (copy / name).write_text(text)
    ended = subprocess.run(
        [sys.executable, "-c", RUN_ALL, json.dumps([words[1:] for words in COMMANDS])],
        cwd=copy,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return copy, ended.stdout


def test_the_page_has_an_edit_of_each_kind():
    assert {name for name, _ in APPEND.findall(PAGE)} == {
        "utils/training/losses.py",
        "utils/training/registry.py",
        "utils/schedules.py",
        "utils/attacks/registry.py",
        "data/__init__.py",
        "models/__init__.py",
    }
    assert len(NEW.findall(PAGE)) == 3 and PAGE.count("```python") == 9
    assert len(COMMANDS) == 10 and all(words[0] == "python" for words in COMMANDS)


def test_the_loss_trains_and_joins_namid(edited):
    copy, _ = edited
    for folder, option, value in (
        ("smooth", "defense", "smooth"),
        ("smooth_namid", "adv_loss", "smooth"),
    ):
        assert (
            json.loads((copy / f"runs/{folder}/settings.json").read_text())["options"][option]
            == value
        )
        assert (copy / f"runs/{folder}/last_model.pth").is_file()


def test_the_schedule_sets_the_learning_rate(edited):
    """lr 0.1 over two epochs of three steps: the last step of each has 1 - 2/6 and 1 - 5/6 of it."""
    with open(edited[0] / "runs/linear/metrics.csv", newline="") as file:
        rates = [float(row["lr"]) for row in csv.DictReader(file)]
    assert rates == pytest.approx([0.1 * (1 - 2 / 6), 0.1 * (1 - 5 / 6)], rel=1e-4)


def test_the_attack_is_in_the_table_and_keeps_its_budget(edited):
    copy, said = edited
    for folder in ("smooth", "cnn"):
        row = json.loads((copy / f"runs/{folder}/results.json").read_text())["attacks"]["noise"]
        assert (
            len(row["outcomes"]) == 20 and "o" not in row["outcomes"] and row["forward_passes"] == 0
        )
    assert "noise" in said


def test_the_data_set_has_its_name_and_two_classes(edited):
    copy, said = edited
    assert json.loads((copy / "runs/parity/results.json").read_text())["dataset"] == "parity"
    assert (
        torch.load(copy / "runs/parity/best_model.pth", weights_only=True)["options"]["num_classes"]
        == 2
    )
    assert "train_standard: parity" in said


def test_the_network_is_kept_in_a_file_that_says_what_it_is(edited):
    content = torch.load(edited[0] / "runs/cnn/best_model.pth", weights_only=True)
    assert content["arch"] == "cnn" and content["options"] == {"num_classes": 10, "width": 32}
