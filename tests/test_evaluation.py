"""test_comparison.py as a user runs it: columns, black box, files of adversarial images, sweeps, kills, warnings."""

import json
import math
import os
import shutil
from unittest import mock

import numpy as np
import pytest
import torch
from conftest import run_script, succeed, tensors
from torch import nn

import data
import models
from common.locks import held
from utils.attacks import registry
from utils.attacks.projected_gradient import TOLERANCE, l2_norm, to_levels
from utils.devices import Compute, mix
from utils.evaluation import checks
from utils.evaluation.counting import Counted, Evaluation
from utils.evaluation.factories import state_hash
from utils.evaluation.results import wilson
from utils.evaluation.threat import ThreatModel

CPU = Compute(torch.device("cpu"), "fp32")


def results(path) -> dict:
    return json.loads(path.read_text())


def evaluate(chain, tmp_path, *words, name="results.json", run="standard", **options):
    result = succeed(
        "test_comparison.py",
        "--model-dir",
        chain / run,
        "--limit-test",
        60,
        "--batch-size",
        20,
        "--output",
        tmp_path / name,
        *words,
        **options,
    )
    return result, results(tmp_path / name)


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


def test_autoattack_goes_on_with_the_part_it_was_stopped_in(chain, tmp_path):
    """Part by part, as an evaluation runs it, AutoAttack makes the very images that it makes in one call; and after a kill in
    its third part the first two are not run again."""
    words = "--attacks aa --limit-test 10 --batch-size 10 --epsilon 0.04".split()
    true_attack, run = registry.attack, []

    def stopping(name, *arguments, **settings):
        run.append(name)
        if len(run) in (3, 6):  # fab-t of the first command, and what the third begins with
            raise KeyboardInterrupt
        return true_attack(name, *arguments, **settings)

    with mock.patch.object(registry, "attack", stopping):
        stopped = run_script(
            "test_comparison.py",
            "--model-dir",
            chain / "standard",
            "--output",
            tmp_path / "a.json",
            *words,
        )
        assert stopped.status == 130 and run == ["apgd-ce", "apgd-t", "fab-t"]
        (tmp_path / "copy").mkdir()
        shutil.copy(tmp_path / ".a.json.unfinished.npz", tmp_path / "copy/.b.json.unfinished.npz")
        succeed(
            "test_comparison.py",
            "--model-dir",
            chain / "standard",
            "--output",
            tmp_path / "a.json",
            *words,
        )
        assert run[3:] == ["fab-t", "square"]
        run_script(
            "test_comparison.py",
            "--model-dir",
            chain / "standard",
            "--output",
            tmp_path / "copy/b.json",
            "--restart",
            *words,
        )
        assert run[5:] == ["apgd-ce"] and not list(
            (tmp_path / "copy").iterdir()
        )  # from the beginning
    shutil.rmtree(tmp_path / "copy")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json"]

    succeed(
        "test_comparison.py",
        "--model-dir",
        chain / "standard",
        "--output",
        tmp_path / "b.json",
        "--save-adv",
        tmp_path / "b.npz",
        *words,
    )
    one, other = (results(tmp_path / name)["attacks"]["aa"] for name in ("a.json", "b.json"))
    told = ("seconds", "made")
    assert {k: v for k, v in one.items() if k not in told} == {
        k: v for k, v in other.items() if k not in told
    }
    # In the memory layout of the script: in another one convolutions round otherwise on some processors.
    model, digits = (
        CPU.prepare(models.load(chain / "standard/best_model.pth")),
        data.load("digits", limit_test=10),
    )
    x, y = (
        (digits.test_images.float() / 255).contiguous(memory_format=torch.channels_last),
        digits.test_labels,
    )
    right = model(x).argmax(1) == y
    whole = registry.attack("aa", model, x[right], y[right], "linf", 0.04, seed=mix(1, 0) % 2**31)
    x_adv = torch.from_numpy(np.load(tmp_path / "b.npz")["aa"])
    assert torch.equal(x_adv[right], whole) and 0 < other["correct"] < right.sum()
    assert (
        sum(other["parts"].values()) == right.sum() - other["correct"]
        and next(iter(other["parts"])) == "apgd-ce"
    )


