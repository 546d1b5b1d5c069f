"""A run with everything that --preset leaderboard adds, and with extra images: it resumes with the
same bits,
says what it was trained on, and compares its best epoch with its last."""

import numpy as np
import pytest
import torch
from conftest import DATA, metrics, results, run_script, same_bits, succeed

import train_standard
from utils.settings.command_line import parse
from utils.training.loop import _best_and_last

TINY = [*DATA, *"--width 4 --num-steps 1 --epochs 3 --batch-size 64 --awp-warmup 1".split()]


@pytest.fixture(scope="module")
def through(tmp_path_factory):
    """The file of extra images, the options of a run, and its folder."""
    root = tmp_path_factory.mktemp("leaderboard")
    random = np.random.RandomState(0)
    images = random.randint(0, 256, (90, 16, 16, 3)).astype(np.uint8)
    np.savez(root / "more.npz", image=images, label=np.arange(90) % 10)
    words = [*TINY, "--preset", "leaderboard", "--extra-data", root / "more.npz"]
    said = succeed("train_standard.py", *words, "--model-dir", root / "run")
    return root, words, said.out


def test_it_resumes_with_the_same_bits(through, tmp_path):
    root, words, _ = through
    stopped = run_script("train_standard.py", *words, "--model-dir", tmp_path, stop_at=7)
    assert stopped.status == 143 and torch.load(tmp_path / "last.ckpt")["index"] > 0
    succeed("train_standard.py", *words, "--model-dir", tmp_path)
    for name in ("best_model.pth", "last_model.pth"):
        assert same_bits(root / "run" / name, tmp_path / name)


def test_another_file_or_fraction_is_another_run(through, tmp_path):
    root, words, _ = through
    other = tmp_path / "other.npz"
    np.savez(other, image=np.zeros((9, 16, 16, 3), np.uint8), label=np.zeros(9, np.int64))
    for more, said in (
        (["--extra-data", other], "extra_data_hash"),
        (["--extra-fraction", "0.5"], "extra_fraction 0.7 (now 0.5)"),
        (["--augmentation", "crop"], "augmentation idbh-weak (now crop)"),
    ):
        refused = run_script("train_standard.py", *words, *more, "--model-dir", root / "run")
        assert refused.status == 2 and said in refused.err and refused.err.count("\n") == 1


def test_the_best_and_the_last_epoch_are_reported(through):
    root, _, out = through
    rows = metrics(root / "run")
    best = max(rows, key=lambda row: float(row["score"]))
    for what, row in (("best", best), ("last", rows[-1])):
        natural, robust = (float(row[f"{kind}_accuracy"]) for kind in ("natural", "robust"))
        line = f"{what} epoch {row['epoch']}, held-out images: natural {natural:.2f} %, robust {robust:.2f} %"
        assert line in out
    assert _best_and_last([{"epoch": 1, "loss": 1.0}]) == ""


def test_extra_images_have_their_column(through, chain, tmp_path):
    """In the file of the network, in a results file and in its table; without them there is
    none."""
    root, _, out = through
    assert "70 % of each batch from 90 of" in out
    about = torch.load(root / "run" / "best_model.pth", weights_only=True)["about"]
    assert about["extra_data"] == "more.npz" and about["extra_fraction"] == 0.7
    words = ["--limit-test", 20, "--attacks", "none", "--output", tmp_path / "results.json"]
    found = succeed("test_comparison.py", "--model-dir", root / "run", *words)
    assert results(tmp_path / "results.json")["extra_data"] == "70 % more.npz"
    assert "extra data" in found.out and "70 % more.npz" in found.out
    words[-1] = tmp_path / "without.json"
    found = succeed("test_comparison.py", "--model-dir", chain / "standard", *words)
    assert results(tmp_path / "without.json")["extra_data"] is None
    assert "extra data" not in found.out


@pytest.mark.parametrize(
    "words, said",
    [
        ("--no-augment --augmentation cropshift", "--augmentation cropshift: does nothing"),
        ("--extra-fraction 1", "--extra-fraction 1.0: give a fraction between 0 and 1"),
        ("--defense mart --label-smoothing 0.1", "--label-smoothing 0.1: applies to"),
        ("--label-smoothing 1", "--label-smoothing 1.0: give a share"),
        ("--augmentation mixup", "--augmentation"),
        ("--extra-data none.npz", "--extra-data none.npz: no such file"),
    ],
)
def test_wrong_options_are_refused(words, said, tmp_path):
    refused = run_script(
        "train_standard.py", *DATA, *words.split(), "--model-dir", tmp_path / "run"
    )
    assert refused.status == 2 and said in refused.err and refused.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_what_the_preset_is():
    settings = parse(train_standard.Settings, "", ["--preset", "leaderboard"])
    training, weights = settings.training, settings.weights
    assert (training.epochs, training.lr_milestones, training.weight_decay) == (
        200,
        (0.5, 0.75),
        5e-4,
    )
    assert (weights.ema, weights.awp, weights.label_smoothing) == (0.999, 0.005, 0.1)
    assert settings.data.augmentation == "idbh-weak" and settings.loss.smoothing == 0.1
