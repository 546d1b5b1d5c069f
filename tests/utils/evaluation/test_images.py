"""Adversarial images that test_comparison.py keeps: the same count again, rounding, kills and sweeps."""

from unittest import mock

import numpy as np
import pytest
import torch
from conftest import evaluate, run_script

import data
from utils.attacks import registry
from utils.attacks.projected_gradient import TOLERANCE, l2_norm, to_levels
from utils.evaluation.counting import Evaluation


@pytest.mark.parametrize(
    "budget", [["--epsilon", 0.15], ["--epsilon", 0.1234], ["--norm", "l2", "--epsilon", 1.5]]
)
@pytest.mark.parametrize("rounding", [[], ["--round-uint8"]])
def test_saved_images_give_the_same_count_again(rounding, budget, chain, tmp_path):
    _, first = evaluate(
        chain,
        tmp_path,
        "--attacks",
        "none,pgd-5",
        "--save-adv",
        tmp_path / "a.npz",
        *rounding,
        *budget,
    )
    stored = np.load(tmp_path / "a.npz")
    assert (
        stored["pgd-5"].dtype == (np.uint8 if rounding else np.float32)
        and not (tmp_path / "a.npz.parts").exists()
    )
    _, again = evaluate(chain, tmp_path, "--adv", tmp_path / "a.npz", *budget, name="again.json")
    assert {name: row["outcomes"] for name, row in again["attacks"].items()} == {
        name: row["outcomes"] for name, row in first["attacks"].items()
    }
    assert (
        "o" not in first["attacks"]["pgd-5"]["outcomes"]
    )  # rounding carries none out of the budget


@pytest.mark.parametrize(
    "norm, epsilon", [("linf", 8 / 255), ("linf", 0.03), ("l2", 0.5), ("l2", 0.05)]
)
def test_rounding_keeps_the_budget(norm, epsilon):
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (8, 3, 9, 10), generator=generator) / 255
    moved = torch.rand(x.shape, generator=generator) - 0.5
    length = (l2_norm(moved) if norm == "l2" else moved.flatten(1).abs().amax(1)).reshape(
        -1, 1, 1, 1
    )
    x_adv = (
        x + moved / length * epsilon * torch.tensor([1.0] * 6 + [0.8, 3.0]).reshape(-1, 1, 1, 1)
    ).clamp(0, 1)
    got, nearest = to_levels(x, x_adv, norm, epsilon), (x_adv * 255).round() / 255

    def size(image):
        return l2_norm(image - x) if norm == "l2" else (image - x).flatten(1).abs().amax(1)

    assert (
        torch.allclose(got * 255, (got * 255).round(), atol=1e-4)
        and ((got - x_adv).abs() < 1 / 255).all()
    )
    assert (size(got)[:7] <= epsilon * (1 + TOLERANCE) + TOLERANCE).all()
    for i in range(8):
        if i == 7 or size(nearest)[i] <= epsilon * (1 + TOLERANCE):
            torch.testing.assert_close(got[i], nearest[i])
        else:  # no pixel less would do: with the last one that went back at its nearest level, the image is outside
            back = ((got[i] - nearest[i]).abs() > 0.5 / 255).flatten().nonzero()[:, 0]
            cost = (x_adv[i] - x[i]).flatten()[back].abs() * 255 % 1
            last = back[cost.argmax()] if norm == "l2" else back[0]
            less = got[i].flatten().clone()
            less[last] = nearest[i].flatten()[last]
            assert size(torch.stack([less.view_as(got[i])] * 8))[i] > epsilon


def test_kept_images_of_another_evaluation_are_not_taken(chain, tmp_path):
    true, calls = Evaluation._batch, []

    def stopping(*arguments):
        calls.append(1)
        if len(calls) == 5:  # in the second attack
            raise KeyboardInterrupt
        return true(*arguments)

    words = ["--attacks", "bim-3,pgd-3", "--save-adv", tmp_path / "a.npz"]
    with mock.patch.object(Evaluation, "_batch", stopping):
        stopped = run_script(
            "test_comparison.py",
            "--model-dir",
            chain / "standard",
            "--limit-test",
            60,
            "--batch-size",
            20,
            "--epsilon",
            0.3,
            "--output",
            tmp_path / "wide.json",
            *words,
        )
    assert stopped.status == 130 and (tmp_path / "a.npz.parts").is_dir()
    evaluate(chain, tmp_path, "--attacks", "bim-3", "--epsilon", 0.01)
    evaluate(chain, tmp_path, *words, "--epsilon", 0.01)
    images = data.load("digits", limit_test=60).test_images.numpy() / 255
    for name in ("bim-3", "pgd-3"):
        assert np.abs(np.load(tmp_path / "a.npz")[name] - images).max() <= 0.01 + 1e-5


def test_images_are_kept_when_the_rows_are_there_already_and_in_a_sweep(chain, tmp_path):
    """The rows made before without their images are made again; a sweep does not put its images in their place."""
    words = ["--attacks", "none,bim-3"]
    _, first = evaluate(chain, tmp_path, *words)
    runs = []
    for _ in range(
        3
    ):  # and the same command once more; and with a file that something else has changed
        _, again = evaluate(
            chain, tmp_path, *words, "--save-adv", tmp_path / "a.npz", "--sweep", "0,0.3"
        )
        assert again["attacks"]["bim-3"]["outcomes"] == first["attacks"]["bim-3"]["outcomes"]
        runs.append(again["attacks"]["bim-3"]["seconds"])
        if len(runs) == 2:
            np.savez(tmp_path / "a.npz", labels=[1], about=np.load(tmp_path / "a.npz")["about"])
    assert runs[0] == runs[1] != runs[2]  # made once, and then again
    images = data.load("digits", limit_test=60).test_images.numpy() / 255
    assert 0.1 < np.abs(np.load(tmp_path / "a.npz")["bim-3"] - images).max() <= 0.15 + 1e-6


def test_images_that_are_none_are_said_and_cut(chain, tmp_path):
    def broken(name, model, x, y, *arguments, **settings):
        x_adv = x + 0.9
        x_adv[0, 0, 0, 0] = float("nan")
        return x_adv

    with mock.patch.object(registry, "attack", broken):
        result, said = evaluate(
            chain, tmp_path, "--attacks", "fgsm", "--save-adv", tmp_path / "a.npz", "--epsilon", 1
        )
    assert (
        f"fgsm: returned {said['attacks']['fgsm']['attacked']} images with pixels outside [0,1]"
        in result.out
    )
    kept = np.load(tmp_path / "a.npz")["fgsm"]
    assert np.isfinite(kept).all() and kept.min() >= 0 and kept.max() == 1
