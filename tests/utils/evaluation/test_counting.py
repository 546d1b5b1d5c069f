"""Counting under attack: both ways of a minimum norm, the worst case, kills and resumed runs, sweeps."""

import importlib
import shutil
import sys
from unittest import mock

import numpy as np
import pytest
import torch
from conftest import evaluate, results, run_script, succeed, tensors
from torch import nn

import data
import models
from utils.attacks import registry
from utils.attacks.projected_gradient import TOLERANCE, l2_norm
from utils.devices import Compute, mix
from utils.evaluation.counting import Counted, Evaluation

CPU = Compute(torch.device("cpu"), "fp32")


def test_minimum_norm_attacks_are_counted_both_ways(chain, tmp_path):
    """Against the count written out from the images themselves."""
    _, said = evaluate(
        chain,
        tmp_path,
        "--attacks",
        "none,ddn-20,deepfool",
        "--norm",
        "l2",
        "--epsilon",
        "0.5",
        "--save-adv",
        tmp_path / "a.npz",
    )
    model = models.load(chain / "standard/best_model.pth")
    digits = data.load("digits", limit_test=60)
    x, y = digits.test_images.float() / 255, digits.test_labels
    right = model(x).argmax(1) == y
    for name in ("ddn-20", "deepfool"):
        x_adv = torch.from_numpy(np.load(tmp_path / "a.npz")[name])
        fooled, norms = model(x_adv).argmax(1) != y, l2_norm(x_adv - x)
        row = said["attacks"][name]
        assert (
            row["correct_any_norm"] == (right & ~fooled).sum()
            and row["correct"] == (right & ~(fooled & (norms <= 0.5 + 2 * TOLERANCE))).sum()
        )
        assert row["correct"] > row["correct_any_norm"]
        assert row["median_norm"] == pytest.approx(norms[right & fooled].median().item(), rel=0.05)
        assert torch.equal(x_adv[~right], x[~right])


def test_the_worst_case_stands_under_every_attack(chain, tmp_path):
    _, said = evaluate(chain, tmp_path, "--attacks", "none,fgsm,pgd-5,bim-5")
    rows = [row["outcomes"] for row in said["attacks"].values()]
    expected = sum(all(mark == "r" for mark in marks) for marks in zip(*rows))
    assert (
        said["worst_case"]["correct"]
        == expected
        <= min(row["correct"] for row in said["attacks"].values())
    )


def test_the_columns_of_the_paper_and_the_released_settings():
    from test_comparison import Settings

    assert list(Settings(attacks="l2").chosen_attacks("l2")) == [
        "none",
        "pgd-40",
        "cw-20",
        "ddn-20",
    ]
    assert list(Settings(attacks="linf").chosen_attacks("linf")) == [
        "none",
        "pgd-40",
        "aa",
        "fwa-40",
        "tidim",
    ]
    assert Settings(attacks="released").chosen_attacks("l2") == registry.RELEASED["l2"]
    assert Settings(attacks="pgd-7,cw-3", step_size=0.1).chosen_attacks("l2") == {
        "pgd-7": {"step_size": 0.1},
        "cw-3": {},
    }
    assert Settings(attacks="linf", step_size=0.1).chosen_attacks("linf") == {
        "none": {},
        "pgd-40": {"step_size": 0.1},
        "aa": {},
        "fwa-40": {},
        "tidim": {"step_size": 0.1},
    }


def test_stopped_in_the_middle_goes_on_to_the_same_result(chain, tmp_path):
    """A random attack among them: its draws are fixed by the batch."""
    words = ["--attacks", "none,pgd-3x2,tidim-2", "--limit-test", 20, "--batch-size", 5]
    _, through = evaluate(chain, tmp_path, *words)
    true, calls = Evaluation._batch, []

    def stopping(*arguments):
        calls.append(1)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return true(*arguments)

    with mock.patch.object(Evaluation, "_batch", stopping):
        stopped = run_script(
            "test_comparison.py",
            "--model-dir",
            chain / "standard",
            "--output",
            tmp_path / "stopped.json",
            *words,
        )
    assert stopped.status == 130
    assert len(results(tmp_path / "stopped.json")["attacks"]["pgd-3x2"]["outcomes"]) == 10
    _, again = evaluate(chain, tmp_path, *words, name="stopped.json")
    for name, row in through["attacks"].items():
        assert (
            again["attacks"][name]["outcomes"] == row["outcomes"]
            and again["attacks"][name]["forward_passes"] == row["forward_passes"]
        )


