"""test_comparison.py on a network with a bottleneck: predictors, resuming, batch order, warnings, refusals."""

import json

import pytest
import torch
from conftest import run_script, succeed

import data
import models
from utils.evaluation.predictors import FRESH_DRAWS

SIZES = "--width 16 --layers 1 --bottleneck 8 --batch-size 32 --lr 3e-3 --epochs 6".split()
DATA = "--dataset digits --limit-train 400 --holdout 60 --epsilon 0.15 --eval-steps 1".split()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vib")
    succeed("train_VIB.py", *DATA, *SIZES, "--model-dir", folder)
    return folder


def evaluate(run, output, *words):
    words = ["--model-dir", run, "--limit-test", 40, *words, "--output", output]
    ended = succeed("test_comparison.py", *words)
    return ended, json.loads(output.read_text())


def test_bank_is_the_default_and_each_result_names_its_predictor(run, tmp_path):
    ended, found = evaluate(run, tmp_path / "bank.json", "--attacks", "none,pgd-3,grey")
    assert "predictor bank" in ended.out and "fresh %" in ended.out
    assert (found["predictor"], found["samples"], found["attack_samples"]) == ("bank", 12, 12)
    net, digits = models.load(run / "best_model.pth"), data.load("digits")
    x, y = digits.test_images[:40].float() / 255, digits.test_labels[:40]
    with torch.no_grad():
        right = (net(x).argmax(1) == y).sum().item()
    assert found["attacks"]["none"]["correct"] == right
    row = found["attacks"]["pgd-3"]
    assert row["accuracy_fresh"] == pytest.approx(100 * row["fresh_right"] / (FRESH_DRAWS * 40))
    # Judged on fresh draws are the images of the last step, not the first that fool the bank.
    assert not row["stopped_early"] and row["forward_passes"] == 3 * right


def test_bank_does_not_depend_on_the_batches(run, tmp_path):
    words = ["--attacks", "none,fgsm,pgd-2"]
    _, one = evaluate(run, tmp_path / "one.json", *words, "--batch-size", 40)
    _, other = evaluate(run, tmp_path / "other.json", *words, "--batch-size", 7)
    for name in ("none", "fgsm"):  # the start of pgd is drawn for each batch
        assert one["attacks"][name]["outcomes"] == other["attacks"][name]["outcomes"]


def test_fresh_is_attacked_by_averages_and_judged_on_other_draws(run, tmp_path):
    words = ["--predictor", "fresh", "--samples", 2, "--attack-samples", 3, "--epsilon", 0.1]
    ended, found = evaluate(run, tmp_path / "f.json", *words, "--attacks", "none,pgd-2x2,aa-rand")
    assert (found["predictor"], found["samples"], found["attack_samples"]) == ("fresh", 2, 3)
    assert "two passes over the same images differ" not in ended.out
    rows = found["attacks"]
    assert not rows["pgd-2x2"]["stopped_early"]
    assert rows["pgd-2x2"]["forward_passes"] == rows["none"]["correct"] * (2 + 1) * 2
    # Resumed in the middle and run again, the draws are the same.
    _, again = evaluate(run, tmp_path / "g.json", *words, "--attacks", "none,pgd-2x2")
    for name in ("none", "pgd-2x2"):
        assert rows[name]["outcomes"] == again["attacks"][name]["outcomes"]
        assert rows[name]["fresh_right"] == again["attacks"][name]["fresh_right"]


def test_a_file_of_another_predictor_is_refused(run, tmp_path):
    evaluate(run, tmp_path / "r.json", "--attacks", "none")
    words = ["--model-dir", run, "--limit-test", 40, "--attacks", "none"]
    refused = run_script(
        "test_comparison.py", *words, "--predictor", "mean", "--output", tmp_path / "r.json"
    )
    assert refused.status == 2 and "predictor bank (now mean)" in refused.err


def test_an_attack_that_leaves_more_than_the_grey_image_is_warned_of(run, tmp_path):
    """No attack at all, under the name of one: pgd with steps too short to move a pixel."""
    words = ["--epsilon", 0.5, "--attacks", "none,pgd-1,grey", "--step-size", 1e-6]
    ended, found = evaluate(run, tmp_path / "g.json", *words)
    rows = found["attacks"]
    assert rows["pgd-1"]["correct"] > rows["grey"]["correct"]
    (text,) = [t for t in rows["pgd-1"]["warnings"] if "where the grey image leaves" in t]
    assert "this is not robustness" in text and f"warning: {text}" in ended.out
    assert not any("grey image leaves" in text for text in rows["grey"]["warnings"])
    most = torch.bincount(data.load("digits").test_labels[:40]).max().item()
    assert rows["grey"]["correct"] <= most


def test_a_sweep_warns_at_its_large_budgets(run, tmp_path):
    words = ["--attacks", "pgd-1", "--step-size", 1e-6, "--sweep", "0.1,0.6"]
    _, found = evaluate(run, tmp_path / "s.json", *words)
    texts = found["attacks"]["pgd-1 at 0.6"]["warnings"]
    assert any("at linf 0.6, where the grey image leaves" in text for text in texts)


@pytest.mark.parametrize(
    "words, message",
    [
        ("--predictor fresh --attacks none,aa", "--attacks aa: it goes by single judgements"),
        ("--samples 0", "--samples 0: give 1 or more draws"),
        ("--attacks grey --norm l2", "'grey' exists for --norm linf"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(run, tmp_path, words, message):
    words = ["--model-dir", run, *words.split(), "--output", tmp_path / "x.json"]
    refused = run_script("test_comparison.py", *words)
    assert refused.status == 2
    assert refused.err.count("\n") == 1 and message in refused.err, refused.err
    assert not (tmp_path / "x.json").exists()
