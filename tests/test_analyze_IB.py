"""analyze_IB.py as a user runs it: each part leaves its CSV file and plot, with values that can be checked."""

import csv
import math

import pytest
import torch
from conftest import run_script, succeed

import data
import models
from utils.mi import bottleneck, theorem3

DATA = "--dataset digits --limit-train 300 --holdout 60 --epsilon 0.15 --eval-steps 1".split()
SIZES = "--width 16 --layers 1 --bottleneck 8 --batch-size 32 --lr 3e-3 --epochs 4".split()
MEASURE = "--limit-test 60 --epsilon 0.15 --device cpu".split()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A bottleneck whose epochs are kept, a second decoder on its encoder, and two All-CNNs."""
    root = tmp_path_factory.mktemp("runs")
    words = [*DATA, *SIZES]
    succeed("train_VIB.py", *words, "--keep-every", 2, "--model-dir", root / "vib")
    encoder = ["--encoder", root / "vib/best_model.pth", "--decoder", "mlp", "--half", "second"]
    succeed("train_VIB.py", *words, *encoder, "--model-dir", root / "second")
    for share in (0, 1):
        cnn = "--arch allcnn --width 4 --objective ce --epochs 1 --adversarial fgsm".split()
        how = ["--adversarial-weight", 1, "--adversarial-fraction", share]
        succeed("train_VIB.py", *words, *cnn, *how, "--model-dir", root / f"share{share}")
    return root


def analyze(part, folder, *words) -> list[dict]:
    ended = succeed("analyze_IB.py", part, *words, "--output", folder)
    assert f"written: {folder / part}.csv" in ended.out
    assert (folder / f"{part}.png").read_bytes()[:4] == b"\x89PNG"
    with open(folder / f"{part}.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_the_plane_of_a_run(runs, tmp_path):
    (row,) = analyze("plane", tmp_path, *MEASURE, "--model-dirs", runs / "vib")
    net, digits = models.load(runs / "vib/best_model.pth"), data.load("digits")
    x, y = digits.test_images[:60].float() / 255, digits.test_labels[:60]
    with torch.no_grad():
        rate = bottleneck.rate(*net.encode(x)).mean().item() / math.log(2)
        accuracy = 100 * (net(x).argmax(1) == y).double().mean().item()
    assert float(row["rate_bits"]) == pytest.approx(rate, rel=1e-4)
    assert float(row["benign_accuracy"]) == pytest.approx(accuracy, abs=1e-3)
    assert float(row["gap"]) == pytest.approx(
        float(row["training_accuracy"]) - float(row["adversarial_accuracy"]), abs=1e-3
    )
    assert 0 <= float(row["input_bits_lower"]) <= math.log2(60) + 1e-6
    assert float(row["input_bits_lower"]) <= float(row["input_bits_upper"]) <= rate + 1e-3


def test_the_bound_of_each_kept_epoch(runs, tmp_path):
    rows = analyze("bound", tmp_path, *MEASURE, "--slopes", 4, "--model-dirs", runs / "vib")
    assert [row["epoch"] for row in rows] == ["2", "4"]
    for row in rows:
        assert 0 < float(row["largest_slope"]) <= float(row["lipschitz"])
        known = (8, float(row["smallest_sigma"]), *[float(row["lipschitz"])] * 2)
        expected = theorem3.log_corrected(*known) / math.log(10)
        assert float(row["theorem3_corrected_log10"]) == pytest.approx(expected, rel=1e-3)
    assert (tmp_path / "bound-correlations.csv").is_file()


def test_transfer_between_decoders(runs, tmp_path):
    words = [
        "--model-dirs",
        runs / "vib",
        "--second",
        runs / "second",
        "--attacks",
        "fgsm",
        "pgd-3",
    ]
    rows = analyze("transfer", tmp_path, *MEASURE, *words)
    assert [row["attack"] for row in rows] == ["fgsm", "pgd-3"]
    for row in rows:
        gap = float(row["delta_prime"]) - float(row["delta"])
        assert float(row["gap"]) == pytest.approx(gap, abs=1e-5) and row["head"] == "mlp"
    same = ["--model-dirs", runs / "vib", "--second", runs / "vib"]
    (row,) = analyze("transfer", tmp_path, *MEASURE, *same)
    assert float(row["gap"]) == 0


def test_entropy_of_features(runs, tmp_path):
    folders = [runs / f"share{share}" for share in (0, 1)]
    rows = analyze("entropy", tmp_path, *MEASURE, "--model-dirs", *folders)
    assert [float(row["adversarial_fraction"]) for row in rows] == [0, 1]
    for row in rows:
        assert 0 < float(row["natural_unit_maximum_likelihood"]) <= math.log2(30)
        assert float(row["natural_joint_maximum_likelihood"]) <= math.log2(60) + 1e-6


def test_gaussians_and_estimators(tmp_path):
    rows = analyze("gaussian", tmp_path, "--dim", 2, "--outputs", 2, "--betas", 0.1, 0.2)
    assert all(float(row["loss"]) - float(row["least_loss"]) < 0.01 for row in rows)
    rows = analyze("estimators", tmp_path, "--samples", 100, "--repetitions", 3)
    assert len(rows) == 15


@pytest.mark.parametrize(
    "words, message",
    [
        ("plane", "--model-dirs : give one or more folders of train_VIB.py"),
        ("plane --model-dirs nowhere", "holds no run"),
        ("transfer --model-dirs a b --second c", "--second 1: give 2, one for each folder"),
        ("entropy --model-dirs a --width 0", "--width 0.0: give a width above 0"),
        ("gaussian --betas 2", "--betas (2.0,): give values between 0 and 1"),
        ("plane --model-dirs a --attacks fgms", "'fgms' is unknown"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(tmp_path, words, message):
    refused = run_script("analyze_IB.py", *words.split(), "--output", tmp_path)
    assert refused.status == 2
    assert refused.err.count("\n") == 1 and message in refused.err, refused.err


def test_a_network_without_noise_has_no_plane(runs, tmp_path):
    words = ["--model-dirs", runs / "share0", "--output", tmp_path]
    refused = run_script("analyze_IB.py", "plane", *MEASURE, *words)
    assert refused.status == 2 and "plane needs a stochastic bottleneck" in refused.err
