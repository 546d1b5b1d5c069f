"""Training scripts that are stopped, killed and run again: the same bits, or a refusal by name."""

import os
import shutil
import signal
import time
from unittest import mock

import pytest
import torch
from conftest import ESTIMATOR, SMALL, forked, metrics, run_script, same_bits, succeed

import data
from common.locks import locked
from utils.attacks.projected_gradient import pgd

STAGES = {
    "train_standard.py": [*SMALL, "--epochs", "3"],
    "train_MI_estimator.py": [*ESTIMATOR, "--pre-target", "{chain}/standard/best_model.pth"],
    "train_MI_estimator_only_max.py": [
        *ESTIMATOR,
        "--pre-target",
        "{chain}/standard/best_model.pth",
    ],
    "train_MIAT.py": [
        *SMALL,
        "--epochs",
        "3",
        "--warmup-epochs",
        "1",
        "--estimator-dir",
        "{chain}/estimators",
    ],
}


@pytest.fixture(scope="module", params=STAGES)
def through(request, chain, tmp_path_factory):
    """A script, its options, and the folder of a run that was not stopped."""
    words = [word.format(chain=chain) for word in STAGES[request.param]]
    folder = tmp_path_factory.mktemp("through")
    succeed(request.param, *words, "--model-dir", folder)
    return request.param, words, folder


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stopped_in_the_middle_of_an_epoch_ends_with_the_same_bits(
    number, status, through, tmp_path
):
    """4 batches to an epoch: the 6th training attack is in the second adversarial epoch; evaluation attacks count too."""
    (script, words, through), stopped = through, tmp_path
    first = run_script(script, *words, "--model-dir", stopped, stop_at=7, number=number)
    assert first.status == status, first.err + first.out
    assert "the same command resumes" in first.err and (stopped / "last.ckpt").exists()
    assert (
        torch.load(stopped / "last.ckpt", weights_only=True)["index"] > 0
    )  # it was inside an epoch
    again = succeed(script, *words, "--model-dir", stopped)
    assert "resumed after epoch" in again.out
    names = [path.name for path in through.glob("*.pth")]
    assert names and all(same_bits(through / name, stopped / name) for name in names)
    told = [
        [
            {k: v for k, v in row.items() if k not in ("seconds", "images_per_second")}
            for row in metrics(folder)
        ]
        for folder in (through, stopped)
    ]
    assert told[0] == told[1]


def test_a_signal_in_the_evaluation_stops_after_its_epoch(tmp_path):
    """No step of the next is made; in the last epoch nothing is left to stop."""

    def stopping(*arguments, **settings):
        os.kill(os.getpid(), signal.SIGTERM)
        return pgd(*arguments, **settings)

    with mock.patch("utils.training.held_out.pgd", stopping):
        stopped = run_script("train_standard.py", *SMALL, "--epochs", 2, "--model-dir", tmp_path)
    assert (
        stopped.status == 143
        and "state saved in epoch 2 after batch 0" in stopped.err
        and len(metrics(tmp_path)) == 1
    )
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert (checkpoint["epoch"], checkpoint["index"]) == (1, 0)
    with mock.patch("utils.training.held_out.pgd", stopping):
        succeed("train_standard.py", *SMALL, "--epochs", 2, "--model-dir", tmp_path)
    assert len(metrics(tmp_path)) == 2


def test_a_folder_has_one_training_at_a_time(tmp_path):
    with locked(tmp_path):
        refused = run_script("train_standard.py", *SMALL, "--epochs", 1, "--model-dir", tmp_path)
        assert (
            refused.status == 2
            and "another process trains in it" in refused.err
            and refused.err.count("\n") == 1
        )
    succeed("train_standard.py", *SMALL, "--epochs", 1, "--model-dir", tmp_path)