LINEAR = """
import numpy, torch
def network():
    images = torch.from_numpy(numpy.load("{folder}/train_images.npy")).permute(0, 3, 1, 2)
    labels = torch.from_numpy(numpy.load("{folder}/train_labels.npy"))
    x = images.flatten(1).double() / 255
    scores = x.T @ torch.nn.functional.one_hot(labels).double()
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(x.shape[1], 4))
    net[1].weight.data = 10 * torch.linalg.solve(x.T @ x + 10 * torch.eye(x.shape[1]), scores).T.float()
    net[1].bias.data.zero_()
    return net
"""


@pytest.fixture
def linear(tmp_path, monkeypatch):
    """A folder with the digits 0 to 3 and `linear.py`, whose network() is linear, by ridge regression. AutoAttack then has
    one target class for three of ten classes, and short passes."""
    folder = tmp_path / "linear"
    folder.mkdir()
    digits = data.load("digits")
    for split in ("train", "test"):
        labels, images = getattr(digits, f"{split}_labels"), getattr(digits, f"{split}_images")
        np.save(folder / f"{split}_labels.npy", labels[labels < 4].numpy())
        np.save(folder / f"{split}_images.npy", images[labels < 4].permute(0, 2, 3, 1).numpy())
    (folder / "linear.py").write_text(LINEAR.format(folder=folder))
    monkeypatch.syspath_prepend(folder)
    yield folder
    sys.modules.pop("linear", None)


def test_autoattack_goes_on_with_the_part_it_was_stopped_in(linear, tmp_path):
    """Part by part, as an evaluation runs it, AutoAttack makes the very images that it makes in one call; and after a kill in
    its third part the first two are not run again."""
    out, epsilon = tmp_path / "out", 0.06
    command = f"test_comparison.py --factory linear:network --dataset arrays --data-dir {linear} --attacks aa"
    words = f"{command} --limit-test 10 --batch-size 10 --epsilon {epsilon}".split()
    true_attack, run = registry.attack, []

    def quick(name, *arguments, **settings):
        queries = {"queries": 100} if name in ("aa", "square") else {}
        return true_attack(name, *arguments, **settings, **queries)

    def stopping(name, *arguments, **settings):
        run.append(name)
        if len(run) in (3, 6):  # fab-t of the first command, and what the third begins with
            raise KeyboardInterrupt
        return quick(name, *arguments, **settings)

    with mock.patch.object(registry, "attack", stopping):
        stopped = run_script(*words, "--output", out / "a.json")
        assert stopped.status == 130 and run == ["apgd-ce", "apgd-t", "fab-t"]
        (out / "copy").mkdir()
        shutil.copy(out / ".a.json.unfinished.npz", out / "copy/.b.json.unfinished.npz")
        succeed(*words, "--output", out / "a.json")
        assert run[3:] == ["fab-t", "square"]
        run_script(*words, "--output", out / "copy/b.json", "--restart")
        assert run[5:] == ["apgd-ce"] and not list((out / "copy").iterdir())  # from the beginning
    shutil.rmtree(out / "copy")
    assert sorted(path.name for path in out.iterdir()) == ["a.json"]

    with mock.patch.object(registry, "attack", quick):
        succeed(*words, "--output", out / "b.json", "--save-adv", out / "b.npz")
    one, other = (results(out / name)["attacks"]["aa"] for name in ("a.json", "b.json"))
    told = ("seconds", "made")
    assert {k: v for k, v in one.items() if k not in told} == {
        k: v for k, v in other.items() if k not in told
    }
    # In the memory layout of the script: in another one sums round otherwise on some processors.
    model = CPU.prepare(importlib.import_module("linear").network())
    digits = data.load("arrays", linear, limit_test=10)
    x = (digits.test_images.float() / 255).contiguous(memory_format=torch.channels_last)
    y = digits.test_labels
    right = model(x).argmax(1) == y
    whole = quick("aa", model, x[right], y[right], "linf", epsilon, seed=mix(1, 0) % 2**31)
    x_adv = torch.from_numpy(np.load(out / "b.npz")["aa"])
    assert torch.equal(x_adv[right], whole) and 0 < other["correct"] < right.sum()
    assert (
        sum(other["parts"].values()) == right.sum() - other["correct"]
        and next(iter(other["parts"])) == "apgd-ce"
    )


