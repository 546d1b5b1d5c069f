"""reproduce.py as a user runs it: a plan, a table and a figure from nothing, a kill in the middle, bad input."""

import json
import os
import shlex
import signal
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from conftest import ROOT, launch, run_script, succeed

import reproduce
from reproduction import cost, run, scales
from utils.settings.command_line import parse

TINIEST = replace(
    scales.SCALES["tiny"],
    data="--limit-train 40 --holdout 8 --num-steps 1 --eval-steps 1",
    network="--width 2",
    training="--epochs 1 --batch-size 16 --lr 0.01",
    namid="--warmup-epochs 0",
    surrogate="--width 2 --epochs 1 --batch-size 16",
    estimators="--n-units 4 --epochs 1 --batch-size 16",
    estimators_max="--n-units 4 --epochs 1 --batch-size 16",
    evaluation="--limit-test 6",
    autoattack="--limit-test 2",
    mi="--limit-test 6 --batch-size 6",
)


@pytest.fixture
def tiniest(monkeypatch):
    """Scale tiny made tinier; its commands run in this process, as PyTorch is imported already."""

    monkeypatch.setitem(scales.SCALES, "tiny", TINIEST)
    monkeypatch.setattr(run, "launch", launch)


def test_a_table_and_a_figure_from_nothing_to_the_report(tiniest, tmp_path):
    succeed(
        "reproduce.py",
        "table4",
        "--scale",
        "tiny",
        "--defenses",
        "standard,namid",
        "--out",
        tmp_path,
        "--data-note",
        "only a try",
    )
    said = succeed("reproduce.py", "figure4", "--scale", "tiny", "--out", tmp_path).out
    root = tmp_path / "digits-tiny"
    assert f"written: {root}/figures/figure4.png" in said and "11 runs" not in said
    content = json.loads((root / "tables/table4.json").read_text())
    cells = {
        row["defense"]: [each["state"] for each in row["cells"]]
        for row in content["halves"][0]["rows"]
    }
    assert set(cells["namid"]) == {"measured"} and set(cells["wmim"]) == {"not run"}
    assert set(cells["standard"]) == {"measured", "no estimators"}
    results = json.loads((root / "seed1/l2/namid/white.json").read_text())["attacks"]
    measured = {
        (each["attack"], each["anywhere"]): each["mean"]
        for row in content["halves"][0]["rows"]
        if row["defense"] == "namid"
        for each in row["cells"]
    }
    assert measured["cw-20", True] == pytest.approx(results["cw-20"]["accuracy_any_norm"])
    assert measured["cw-20", False] == pytest.approx(results["cw-20"]["accuracy"]) and measured[
        "none", False
    ] == pytest.approx(results["none"]["accuracy"])
    assert (
        "only a try" in content["caption"]
        and "only a try" in (tmp_path / "report.html").read_text()
    )
    said = succeed(
        "reproduce.py",
        "table4",
        "--scale",
        "tiny",
        "--defenses",
        "standard,namid",
        "--out",
        tmp_path,
    ).out
    assert "6 runs, 6 of them finished" in said and "$" not in said

    refused = run_script(
        "reproduce.py", "table4", "--scale", "tiny", "--alpha", 3, "--out", tmp_path
    )
    assert refused.status == 2 and "--alpha 3" in refused.err and refused.err.count("\n") == 1


def test_mi_values_of_other_images_or_another_threat_model_are_refused(tiniest, tmp_path):
    succeed("reproduce.py", "figure4", "--scale", "tiny", "--out", tmp_path)
    folder = tmp_path / "digits-tiny/seed1/linf"
    words = [
        "--model",
        folder / "standard/best_model.pth",
        "--estimator-dir",
        folder / "standard-estimators",
        "--adv",
        folder / "standard/images.npz",
        "--dataset",
        "digits",
        "--output",
        tmp_path / "mi.json",
    ]
    for more, named in (
        (["--limit-test", 5, "--epsilon", 0.12], "images.npz: was made from other images"),
        (["--limit-test", 6, "--epsilon", 0.2], "epsilon"),
        (
            ["--limit-test", 6, "--epsilon", 0.12, "--adv", tmp_path / "none.npz"],
            "none.npz: no such file",
        ),
    ):
        refused = run_script("reproduction/mi_values.py", *words, *more)
        assert refused.status == 2 and named in refused.err and refused.err.count("\n") == 1, (
            refused.err
        )
    assert not (tmp_path / "mi.json").exists()


