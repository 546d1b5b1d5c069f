"""train_VIB.py as a user runs it, stopped and resumed, in two processes, and refused."""

import csv
import json
from functools import partial

import pytest
import torch
from conftest import (
    measured_in_processes,
    run_script,
    same_bits,
    succeed,
    succeed_in_processes,
    tensors,
)

import models
from utils import distributed
from utils.distributed import gather
from utils.training.bottleneck_losses import ce, vib
from utils.training.noisy import Noisy, attack, draw, spread, weighted

SMALL = "--dataset digits --limit-train 300 --holdout 60 --epsilon 0.15 --eval-steps 2".split()
SMALL += "--width 16 --layers 1 --bottleneck 8 --batch-size 32 --lr 3e-3 --num-steps 2".split()
SMALL += "--epochs 2 --precision fp32 --device cpu".split()


def rows(folder) -> list[dict]:
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_it_learns_and_leaves_its_files(tmp_path):
    ended = succeed("train_VIB.py", *SMALL, "--epochs", 10, "--model-dir", tmp_path)
    assert "E R" in ended.out and "I(Y;T) >=" in ended.out
    for name in ("best_model.pth", "last_model.pth", "settings.json", "last.ckpt", "curves.png"):
        assert (tmp_path / name).stat().st_size > 0
    first, last = rows(tmp_path)[0], rows(tmp_path)[-1]
    assert float(last["natural_accuracy"]) > 60
    assert float(last["loss"]) < float(first["loss"])
    assert float(last["label_bits"]) > float(first["label_bits"])
    net = models.load(tmp_path / "best_model.pth")
    assert net.predictor.name == "bank"
    assert net.about["objective"] == "vib" and "epsilon" not in net.about
    assert json.loads((tmp_path / "settings.json").read_text())["options"]["beta"] == 1e-3
    again = succeed("train_VIB.py", *SMALL, "--epochs", 10, "--model-dir", tmp_path)
    assert "already finished" in again.out


@pytest.mark.parametrize(
    "words",
    [
        "--adversarial pgd --attack-samples 2 --attack-objective full --samples 2",
        "--adversarial pgd --objective ceb --adversarial-fraction 0.3 --adversarial-weight 1",
    ],
)
def test_stopped_and_resumed_it_ends_with_the_same_bits(tmp_path, words):
    words = [*SMALL, *words.split()]
    succeed("train_VIB.py", *words, "--model-dir", tmp_path / "whole")
    stopped = run_script("train_VIB.py", *words, "--model-dir", tmp_path / "parts", stop_at=5)
    assert stopped.status == 143 and "the same command resumes" in stopped.err
    succeed("train_VIB.py", *words, "--model-dir", tmp_path / "parts")
    for name in ("best_model.pth", "last_model.pth"):
        assert same_bits(tmp_path / "whole" / name, tmp_path / "parts" / name)
    assert models.load(tmp_path / "parts/best_model.pth").about["epsilon"] == 0.15


def test_a_decoder_on_a_frozen_encoder(tmp_path):
    succeed("train_VIB.py", *SMALL, "--half", "first", "--model-dir", tmp_path / "one")
    words = ["--encoder", tmp_path / "one/last_model.pth", "--decoder", "mlp", "--half", "second"]
    succeed("train_VIB.py", *SMALL, *words, "--model-dir", tmp_path / "two")
    one, two = (tensors(tmp_path / name / "last_model.pth") for name in ("one", "two"))
    shared = [name for name in one if "decoder" not in name]
    assert all(torch.allclose(one[name], two[name], atol=1e-6) for name in shared)
    assert "decoder.2.weight" in two and "decoder.2.weight" not in one


def test_allcnn_without_a_bottleneck(tmp_path):
    words = "--arch allcnn --width 4 --objective ce --adversarial fgsm --adversarial-weight 1"
    words += " --adversarial-fraction 0.5 --epochs 1"
    succeed("train_VIB.py", *SMALL, *words.split(), "--model-dir", tmp_path)
    assert models.load(tmp_path / "best_model.pth").arch == "allcnn"
    assert "rate_bits" not in rows(tmp_path)[0]


@pytest.mark.parametrize("fraction, chosen", [(0, 0), (0.3, 3), (0.5, 5), (1, 10)])
def test_a_fraction_of_the_batch_is_spread_over_it(fraction, chosen):
    mask, share = spread(torch.zeros(10, 1), fraction)
    assert mask.sum() == chosen == 10 * share
    gaps = mask.nonzero()[:, 0].diff()
    assert not len(gaps) or gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize("weight, fraction", [(0.5, 1), (0.25, 0.5), (1, 0.3), (1, 1), (0.5, 0)])
