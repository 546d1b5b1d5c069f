"""train_entropic.py as a user runs it: the term does what it says, no image is attacked, every bit resumes."""

import csv
import os
import signal
from unittest import mock

import pytest
import torch
from conftest import run_script, same_bits, succeed, succeed_in_processes

import data
import models
from utils.attacks import projected_gradient
from utils.mi.layers import activation_entropy, unit_entropy
from utils.mi.profiles import profile, write_profile
from utils.mi.taps import tapped
from utils.training import entropic

DATA = "--dataset digits --limit-train 240 --holdout 40 --epsilon 0.15 --eval-steps 2".split()
OPTIONS = [*DATA, *"--batch-size 64 --lr 0.02 --precision fp32 --device cpu".split()]
SIGNS = "--signs=-1,-1,-1,-1,1"
DENSE = [f"dense.{i}" for i in (1, 3, 5, 7, 9)]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A naturally trained sperl-cnn, the file to begin with."""
    folder = tmp_path_factory.mktemp("entropic")
    words = ["--defense", "natural", "--arch", "sperl-cnn", "--width", 8, "--epochs", 3]
    succeed("train_standard.py", *OPTIONS, *words, "--model-dir", folder / "natural")
    return folder / "natural/last_model.pth"


def train(start, folder, *words, **options):
    words = [*OPTIONS, "--init", start, "--epochs", 2, *words, "--model-dir", folder]
    return succeed("train_entropic.py", *words, **options)


def rows(folder) -> list[dict]:
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def layers_of(path) -> dict:
    x = data.load("digits").test_images[:100].float() / 255
    with torch.no_grad():
        return tapped(models.load(path), x).layers


def made_up(path, signs, adversarial=(0.4, 0.5, 0.6, 0.7, 0.8)):
    """A profile of two seeds with these signs of the dense layers."""
    values = {"adversarial": [], "control": []}
    for shift in (-0.001, 0.001):
        values["adversarial"].append({name: a + shift for name, a in zip(DENSE, adversarial)})
        values["control"].append(
            {
                name: a - sign * (0.1 + shift) + (shift if sign else -shift)
                for name, a, sign in zip(DENSE, adversarial, signs)
            }
        )
    found = profile(values)
    assert [found[name]["sign"] for name in DENSE] == signs
    write_profile(path, {"activation": found}, {"dataset": "digits"})
    return path


def test_lam_0_is_natural_training_bit_for_bit(start, tmp_path):
    train(start, tmp_path / "entropic", SIGNS, "--lam", 0)
    train(start, tmp_path / "control", "--lam", 0)
    natural = [*OPTIONS, "--defense", "natural", "--arch", "sperl-cnn", "--init", start]
    succeed("train_standard.py", *natural, "--epochs", 2, "--model-dir", tmp_path / "natural")
    for which in ("best", "last"):
        natural = tmp_path / f"natural/{which}_model.pth"
        assert same_bits(tmp_path / f"entropic/{which}_model.pth", natural)
        assert same_bits(tmp_path / f"control/{which}_model.pth", natural)
    assert not same_bits(start, natural)


def test_sign_mode_moves_the_entropies_as_the_signs_say(start, tmp_path):
    signs = [-1, 0, -1, 0, 1]
    more = ["--lam", 3, "--epochs", 4]
    train(start, tmp_path / "there", "--signs=-1,0,-1,0,1", *more)
    train(start, tmp_path / "back", "--signs=-1,0,-1,0,1", "--control", "reversed", *more)
    there, back = (layers_of(tmp_path / f"{way}/last_model.pth") for way in ("there", "back"))
    for name, sign in zip(DENSE, signs):
        difference = activation_entropy(there[name]).mean() - activation_entropy(back[name]).mean()
        assert sign == 0 or sign * difference > 0.02, name
    logged = rows(tmp_path / "there")
    for row in logged:
        values = [float(row[f"layer {name}"]) for name in DENSE]
        term = -sum(sign * value for sign, value in zip(signs, values))
        assert float(row["entropic_term"]) == pytest.approx(term, abs=1e-4)
        assert float(row["loss"]) == pytest.approx(float(row["ce_loss"]) + 3 * term, abs=1e-3)


def test_training_attacks_no_image(start, tmp_path):
    """Without held-out images there is no attack at all; with them only those after each epoch."""
    calls, gradients = [], projected_gradient._gradient_and_logits

    def counted(model, *arguments):
        calls.append(model.training)
        return gradients(model, *arguments)

    with mock.patch.object(projected_gradient, "_gradient_and_logits", counted):
        train(start, tmp_path / "none", SIGNS, "--holdout", 0)
        assert calls == []
        train(start, tmp_path / "held", SIGNS)
    assert len(calls) == 2 * 2 * 1  # epochs, steps of PGD, batches of held-out images


def test_a_stopped_run_resumes_bit_for_bit(start, tmp_path):
    train(start, tmp_path / "whole", SIGNS)
    term, calls = entropic.sign_term, []

    def stopping(values, signs):
        calls.append(1)
        if len(calls) == 5:  # in the second epoch of 4 batches
            os.kill(os.getpid(), signal.SIGTERM)
        return term(values, signs)

    words = [*OPTIONS, "--init", start, "--epochs", 2, SIGNS, "--model-dir", tmp_path / "parts"]
    with mock.patch.object(entropic, "sign_term", stopping):
        stopped = run_script("train_entropic.py", *words)
    assert stopped.status == 143 and "state saved in epoch 2 after batch 1" in stopped.err
    assert "resumed" in succeed("train_entropic.py", *words).out
    for name in ("best_model.pth", "last_model.pth"):
        assert same_bits(tmp_path / "whole" / name, tmp_path / "parts" / name)
    assert [row["loss"] for row in rows(tmp_path / "whole")] == [
        row["loss"] for row in rows(tmp_path / "parts")
    ]


def test_two_processes_train_as_one_does(start, tmp_path):
    more = ["--mode", "class", "--lam", 0.1, "--epochs", 1, "--holdout", 0]
    train(start, tmp_path / "one", *more)
    words = [*OPTIONS, "--init", start, *more, "--model-dir", tmp_path / "two"]
    succeed_in_processes(2, "train_entropic.py", *words)
    one, two = (models.load(tmp_path / f"{name}/last_model.pth") for name in ("one", "two"))
    for name, weight in one.state_dict().items():
        torch.testing.assert_close(two.state_dict()[name], weight, rtol=1e-3, atol=1e-4)
    loss = [float(rows(tmp_path / name)[0]["loss"]) for name in ("one", "two")]
    assert loss[0] == pytest.approx(loss[1], rel=1e-4)


def test_a_profile_gives_the_signs_and_the_aims(start, tmp_path):
    path = made_up(tmp_path / "profile.json", [-1, 0, 1, 0, 1])
    by_profile = train(start, tmp_path / "profile", "--profile", path)
    assert "layers: dense.1 -1, dense.3 +0, dense.5 +1, dense.7 +0, dense.9 +1" in by_profile.out
    train(start, tmp_path / "signs", "--signs=-1,0,1,0,1")
    assert same_bits(tmp_path / "profile/last_model.pth", tmp_path / "signs/last_model.pth")

    train(start, tmp_path / "match", "--profile", path, "--mode", "match", "--layers", "dense.1")
    (row, _) = rows(tmp_path / "match")
    assert {name for name in row if name.startswith("layer ")} == {"layer dense.1"}
    assert 0 < float(row["entropic_term"]) < 1
    matched = activation_entropy(layers_of(tmp_path / "match/last_model.pth")["dense.1"]).mean()
    free = activation_entropy(layers_of(start)["dense.1"]).mean()
    assert abs(matched - 0.4) < abs(free - 0.4)


def test_another_profile_is_another_run(start, tmp_path):
    path = made_up(tmp_path / "profile.json", [-1, 0, 1, 0, 1])
    train(start, tmp_path / "run", "--profile", path)
    made_up(path, [-1, 0, 1, 0, -1])
    words = [*OPTIONS, "--init", start, "--epochs", 2, "--profile", path]
    again = run_script("train_entropic.py", *words, "--model-dir", tmp_path / "run")
    assert again.status == 2 and "other settings: profile_hash" in again.err


def test_the_other_quantities_and_controls_train(start, tmp_path):
    out = train(start, tmp_path / "random", SIGNS, "--control", "random").out
    drawn = dict(
        word.rsplit(" ", 1) for word in out.split("layers: ")[1].split("\n")[0].split(", ")
    )
    assert sorted(drawn.values()) == ["+1", "-1", "-1", "-1", "-1"] and set(drawn) != set(DENSE)
    train(
        start, tmp_path / "unit", "--quantity", "unit", "--signs=1,1", "--layers", "dense.1,dense.3"
    )
    train(start, tmp_path / "free", "--lam", 0, "--layers", "dense.1,dense.3")
    unit, free = (layers_of(tmp_path / f"{name}/last_model.pth") for name in ("unit", "free"))
    assert unit_entropy(unit["dense.1"]) > unit_entropy(free["dense.1"])
    train(start, tmp_path / "noisy", "--quantity", "information", SIGNS, "--ema", 0.9)

    train(start, tmp_path / "penalty", "--lam", 0, "--logit-penalty", 0.1)
    train(start, tmp_path / "smooth", "--lam", 0, "--label-smoothing", 0.3)
    norms = {
        name: float(rows(tmp_path / name)[-1]["logit_norm"])
        for name in ("free", "penalty", "smooth")
    }
    assert norms["penalty"] < norms["free"] and norms["smooth"] < norms["free"]


@pytest.mark.parametrize(
    "words, says",
    [
        ([], "--profile runs/layers/profile.json: holds no signs of layers; give a profile.json"),
        ([SIGNS, "--profile", "p.json"], "--signs -1,-1,-1,-1,1: give --profile or --signs, not"),
        (["--signs=-1"], "--signs -1: has 1 of 5 signs; give one for each of dense.1,dense.3"),
        (["--signs=-1,2"], "--signs -1,2: give -1, 0 or 1 for each layer"),
        ([SIGNS, "--layers", "nosuch"], "--layers nosuch: 'nosuch' is no hidden layer; give dense"),
        ([SIGNS, "--mode", "class"], "leave it out with --mode class"),
        (["--mode", "match", SIGNS], "--signs -1,-1,-1,-1,1: leave it out with --mode match"),
        (["--mode", "class", "--quantity", "unit"], "--quantity unit: leave it out"),
        ([SIGNS, "--lam", "-1"], "--lam -1.0: give 0 or more"),
        ([SIGNS, "--label-smoothing", "1"], "--label-smoothing 1.0: give a share"),
        ([SIGNS, "--logit-penalty", "-1"], "--logit-penalty -1.0: give 0 or more"),
        ([SIGNS, "--awp", "0.1"], "--awp 0.1: applies to adversarial training"),
        ([SIGNS, "--compile"], "--compile on: the layers are read as the network runs"),
        (["--profile", "nosuch.json"], "--profile nosuch.json: holds no signs"),
        ([SIGNS, "--arch", "resnet18"], "holds a sperl-cnn, not a resnet18"),
    ],
)
def test_bad_input_is_one_line(start, tmp_path, words, says):
    words = [*OPTIONS, "--init", start, "--epochs", 2, *words, "--model-dir", tmp_path / "run"]
    result = run_script("train_entropic.py", *words)
    assert result.status == 2 and result.err.count("\n") == 1 and says in result.err, result.err


@pytest.mark.parametrize(
    "content, says",
    [
        ("[]", "holds no signs of layers; give a profile.json"),
        ('{"quantities": {"unit": {}}}', "has no quantity 'activation'; it has unit"),
        ('{"quantities": {"activation": {}}}', "says nothing of the layer 'dense.1'"),
        (
            '{"quantities": {"activation": {"dense.1": {"sign": 5, "adversarial": [1]}}}}',
            "no signs",
        ),
        ('{"quantities": {"activation": {"dense.1": {"sign": 1, "adversarial": []}}}}', "no signs"),
    ],
)
def test_a_damaged_profile_is_one_line(start, tmp_path, content, says):
    path = tmp_path / "profile.json"
    path.write_text(content)
    words = [*OPTIONS, "--init", start, "--profile", path, "--model-dir", tmp_path / "run"]
    result = run_script("train_entropic.py", *words)
    assert result.status == 2 and result.err.count("\n") == 1 and says in result.err, result.err