def test_a_plan_is_shell_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(cost.Costs, "seconds", lambda self, name: 60.0)

    def commands(said):
        return [words for line in said.splitlines() if (words := shlex.split(line, comments=True))]

    said = succeed(
        "reproduce.py",
        "table1",
        "--scale",
        "tiny",
        "--seeds",
        2,
        "--norm",
        "linf",
        "--defenses",
        "standard,namid",
        "--plan",
        "--out",
        tmp_path / "a b",
    ).out
    lines = commands(said)
    assert len(lines) == 16 + 1 and all((ROOT / words[1]).is_file() for words in lines)
    assert {words[0] for words in lines} == {
        lines[0][0]
    } and f"{tmp_path}/a b/digits-tiny/seed2/linf/namid" in lines[-4]
    assert (
        "16 runs" in said
        and "about 16 min for those" in said
        and "after 1: about 60 s" in said
        and not (tmp_path / "a b").exists()
    )
    last = lines[-1][1:]
    assert last[:2] == ["reproduce.py", "table1"] and "--plan" not in last
    assert commands(succeed(*last, "--plan").out) == lines


@pytest.mark.parametrize(
    "words, named",
    [
        ([], "What to make"),
        (["table7"], "table7"),
        (["table1", "--scale", "huge"], "huge"),
        (["table1", "--seeds", "0"], "--seeds 0"),
        (["table1", "--defenses", "standard,nothing"], "--defenses nothing"),
        (["table3", "--norm", "l2"], "--norm l2"),
        (["report", "--plan"], "--plan"),
        (["table1", "--jobs", "0"], "--jobs 0"),
        (["table1", "--alpha", "-1"], "--alpha -1"),
    ],
)
def test_bad_input_is_one_line(words, named, tmp_path):
    refused = run_script("reproduce.py", *words, "--out", tmp_path)
    assert refused.status == 2 and named in refused.err and refused.err.count("\n") == 1, (
        refused.err
    )
    assert not list(tmp_path.iterdir())


def test_a_report_of_nothing_says_so(tmp_path):
    refused = run_script("reproduce.py", "report", "--out", tmp_path)
    assert (
        refused.status == 2
        and "holds no results yet" in refused.err
        and refused.err.count("\n") == 1
    )


def test_a_failing_stage_stops_with_its_status(tiniest, tmp_path):
    refused = run_script(
        "reproduce.py",
        "table1",
        "--scale",
        "tiny",
        "--dataset",
        "arrays",
        "--data-dir",
        tmp_path,
        "--out",
        tmp_path / "out",
    )
    assert refused.status == 2 and "seed1/linf/standard ended with status 2: " in refused.err
    assert refused.err.splitlines()[-1].startswith("reproduce.py: ")


def test_stopped_by_a_signal_it_goes_on(tmp_path, monkeypatch):
    """The real command, from another folder and with a Python of its own: SIGTERM in a training,
    which then goes on in this
    process."""
    words = [
        sys.executable,
        ROOT / "reproduce.py",
        "table3",
        "--scale",
        "tiny",
        "--defenses",
        "trades",
        "--out",
        "here",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        words,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    for line in process.stdout:
        if line.startswith("epoch 1/"):
            process.send_signal(signal.SIGTERM)
            break
    _, err = process.communicate(timeout=100)
    assert process.returncode == 143 and "the same command resumes" in err
    folder = tmp_path / "here/digits-tiny/seed1/linf/trades"
    assert (folder / "last.ckpt").exists() and not (folder / "last_model.pth").exists()

    seen = []

    def launch_the_training(words, *options):  # its end is another test's
        seen.append(run_script(*words, stop_at=1))
        return SimpleNamespace(poll=lambda: 130)

    monkeypatch.setattr(run, "launch", launch_the_training)
    monkeypatch.chdir(tmp_path)
    assert run_script("reproduce.py", *words[2:]).status == 130
    assert "resumed" in seen[0].out and seen[0].status == 143 and len(seen) == 1


def test_the_documented_commands_are_read():
    text = (ROOT / "docs/reproduce.md").read_text() + (ROOT / "reproduce.py").read_text().split(
        '"""'
    )[1]
    commands = [
        shlex.split(line, comments=True)[1:]
        for line in text.splitlines()
        if line.strip().startswith("./reproduce.py ")
    ]
    assert len(commands) == 13
    for words in commands:
        assert parse(reproduce.Settings, "", words).target == words[0]


def test_a_python_without_torch_hands_over_to_the_environments(tmp_path):
    """Called with a bare Python, the script starts again with .venv's; where that is missing, it says what makes it."""
    bare = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')",
    ]
    (tmp_path / "reproduce.py").write_text((ROOT / "reproduce.py").read_text())
    ended = subprocess.run(
        [*bare, tmp_path / "reproduce.py", "report"], capture_output=True, text=True
    )
    assert ended.returncode == 1 and "./run setup" in ended.stderr
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho handed over: $*\n")
    python.chmod(0o755)
    ended = subprocess.run(
        [*bare, tmp_path / "reproduce.py", "report"], capture_output=True, text=True
    )
    assert (
        ended.returncode == 0
        and ended.stdout.startswith("handed over: ")
        and ended.stdout.endswith("reproduce.py report\n")
    )
    assert os.access(ROOT / "reproduce.py", os.X_OK)