def test_the_parts_are_the_mean_of_each_image_s_mixture(weight, fraction):
    x = torch.rand(10, 3, 2, 2, dtype=torch.float64)
    y = torch.arange(10)

    def value(x):
        return x.square().sum((1, 2, 3))

    parts = weighted(x, y, lambda x, y, _: x + 1, weight, fraction, None)
    found = sum(share * value(images).mean() for share, images, _ in parts)
    a = weight * spread(x, fraction)[0]
    assert found == pytest.approx(((1 - a) * value(x) + a * value(x + 1)).mean().item())


def test_attacks_see_their_draws_and_reach_the_ball():
    torch.manual_seed(0)
    net = models.build("vib-mlp", width=16, layers=1, bottleneck=8, side=16)
    x, y = torch.rand(6, 3, 16, 16), torch.arange(6)
    budget = ("linf", 0.1, 3, 0.05)
    made = partial(attack, net, x, y, samples=2, budget=budget, beta=0.0)

    def seeded():
        return torch.Generator().manual_seed(3)

    noisy = Noisy(net, draw(net, x, 2, seeded()))
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(ce(noisy(leaf).logits, y), leaf)
    by_hand = (x + 0.1 * gradient.sign()).clamp(0, 1)
    assert torch.allclose(made(seeded(), kind="fgsm"), by_hand)
    for kind in ("bim", "pgd"):
        x_adv = made(seeded(), kind=kind)
        assert (x_adv - x).abs().max() <= 0.1 + 1e-6
        assert ce(noisy(x_adv).logits, y) > ce(noisy(x).logits, y)


def measured() -> dict[str, torch.Tensor]:
    """The loss and its gradient on this process's part of seven images, in float64."""
    torch.manual_seed(0)
    net = models.build("vib-mlp", width=8, layers=1, bottleneck=4, side=16).double()
    x, y = torch.rand(7, 3, 16, 16, dtype=torch.float64), torch.arange(7)
    rank, count = distributed.rank(), distributed.count()
    part = slice(rank * 7 // count, (rank + 1) * 7 // count)
    generator = torch.Generator().manual_seed(1)
    budget = ("linf", 0.1, 2, 0.05)
    how = {"kind": "pgd", "samples": 2, "budget": budget, "beta": 0.1}
    craft = partial(attack, net, **how)
    loss = 0.0
    for weight, images, labels in weighted(x[part], y[part], craft, 0.4, 0.5, generator):
        passed = Noisy(net, draw(net, images, 3, generator))(images).gathered()
        loss = loss + weight * vib(passed.logits, gather(labels), passed.mu, passed.sigma, 0.01)
    loss.backward()
    gradients = [weight.grad for weight in net.parameters()]
    distributed.average(gradients)
    return {"loss": loss.detach(), "gradient": torch.cat([each.flatten() for each in gradients])}


def test_a_step_of_two_processes_is_that_of_one_in_float64(tmp_path):
    expected = measured()
    assert expected["gradient"].abs().max() > 1e-4
    for found in measured_in_processes(2, measured, tmp_path):
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-9)


def test_two_processes_end_with_the_same_weights(tmp_path):
    succeed("train_VIB.py", *SMALL, "--model-dir", tmp_path / "one")
    succeed_in_processes(2, "train_VIB.py", *SMALL, "--model-dir", tmp_path / "two")
    one, two = (tensors(tmp_path / name / "last_model.pth") for name in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "words, message",
    [
        ("--beta -1", "--beta -1.0: give 0 or more"),
        ("--adversarial-weight 2", "--adversarial-weight 2.0: give a share from 0 to 1"),
        ("--samples 0", "--samples 0: give 1 or more draws"),
        ("--momentum 0.5", "--momentum 0.5: applies to SGD"),
        ("--arch allcnn", "--objective vib: allcnn has no bottleneck; give --objective ce"),
        (
            "--attack-objective full --objective ce",
            "--attack-objective full: needs --objective vib",
        ),
        ("--encoder nowhere.pth", "--encoder nowhere.pth: no such file"),
        ("--bottleneck 0", "--bottleneck 0: give 1 or more dimensions"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(tmp_path, words, message):
    refused = run_script("train_VIB.py", *SMALL, *words.split(), "--model-dir", tmp_path / "run")
    assert refused.status == 2
    assert refused.err.count("\n") == 1 and message in refused.err, refused.err
    assert not (tmp_path / "run").exists()