def test_another_evaluation_in_the_same_file_is_refused(chain, tmp_path):
    evaluate(chain, tmp_path, "--attacks", "none")
    refused = run_script(
        "test_comparison.py",
        "--model-dir",
        chain / "standard",
        "--limit-test",
        50,
        "--batch-size",
        20,
        "--attacks",
        "none",
        "--output",
        tmp_path / "results.json",
    )
    assert (
        refused.status == 2
        and "holds another evaluation" in refused.err
        and refused.err.count("\n") == 1
    )
    _, more = evaluate(chain, tmp_path, "--attacks", "none,fgsm")  # a further attack joins
    assert set(more["attacks"]) == {"none", "fgsm"}
    shutil.copytree(chain / "standard", tmp_path / "moved")
    _, same = evaluate(
        tmp_path, tmp_path, "--attacks", "none,fgsm", run="moved"
    )  # the same network at another place
    assert same["attacks"] == more["attacks"]


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
            np.savez(tmp_path / "a.npz", labels=[1])
    assert runs[0] == runs[1] != runs[2]  # made once, and then again
    images = data.load("digits", limit_test=60).test_images.numpy() / 255
    assert 0.1 < np.abs(np.load(tmp_path / "a.npz")["bim-3"] - images).max() <= 0.15 + 1e-6


def test_bad_files_of_adversarial_images(chain, tmp_path):
    labels = data.load("digits", limit_test=60).test_labels.numpy()
    good = np.zeros((60, 3, 16, 16), np.float32)
    for content, named in (
        ({"labels": labels[:-1], "a": good}, "other images"),
        ({"labels": labels, "a": good[:, :1]}, "shape"),
        ({"labels": labels, "a": good + 2}, "outside"),
        ({"labels": labels, "a": good.astype(np.int64)}, "int64"),
    ):
        np.savez(tmp_path / "bad.npz", **content)
        refused = run_script(
            "test_comparison.py",
            "--model-dir",
            chain / "standard",
            "--limit-test",
            60,
            "--adv",
            tmp_path / "bad.npz",
            "--output",
            tmp_path / "x.json",
        )
        assert refused.status == 2 and named in refused.err and refused.err.count("\n") == 1, (
            refused.err
        )
    np.save(tmp_path / "array.npy", good)
    np.savez(tmp_path / "labels.npz", labels=labels)
    for name, named in (
        ("array.npy", "no .npz"),
        ("nowhere.npz", "no .npz"),
        (".", "no .npz"),
        ("labels.npz", "labels alone"),
    ):
        refused = run_script(
            "test_comparison.py",
            "--model-dir",
            chain / "standard",
            "--limit-test",
            60,
            "--adv",
            tmp_path / name,
            "--output",
            tmp_path / "x.json",
        )
        assert refused.status == 2 and named in refused.err and refused.err.count("\n") == 1, (
            refused.err
        )
    cut = (tmp_path / "bad.npz").read_bytes()[:-100]
    for damaged in (b"no archive", cut):
        (tmp_path / "bad.npz").write_bytes(damaged)
        refused = run_script(
            "test_comparison.py",
            "--model-dir",
            chain / "standard",
            "--adv",
            tmp_path / "bad.npz",
            "--output",
            tmp_path / "x.json",
        )
        assert (
            refused.status == 2
            and "bad.npz: is no .npz file" in refused.err
            and refused.err.count("\n") == 1
        )


