"""Scripts under torchrun as a user runs them: one run of two processes, stopped, killed, refused."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import pytest
from conftest import (
    ESTIMATOR,
    ROOT,
    SMALL,
    exit_codes,
    in_processes,
    metrics,
    run_script,
    succeed,
    succeed_in_processes,
    tensors,
)

from utils.training.loop import Loop

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def torchrun(*words, count=2) -> list[str]:
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc_per_node={count}",
        *map(str, words),
    ]


def test_two_processes_train_all_stages_as_one_does(chain, tmp_path):
    """The first epoch has the same log up to rounding, which the signs of PGD's gradients amplify a little."""
    precise = ["--precision", "fp32", "--device", "cpu"]
    commands = {
        "standard": ["train_standard.py", *SMALL, "--epochs", 2, *precise],
        "estimators": [
            "train_MI_estimator.py",
            *ESTIMATOR,
            "--pre-target",
            chain / "standard/best_model.pth",
            *precise,
        ],
        "namid": [
            "train_MIAT.py",
            *SMALL,
            "--epochs",
            2,
            "--warmup-epochs",
            1,
            "--alpha",
            0.1,
            "--estimator-dir",
            chain / "estimators",
            *precise,
        ],
    }
    for name, words in commands.items():
        succeed(*words, "--model-dir", tmp_path / "one" / name)
        said = succeed_in_processes(2, *words, "--model-dir", tmp_path / "two" / name)
        assert said.count("done: ") == 1 and "2 processes" in said
        one, two = metrics(tmp_path / "one" / name), metrics(tmp_path / "two" / name)
        assert len(one) == len(two) == 2
        assert float(two[0]["loss"]) == pytest.approx(float(one[0]["loss"]), rel=2e-2)
        assert two[0].keys() == one[0].keys()


def test_stopped_in_two_processes_goes_on_in_one(tmp_path):
    words = [
        "train_standard.py",
        *SMALL,
        "--epochs",
        8,
        "--precision",
        "fp32",
        "--model-dir",
        tmp_path,
    ]
    running = subprocess.Popen(
        torchrun(ROOT / words[0], *words[1:]),
        cwd=ROOT,
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
    )
    until((tmp_path / "metrics.csv").exists)
    running.send_signal(signal.SIGTERM)
    _, said = running.communicate(timeout=120)
    assert running.returncode != 0 and said.count("the same command resumes") == 1
    before = metrics(tmp_path)
    again = succeed(*words)
    assert "resumed after epoch" in again.out and 1 <= len(before) < len(metrics(tmp_path)) == 8
    assert metrics(tmp_path)[: len(before)] == before


def until(holds, seconds=120) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.1)


def one_is_killed(rank: int, words: list) -> None:
    """Train; the second process is killed when the first epoch is done."""
    true = Loop.end_of_epoch

    def end_of_epoch(*arguments):
        true(*arguments)
        if rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    with mock.patch.object(Loop, "end_of_epoch", end_of_epoch):
        sys.exit(run_script(*words).status)


def test_a_killed_process_ends_the_others(tmp_path):
    words = ["train_standard.py", *SMALL, "--epochs", 1000, "--model-dir", tmp_path]
    first, killed = exit_codes(2, one_is_killed, words)
    assert first > 0 and killed == -signal.SIGKILL
    assert len(metrics(tmp_path)) == 1 and tensors(tmp_path / "best_model.pth")


def refused(rank: int, words: list, folder: Path) -> None:
    """Run a script that ends with status 2, and keep what this process says."""
    ended = run_script(*words)
    assert ended.status == 2
    (folder / str(rank)).write_text(ended.err)


def test_what_is_wrong_is_said_once(tmp_path):
    words = ["train_standard.py", *SMALL, "--batch-size", 2, "--model-dir", tmp_path / "run"]
    in_processes(3, refused, words, tmp_path)
    said = "".join((tmp_path / str(rank)).read_text() for rank in range(3))
    assert said.count("--batch-size 2: 3 processes share a batch") == 1


def test_the_evaluation_runs_in_one_process(chain, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    refused = run_script("test_comparison.py", "--model-dir", chain / "standard")
    assert refused.status == 2 and refused.err.count("test_comparison.py runs in one process") == 1