def test_killed_without_warning_ends_with_the_same_bits(tmp_path):
    """SIGKILL as soon as the first epoch is saved, in a process of its own; then the same command."""
    words = ["train_standard.py", *SMALL, "--epochs", 6, "--model-dir"]
    process = forked(succeed, *words, tmp_path / "killed")
    limit = time.monotonic() + 120
    while not (tmp_path / "killed" / "metrics.csv").exists():
        assert process.is_alive() and time.monotonic() < limit
        time.sleep(0.01)
    process.kill()
    process.join()
    assert len(metrics(tmp_path / "killed")) < 6
    for folder in ("killed", "through"):
        process = forked(succeed, *words, tmp_path / folder)
        process.join()
        assert process.exitcode == 0
    assert same_bits(
        tmp_path / "killed" / "last_model.pth", tmp_path / "through" / "last_model.pth"
    )
    assert same_bits(
        tmp_path / "killed" / "best_model.pth", tmp_path / "through" / "best_model.pth"
    )


def test_a_finished_run_says_so_and_changes_nothing(chain):
    before = {path.name: path.read_bytes() for path in (chain / "standard").glob("*.pth")}
    again = succeed("train_standard.py", *SMALL, "--epochs", 4, "--model-dir", chain / "standard")
    assert "already finished after epoch 4" in again.out
    assert all(
        torch.load(chain / "standard" / name, weights_only=True) is not None for name in before
    )
    assert len(metrics(chain / "standard")) == 4


def test_other_settings_are_refused_by_name_and_the_run_stays(chain):
    before = (chain / "standard" / "last.ckpt").read_bytes()
    for words, named in (
        (["--lr", "0.01"], "lr 0.05 (now 0.01)"),
        (["--seed", "2"], "seed 1 (now 2)"),
        (["--limit-train", "280"], "data_fingerprint"),
    ):
        refused = run_script(
            "train_standard.py", *SMALL, "--epochs", 4, *words, "--model-dir", chain / "standard"
        )
        assert refused.status == 2 and named in refused.err and refused.err.count("\n") == 1, (
            refused.err
        )
    refused = run_script(
        "train_MI_estimator.py",
        *ESTIMATOR,
        "--pre-target",
        chain / "standard/best_model.pth",
        "--model-dir",
        chain / "standard",
    )
    assert refused.status == 2 and "stage train_standard (now train_MI_estimator)" in refused.err
    assert (chain / "standard" / "last.ckpt").read_bytes() == before


def test_restart_throws_the_run_away_and_nothing_else(tmp_path):
    words = [*SMALL, "--model-dir", tmp_path]
    succeed("train_standard.py", *words, "--epochs", 1)
    (tmp_path / "notes.txt").write_text("mine")
    succeed("train_standard.py", *words, "--epochs", 2, "--restart")
    assert len(metrics(tmp_path)) == 2 and (tmp_path / "notes.txt").read_text() == "mine"


def test_divergence_keeps_the_last_good_state(tmp_path):
    result = run_script(
        "train_standard.py",
        *SMALL,
        "--epochs",
        2,
        "--lr-milestones",
        "0.5",
        "--lr-factor",
        "1e30",
        "--model-dir",
        tmp_path,
    )
    assert result.status == 3 and "epoch 2" in result.err and "last.ckpt" in result.err
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["epoch"] == 1 and all(
        torch.isfinite(v).all() for v in saved["nets"]["target"].values()
    )


def test_digits_of_another_folder_are_another_data_set(chain, tmp_path):
    """The run's identity is its data, not where they lie: the same arrays from a folder go on with the run."""
    import numpy

    digits = data.load("digits")
    for split in ("train", "test"):
        images = getattr(digits, f"{split}_images").permute(0, 2, 3, 1).numpy()
        numpy.save(tmp_path / f"{split}_images.npy", images)
        numpy.save(tmp_path / f"{split}_labels.npy", getattr(digits, f"{split}_labels").numpy())
    shutil.copytree(chain / "standard", tmp_path / "copy")
    result = succeed(
        "train_standard.py",
        *SMALL,
        "--epochs",
        4,
        "--data-dir",
        tmp_path,
        "--model-dir",
        tmp_path / "copy",
    )
    assert "already finished" in result.out