def test_black_box_images_come_from_the_surrogate(chain, tmp_path):
    """With itself as surrogate the white-box result; with another network weaker images, which are the other's."""
    _, white = evaluate(chain, tmp_path, "--attacks", "fgsm")
    _, itself = evaluate(
        chain,
        tmp_path,
        "--attacks",
        "fgsm",
        "--surrogate",
        chain / "standard/best_model.pth",
        name="self.json",
    )
    assert itself["attacks"]["fgsm"]["outcomes"] == white["attacks"]["fgsm"]["outcomes"]
    succeed(
        "test_comparison.py",
        "--model-dir",
        chain / "standard",
        "--limit-test",
        60,
        "--attacks",
        "fgsm",
        "--surrogate",
        chain / "namid/target_model.pth",
        "--save-adv",
        tmp_path / "b.npz",
        "--output",
        tmp_path / "black.json",
    )
    digits = data.load("digits", limit_test=60)
    x, y = digits.test_images.float() / 255, digits.test_labels
    right = models.load(chain / "standard/best_model.pth")(x).argmax(1) == y
    expected = registry.attack(
        "fgsm", models.load(chain / "namid/target_model.pth"), x[right], y[right], epsilon=0.15
    )
    assert torch.allclose(
        torch.from_numpy(np.load(tmp_path / "b.npz")["fgsm"])[right], expected, atol=1e-6
    )


def test_sweep_falls_to_zero_or_warns(chain, tmp_path):
    result, said = evaluate(
        chain, tmp_path, "--attacks", "pgd-10", "--sweep", "0,0.1,0.5", "--gallery"
    )
    accuracy = [
        said["attacks"][f"pgd-10 at {budget}"]["accuracy"] for budget in ("0", "0.1", "0.5")
    ]
    assert accuracy[0] >= accuracy[1] >= accuracy[2]
    assert (
        accuracy[0] == 100 * said["attacks"]["pgd-10"]["outcomes"].replace("f", "r").count("r") / 60
    )
    table = (tmp_path / "results-sweep.csv").read_text().splitlines()
    assert table[0] == "attack,epsilon,accuracy,low,high,n" and len(table) == 4
    assert (
        (tmp_path / "results-sweep.png").read_bytes()[:4]
        == (tmp_path / "results-pgd-10.png").read_bytes()[:4]
        == b"\x89PNG"
    )
    assert ("sweep further" in result.out) == (accuracy[2] > 0)
    result, _ = evaluate(
        chain, tmp_path, "--attacks", "pgd-10", "--sweep", "0,0.001", name="short.json"
    )
    assert "sweep further" in result.out


def test_bf16_is_said(chain, tmp_path):
    result, said = evaluate(chain, tmp_path, "--attacks", "none", "--precision", "bf16")
    assert "bf16" in result.out and said["precision"] == "bf16"


def test_the_model_file_is_only_read(chain, tmp_path):
    before = tensors(chain / "standard/best_model.pth")
    evaluate(chain, tmp_path, "--attacks", "pgd-2,ddn-3", "--norm", "l2")
    assert all(
        torch.equal(value, before[name])
        for name, value in tensors(chain / "standard/best_model.pth").items()
    )


def test_passes_are_counted():
    network = Counted(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), CPU)
    x, y = torch.rand(5, 3, 2, 2), torch.tensor([0, 1, 2, 0, 1])
    registry.attack("bim-4", network, x, y)
    assert (network.forwards, network.backwards) == (20, 20)