def test_bad_places_for_results(chain, tmp_path):
    words = [
        "test_comparison.py",
        "--model-dir",
        chain / "standard",
        "--limit-test",
        10,
        "--attacks",
        "none",
    ]
    (tmp_path / "list.json").write_text("[1, 2]")
    (tmp_path / "row.json").write_text(
        '{"attacks": {"fgsm": {"accuracy": 3}, "none": {"outcomes": 7}}}'
    )
    os.mkfifo(tmp_path / "pipe")
    for output, named in (
        (tmp_path, "is a folder"),
        (tmp_path / "pipe", "is no plain file"),
        (tmp_path / "list.json", "is no results file"),
        (tmp_path / "row.json", "is no results file"),
    ):
        refused = run_script(*words, "--output", output)
        assert (
            refused.status == 2
            and f"--output {output}: {named}" in refused.err
            and refused.err.count("\n") == 1
        )
    (tmp_path / "settings.json").write_text("{}")
    refused = run_script("test_comparison.py", "--model-dir", tmp_path)
    assert refused.status == 2 and "holds no run" in refused.err and refused.err.count("\n") == 1


def test_given_images_never_stand_for_an_attack_on_the_network(chain, tmp_path):
    """White-box rows are not overwritten by those of a file, nor one file's by another's."""
    evaluate(chain, tmp_path, "--attacks", "fgsm", "--save-adv", tmp_path / "a.npz")
    evaluate(chain, tmp_path, "--adv", tmp_path / "a.npz", name="given.json")
    evaluate(
        chain,
        tmp_path,
        "--attacks",
        "fgsm",
        "--save-adv",
        tmp_path / "b.npz",
        "--epsilon",
        0.01,
        name="other.json",
    )
    for name, words in (
        ("results.json", ["--adv", tmp_path / "a.npz"]),
        ("given.json", ["--adv", tmp_path / "b.npz"]),
        ("given.json", ["--attacks", "fgsm"]),
    ):
        refused = run_script(
            "test_comparison.py",
            "--model-dir",
            chain / "standard",
            "--limit-test",
            60,
            "--batch-size",
            20,
            *words,
            "--output",
            tmp_path / name,
        )
        assert refused.status == 2 and "adv_hash" in refused.err and refused.err.count("\n") == 1


@pytest.mark.parametrize("name", ["results.json", "a.npz"])
def test_one_process_at_a_time_writes_a_file(name, chain, tmp_path):
    lock = tmp_path / f".{name}.lock"
    lock.touch()
    words = [
        "test_comparison.py",
        "--model-dir",
        chain / "standard",
        "--limit-test",
        10,
        "--attacks",
        "none",
        *(["--save-adv", tmp_path / "a.npz"] if name == "a.npz" else []),
        "--output",
    ]
    with held(lock):
        refused = run_script(*words, tmp_path / "results.json")
        assert (
            refused.status == 2
            and "another process" in refused.err
            and refused.err.count("\n") == 1
        )
        if name == "results.json":
            succeed(*words, tmp_path / "other.json")
    succeed(*words, tmp_path / "results.json")
    assert not lock.exists()


def test_given_images_are_counted_both_ways_and_their_budgets_doubted(chain, tmp_path):
    words = ["--attacks", "none,ddn-20,pgd-5", "--norm", "l2", "--epsilon", 2]
    _, first = evaluate(chain, tmp_path, *words, "--save-adv", tmp_path / "a.npz")
    result, again = evaluate(
        chain,
        tmp_path,
        "--adv",
        tmp_path / "a.npz",
        "--norm",
        "l2",
        "--epsilon",
        2,
        name="again.json",
    )
    for column in ("correct", "correct_any_norm", "median_norm", "interval_any_norm"):
        assert again["attacks"]["ddn-20"][column] == first["attacks"]["ddn-20"][column]
    assert "outside the budget" not in result.out
    result, less = evaluate(
        chain,
        tmp_path,
        "--adv",
        tmp_path / "a.npz",
        "--norm",
        "l2",
        "--epsilon",
        1,
        name="less.json",
    )
    fallen = less["attacks"]["pgd-5"]["outcomes"].count("o")
    assert (
        f"pgd-5: {fallen} images that the network gets wrong lie outside the budget, l2 1"
        in result.out
        and fallen > 0
    )
    stored = np.load(tmp_path / "a.npz")
    np.savez(
        tmp_path / "b.npz",
        labels=stored["labels"],
        none=np.zeros_like(stored["none"]),
        sta=np.zeros_like(stored["none"]),
    )
    result, black = evaluate(chain, tmp_path, "--adv", tmp_path / "b.npz", name="black.json")
    assert (
        black["attacks"]["none"]["correct"] == first["attacks"]["none"]["correct"]
    )  # black images are in no such budget
    assert "sta: its budget is none of pixels" in result.out


