"""The commands of docs/worst_case_MI.md and of the scripts' docstrings run; printed numbers follow from stored ones."""

import ast
import json
import re
import shlex

import pytest
from conftest import ROOT, succeed

from utils.evaluation.results import wilson

PAGE = (ROOT / "docs/worst_case_MI.md").read_text()
SCRIPTS = ("train_worst_case_MI.py", "train_classifier.py")
# Shortens a command, where it does not have the option.
TINY = {
    "train_worst_case_MI.py": "--dataset digits --limit-train 40 --width 2 --n-units 4 --epochs 1 "
    "--batch-size 16 --num-steps 1 --epsilon 0.1",
    "train_classifier.py": "--dataset digits --limit-train 40 --epochs 1 --batch-size 16 "
    "--num-steps 1 --eval-steps 1 --epsilon 0.1",
    "test_comparison.py": "--limit-test 4",
    "vulnerability": "--limit-test 10 --limit-train 20 --holdout 4 --critics 1 --epochs 1 "
    "--n-units 4 --num-steps 1 --eval-steps 1 --batch-size 5",
    "mixture": "--critics 1 --steps 2 --batch-size 8",
}
SHORTER = {"--epochs": "1", "--width": "2", "--n-units": "4", "--epsilon": "0.1"}


def commands(text: str) -> list[list[str]]:
    lines = [line.strip() for line in text.replace("\\\n", " ").splitlines()]
    found = [line for line in lines if re.match(r"(\.venv/bin/)?python \w+\.py", line)]
    return [shlex.split(line, comments=True)[1:] for line in found]


def run(words: list[str], folder) -> None:
    """Run a command below `folder`, with options that make it short."""
    kind = words[1] if words[0] == "analyze_MI.py" else words[0]
    words = [word.replace("runs/", f"{folder}/runs/") for word in words]
    words = [SHORTER.get(before, word) for before, word in zip(["", *words], words)]
    tiny = TINY[kind].split()
    extra = [w for pair in zip(tiny[::2], tiny[1::2]) if pair[0] not in words for w in pair]
    succeed(*words, *extra)


def test_the_pages_commands_run(tmp_path):
    found = commands(PAGE)
    assert [words[0] for words in found] == [
        *(*SCRIPTS, "test_comparison.py"),
        *(["analyze_MI.py"] * 3),
    ]
    for words in found:
        run([re.sub("pgd-40", "pgd-2", word) for word in words], tmp_path)
    names = {path.name for path in (tmp_path / "runs").rglob("*.json")}
    assert {"results.json", "vulnerability.json", "mixture.json"} <= names


def test_the_docstrings_commands_run(tmp_path):
    for script in SCRIPTS:
        found = commands(ast.get_docstring(ast.parse((ROOT / script).read_text())))
        assert found and all(words[0] == script for words in found)
        for words in found:
            run(words, tmp_path)


@pytest.mark.parametrize("shift", ["1", "0.5"])
def test_the_mixtures_table_is_that_of_its_files(shift):
    folder = ROOT / "results/worst-case-mixture"
    page = (folder / "README.md").read_text()
    found = json.loads((folder / f"shift-{shift}.json").read_text())
    truth = {"J1": found["I"], "J2": found["I_worst"], "RV": found["RV"]}
    for name, (mean, sd) in found["estimates"].items():
        error = mean - truth[name]
        row = f"| {shift} | {name} | {truth[name]:.3f} | {mean:.3f} | {sd:.3f} | {error:+.3f} |"
        assert row in page
        assert abs(error) <= 0.011 < 0.03


def test_the_digits_table_is_that_of_its_outcomes():
    folder = ROOT / "results/worst-case-digits"
    page = (folder / "README.md").read_text()
    outcomes = json.loads((folder / "outcomes.json").read_text())
    last = {name: rows for name, rows in outcomes.items() if not name.endswith("-best")}
    for name, rows in last.items():
        cells = []
        for attack in ("none", "pgd-10", "pgd-40", "aa"):
            if attack not in rows:
                cells.append("not run")
                continue
            right, n = rows[attack]["outcomes"].count("r"), rows[attack]["n"]
            low, high = wilson(right, n)
            cells.append(f"{100 * right / n:.1f} ({low:.1f}-{high:.1f})")
        assert f" | {' | '.join(cells)} |" in page, name