def test_given_images_of_our_attacks_are_judged_as_the_attacks_are(chain, tmp_path):
    """FWA's budget is one of transport: its images count as they do in its own row, and a file's unknown names by the norm, which
    here allows next to nothing."""
    _, first = evaluate(
        chain,
        tmp_path,
        "--attacks",
        "none,fwa-5,deepfool-5",
        "--epsilon",
        0.1,
        "--save-adv",
        tmp_path / "a.npz",
    )
    _, again = evaluate(
        chain, tmp_path, "--adv", tmp_path / "a.npz", "--epsilon", 0.1, name="again.json"
    )
    for name in ("fwa-5", "deepfool-5"):
        assert again["attacks"][name]["outcomes"] == first["attacks"][name]["outcomes"]
    stored = np.load(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", labels=stored["labels"], mine=stored["fwa-5"])
    _, mine = evaluate(
        chain, tmp_path, "--adv", tmp_path / "b.npz", "--epsilon", 1e-5, name="mine.json"
    )
    assert mine["attacks"]["mine"]["kind"] == "given"
    assert (
        mine["attacks"]["mine"]["correct"]
        == first["attacks"]["none"]["correct"]
        > first["attacks"]["fwa-5"]["correct"]
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


def test_a_factory(chain, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "import models, torch\ndef network():\n    return models.build('resnet18', width=8)\n"
        "def nothing():\n    return 3\n"
        "def wants(width):\n    return 3\n"
        "def fails():\n    raise KeyError('w')\n"
        "def detached():\n    return torch.nn.Sequential(models.build('resnet18', width=8), Detached())\n"
        "class Detached(torch.nn.Module):\n    def forward(self, x):\n        return x.detach()\n"
        "def two():\n    return models.build('resnet18', num_classes=2, width=8)\n"
        "class Pair(torch.nn.Module):\n    def forward(self, x):\n        return x, x\n"
        "class Breaks(torch.nn.Module):\n    def forward(self, x):\n        return x @ x[:1, :1, :1]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    result = succeed(
        "test_comparison.py",
        "--factory",
        "mine:network",
        "--dataset",
        "digits",
        "--limit-test",
        20,
        "--attacks",
        "none,fgsm",
    )
    assert "mine:network" in result.out
    result = succeed(
        "test_comparison.py",
        "--factory",
        "mine:detached",
        "--dataset",
        "digits",
        "--limit-test",
        20,
        "--attacks",
        "none",
    )
    assert "exactly zero for 20 of" in result.out
    (tmp_path / "broken.py").write_text("def network(:\n")
    for name in (
        "mine:nothing",
        "mine:absent",
        "nowhere:network",
        "mine",
        "mine:wants",
        "mine:fails",
        "mine:two",
        "mine:Pair",
        "mine:Breaks",
        "broken:network",
    ):
        refused = run_script("test_comparison.py", "--factory", name, "--dataset", "digits")
        assert (
            refused.status == 2
            and f"--factory {name}" in refused.err
            and refused.err.count("\n") == 1
        )


def test_a_factory_that_returns_other_weights_is_another_network(tmp_path, monkeypatch):
    (tmp_path / "changing.py").write_text(
        "import models, torch\nseed = 0\ndef network():\n    torch.manual_seed(seed)\n"
        "    return models.build('resnet18', width=8)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    words = [
        "test_comparison.py",
        "--factory",
        "changing:network",
        "--dataset",
        "digits",
        "--limit-test",
        10,
        "--output",
        tmp_path / "r.json",
    ]
    succeed(*words, "--attacks", "none")
    succeed(*words, "--attacks", "none,fgsm")
    import changing

    changing.seed = 1
    refused = run_script(*words, "--attacks", "none,fgsm")
    assert refused.status == 2 and "model_hash" in refused.err


@pytest.mark.parametrize(
    "words, named",
    [
        (["--attacks", "linf,fgsm"], "linf, l2 or released alone"),
        (["--attacks", "l2"], "give --norm l2"),
        (["--epsilon", 8], "write 8/255"),
        (["--attacks", "pgd-3", "--sweep", "0,4"], "write 4/255"),
        (["--attacks", "deepfool,sta", "--sweep", "0,0.1"], "give an attack that does"),
        (["--attacks", "released", "--step-size", 0.1], "--step-size"),
        (["--adv", "a.npz", "--attacks", "fgsm"], "leave --attacks"),
        (["--adv", "a.npz", "--gallery"], "--gallery"),
    ],
)
def test_what_cannot_be_meant_is_refused(words, named, chain, tmp_path):
    refused = run_script(
        "test_comparison.py",
        "--model-dir",
        chain / "standard",
        "--limit-test",
        10,
        "--output",
        tmp_path / "r.json",
        *words,
    )
    assert refused.status == 2 and named in refused.err and refused.err.count("\n") == 1, (
        refused.err
    )
    assert not list(tmp_path.iterdir())


def test_a_surrogate_without_architecture_is_told_its_own_option(chain, tmp_path):
    torch.save(models.build("resnet18", width=8).state_dict(), tmp_path / "plain.pth")
    refused = run_script(
        "test_comparison.py",
        "--model-dir",
        chain / "standard",
        "--surrogate",
        tmp_path / "plain.pth",
        "--output",
        tmp_path / "r.json",
    )
    assert refused.status == 2 and "--surrogate-arch" in refused.err


def test_the_hash_of_a_network_is_that_of_its_values():
    one, other = nn.Linear(3, 2), nn.Linear(3, 2)
    other.load_state_dict(one.state_dict())
    assert state_hash(one) == state_hash(other)
    flat = torch.cat([one.weight.detach().flatten(), one.bias.detach()])
    other.weight.data, other.bias.data = flat[:6].view(2, 3), flat[6:]  # views of one tensor
    assert state_hash(one) == state_hash(other)
    other.bias.data += 1
    assert state_hash(one) != state_hash(other)


def test_that_nothing_is_kept_is_said(chain):
    result = succeed(
        "test_comparison.py",
        "--model",
        chain / "standard/best_model.pth",
        "--limit-test",
        10,
        "--attacks",
        "none",
    )
    assert "give --output" in result.out and "seed 1" in result.out


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


@pytest.mark.parametrize(
    "correct, n, low, high",
    [(0, 10, 0, 27.753), (5, 10, 23.659, 76.341), (10, 10, 72.247, 100), (81, 263, 25.526, 36.621)],
)
def test_wilson_interval(correct, n, low, high):
    """The ends p solve |p - share| = z sqrt(p (1 - p) / n)."""
    found = wilson(correct, n)
    assert found == pytest.approx((low, high), abs=0.02)
    for p in (found[0] / 100, found[1] / 100):
        if 0 < p < 1:
            assert abs(p - correct / n) == pytest.approx(
                1.959964 * math.sqrt(p * (1 - p) / n), rel=1e-9, abs=1e-7
            )


def test_passes_are_counted():
    network = Counted(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), CPU)
    x, y = torch.rand(5, 3, 2, 2), torch.tensor([0, 1, 2, 0, 1])
    registry.attack("bim-4", network, x, y)
    assert (network.forwards, network.backwards) == (20, 20)


class Suspect(nn.Module):
    """A linear network with one flaw."""

    def __init__(self, flaw):
        super().__init__()
        self.linear, self.flaw = nn.Linear(12, 3), flaw

    def forward(self, x):
        logits = self.linear(x.flatten(1))
        return {
            "probabilities": lambda: logits.softmax(1),
            "randomness": lambda: logits + 0.1 * torch.randn_like(logits),
            "zero": lambda: logits.sign(),
            "explodes": lambda: 1e9 * logits,
            "nothing": lambda: logits,
            "one zero": lambda: torch.cat([logits[:1].sign(), logits[1:]]),
            "no numbers": lambda: logits / 0,
            "adapts": lambda: logits + self.adapted(x),
        }[self.flaw]()

    def adapted(self, x):
        with torch.enable_grad():
            leaf = x.detach().requires_grad_(True)
            self.linear(leaf.flatten(1)).sum().backward(inputs=[leaf])
        return leaf.grad.mean()


@pytest.mark.parametrize(
    "flaw, named",
    [
        ("probabilities", "probabilities"),
        ("randomness", "differ"),
        ("zero", "exactly zero"),
        ("explodes", "explodes"),
        ("one zero", "zero for 1 of"),
        ("no numbers", "not finite"),
        ("adapts", "takes gradients"),
        ("nothing", None),
    ],
)
def test_what_makes_an_evaluation_doubtful_is_said(flaw, named):
    torch.manual_seed(0)
    images, labels = torch.randint(0, 256, (40, 3, 2, 2), dtype=torch.uint8), torch.arange(40) % 3
    found = checks.of_network(
        Evaluation(Suspect(flaw), None, images, labels, ThreatModel("linf", 0.1), CPU, 16, 1)
    )
    # a loss that explodes for some images is saturated, its gradient zero, for others
    assert (
        any(named in text for text in found) and len(found) <= 1 + (flaw == "explodes")
        if named
        else not found
    ), found


def test_a_weak_attack_that_wins_is_said():
    rows = {
        name: {"accuracy": accuracy, "correct": 10 * accuracy, "n": 1000}
        for name, accuracy in (("pgd-40", 40), ("fgsm", 30), ("square", 39.5), ("cw-20", 0))
    }
    found = checks.of_order(rows)
    assert (
        list(found) == ["fgsm"] and len(found["fgsm"]) == 1 and found["fgsm"][0].startswith("fgsm")
    )
    assert checks.of_order(rows | {"fgsm": rows["fgsm"] | {"accuracy": 41, "correct": 410}}) == {}
    assert (
        checks.of_order({"bim-3" if name == "pgd-40" else name: row for name, row in rows.items()})
        == {}
    )  # too few steps to be beaten


def test_square_as_autoattack_s_last_part_is_a_weak_attack_too():
    row = {
        "accuracy": 10.0,
        "correct": 10,
        "n": 100,
        "parts": {"apgd-ce": 40, "apgd-t": 0, "fab-t": 0, "square": 2},
    }
    assert "2 of 100 images fall to square" in checks.of_order({"aa": row})["aa"][0]
    assert checks.of_order({"aa": row | {"parts": row["parts"] | {"square": 1}}}) == {}


def test_outputs_that_are_no_numbers_are_wrong():
    images, labels = (
        torch.randint(0, 256, (40, 3, 2, 2), dtype=torch.uint8),
        torch.zeros(40, dtype=torch.long),
    )
    row = Evaluation(
        Suspect("no numbers"), None, images, labels, ThreatModel("linf", 0.1), CPU, 16, 1
    ).run(registry.parse("none"))
    assert row["outcomes"] == 40 * "w"


@pytest.mark.parametrize("name", ["pgd-20", "bim-20", "mim-20", "tidim-20", "fwa-2"])
def test_an_attack_that_has_not_converged_is_said(name, chain, tmp_path):
    """With a step too short, and not with one that is long enough."""
    result, _ = evaluate(
        chain, tmp_path, "--attacks", name, "--step-size", "0.0005", "--epsilon", 0.1
    )
    assert f"{name}: " in result.out and "use more steps" in result.out
    if name in ("pgd-20", "bim-20"):
        result, _ = evaluate(
            chain,
            tmp_path,
            "--attacks",
            name,
            "--step-size",
            "0.03",
            "--epsilon",
            0.1,
            name="long.json",
        )
        assert "use more steps" not in result.out
