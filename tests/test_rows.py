"""The rows of a results file: which images they are about, how they were made, and what is doubtful about each."""

import json

import numpy as np
import pytest
import torch
from conftest import run_script, succeed

import data
import models
from utils.attacks import registry
from utils.attacks.projected_gradient import to_levels
from utils.devices import Compute, mix

CPU = Compute(torch.device("cpu"), "fp32")


def results(path) -> dict:
    return json.loads(path.read_text())


def evaluate(chain, tmp_path, *words, name="results.json"):
    result = succeed(
        "test_comparison.py",
        "--model-dir",
        chain / "standard",
        "--limit-test",
        40,
        "--batch-size",
        40,
        "--output",
        tmp_path / name,
        *words,
    )
    return result, results(tmp_path / name)


@pytest.fixture(scope="module")
def images(chain):
    """The network as the script prepares it, the first 40 test images that it gets right, their labels, and which they are."""
    model, digits = (
        CPU.prepare(models.load(chain / "standard/best_model.pth")),
        data.load("digits", limit_test=40),
    )
    x, y = (
        (digits.test_images.float() / 255).contiguous(memory_format=torch.channels_last),
        digits.test_labels,
    )
    right = model(x).argmax(1) == y
    return model, x[right], y[right], right


def test_saved_images_are_those_of_the_attack_run_in_full(chain, tmp_path, images):
    """Not the first iterates that fool the network, which are the same for any number of steps."""
    _, said = evaluate(
        chain,
        tmp_path,
        "--attacks",
        "pgd-10,pgd-40,fwa-4,fwa-8,tidim-4",
        "--save-adv",
        tmp_path / "a.npz",
    )
    saved, (model, x, y, right) = np.load(tmp_path / "a.npz"), images
    for name in ("pgd-10", "pgd-40", "fwa-4", "fwa-8", "tidim-4"):
        more = {"index": right.nonzero()[:, 0]} if name == "tidim-4" else {}
        expected = registry.attack(name, model, x, y, "linf", 0.15, mix(1, 0) % 2**31, **more)
        torch.testing.assert_close(
            torch.from_numpy(saved[name])[right], expected, rtol=0, atol=1e-6
        )
        assert not said["attacks"][name]["stopped_early"]
    for name, other in (("pgd-10", "pgd-40"), ("fwa-4", "fwa-8")):
        assert (saved[name] != saved[other]).any(axis=(1, 2, 3))[right].mean() > 0.5


def test_a_file_of_images_says_how_they_were_made(chain, tmp_path):
    evaluate(
        chain,
        tmp_path,
        "--attacks",
        "pgd-2",
        "--step-size",
        "0.1",
        "--save-adv",
        tmp_path / "a.npz",
    )
    about = json.loads(str(np.load(tmp_path / "a.npz", allow_pickle=False)["about"]))
    assert (
        about["all_steps"]
        and about["attacks"]["pgd-2"]["step_size"] == 0.1
        and about["epsilon"] == 0.15
    )
    assert about["model_hash"] and about["data_fingerprint"] and about["seed"] == 1
    result, _ = evaluate(chain, tmp_path, "--adv", tmp_path / "a.npz", name="again.json")
    assert "does not say" not in result.out
    stored = {name: array for name, array in np.load(tmp_path / "a.npz").items() if name != "about"}
    np.savez(tmp_path / "b.npz", **stored)
    result, said = evaluate(chain, tmp_path, "--adv", tmp_path / "b.npz", name="old.json")
    assert "warning: pgd-2: the file does not say that the attack ran all its steps" in result.out
    assert "does not say" in said["attacks"]["pgd-2"]["warnings"][0]
    np.savez(tmp_path / "c.npz", **stored, about="[1]")
    refused = run_script(
        "test_comparison.py",
        "--model-dir",
        chain / "standard",
        "--limit-test",
        40,
        "--adv",
        tmp_path / "c.npz",
    )
    assert refused.status == 2 and "'about'" in refused.err and refused.err.count("\n") == 1


def test_images_that_stopped_early_are_made_again_for_a_file(chain, tmp_path):
    _, first = evaluate(chain, tmp_path, "--attacks", "pgd-3")
    assert first["attacks"]["pgd-3"]["stopped_early"]
    result, said = evaluate(chain, tmp_path, "--attacks", "pgd-3", "--save-adv", tmp_path / "a.npz")
    assert (
        "pgd-3: its images stopped at the first that fooled the network; the row is made again"
        in result.out
    )
    assert not said["attacks"]["pgd-3"]["stopped_early"]


@pytest.mark.parametrize("name", ["bim", "mim-10", "fwa-10", "tidim-10"])
def test_rounding_leaves_no_more_images_robust_than_all_steps_do(name, chain, tmp_path):
    """On 300 images and more: an attack that stops at a success which rounding undoes would leave more."""
    succeed(
        "test_comparison.py",
        "--model-dir",
        chain / "standard",
        "--limit-test",
        320,
        "--batch-size",
        320,
        "--attacks",
        name,
        "--epsilon",
        "0.09",
        "--round-uint8",
        "--output",
        tmp_path / "r.json",
    )
    row = results(tmp_path / "r.json")["attacks"][name]
    model, digits = (
        CPU.prepare(models.load(chain / "standard/best_model.pth")),
        data.load("digits", limit_test=320),
    )
    x, y = (
        (digits.test_images.float() / 255).contiguous(memory_format=torch.channels_last),
        digits.test_labels,
    )
    right = model(x).argmax(1) == y
    more = {"index": right.nonzero()[:, 0]} if name == "tidim-10" else {}
    full = registry.attack(name, model, x[right], y[right], "linf", 0.09, mix(1, 0) % 2**31, **more)
    robust = int((model(to_levels(x[right], full, "linf", 0.09)).argmax(1) == y[right]).sum())
    assert row["correct"] <= robust and not row["stopped_early"]


class HairThin(torch.nn.Module):
    """Says 1 where the first pixel differs from `at` by less than a grey level, and 0 elsewhere, with slopes towards it."""

    def __init__(self, at: float, least: float):
        super().__init__()
        self.at, self.least = torch.nn.Parameter(torch.tensor(at)), least

    def forward(self, x):
        first = x[:, 0, 0, 0]
        fooled = torch.maximum(0.2 / 255 - (first - self.at).abs(), first - self.least)
        return torch.stack([torch.zeros_like(fooled), 100 * fooled], 1)


def test_restarts_go_on_where_rounding_undoes_a_success():
    """The first start ends at a success between two grey levels; of twenty others one finds what survives rounding."""
    x, y = torch.full((1, 1, 1, 1), 100 / 255), torch.zeros(1, dtype=torch.long)
    model = HairThin(100.5 / 255, 104 / 255)
    settings = {"epsilon": 8 / 255, "step_size": 0.1 / 255, "seed": 3}
    found = {
        rounded: registry.attack("pgd-5x21", model, x, y, rounded=rounded, **settings)
        for rounded in (False, True)
    }
    assert (
        model(found[False]).argmax(1) == 1
        and model(to_levels(x, found[False], "linf", 8 / 255)).argmax(1) == 0
    )
    assert model(to_levels(x, found[True], "linf", 8 / 255)).argmax(1) == 1


def test_a_row_says_how_it_was_made_and_what_is_doubtful(chain, tmp_path):
    result, said = evaluate(
        chain, tmp_path, "--attacks", "none,fgsm,pgd-20", "--step-size", "0.0005"
    )
    rows = said["attacks"]
    assert rows["none"]["settings"] == {} and rows["pgd-20"]["settings"] == {
        "norm": "linf",
        "epsilon": 0.15,
        "steps": 20,
        "step_size": 0.0005,
        "restarts": 1,
    }
    assert (
        rows["none"]["perturbed"] == 0 and rows["fgsm"]["perturbed"] == rows["fgsm"]["attacked"] > 0
    )
    for row in rows.values():
        assert row["made"].keys() == {"date", "command", "git_commit", "hardware", "versions"}
        assert row["made"]["versions"].keys() >= {
            "torch",
            "torchvision",
            "numpy",
            "pyautoattack",
            "advertorch",
        }
    assert (
        any("use more steps" in text for text in rows["pgd-20"]["warnings"])
        and rows["none"]["warnings"] == []
    )
    assert rows["fgsm"]["warnings"][0].startswith("fgsm, a one-step attack, leaves")
    assert set(said["warnings"]) == {text for row in rows.values() for text in row["warnings"]}
    assert all(f"warning: {text}" in result.out for text in said["warnings"])


def test_an_extended_file_keeps_what_its_rows_say(chain, tmp_path):
    """Warnings, worst case over all rows, and the date and commit of each."""
    _, first = evaluate(chain, tmp_path, "--attacks", "pgd-20", "--step-size", "0.0005")
    assert first["worst_case"] is None
    first["attacks"]["pgd-20"]["made"] |= {
        "date": "2020-01-01 00:00:00 +0000",
        "git_commit": "before",
        "hardware": "an abacus",
    }
    (tmp_path / "results.json").write_text(json.dumps(first))
    _, more = evaluate(chain, tmp_path, "--attacks", "none,bim-3", "--step-size", "0.0005")
    assert more["attacks"]["pgd-20"] == first["attacks"]["pgd-20"]
    assert set(more["worst_case"]["attacks"]) == {"pgd-20", "none", "bim-3"}
    outcomes = zip(*(row["outcomes"] for row in more["attacks"].values()))
    assert more["worst_case"]["correct"] == sum(set(image) <= set("ro") for image in outcomes)
    assert set(first["warnings"]) <= set(more["warnings"])
    assert more["attacks"]["none"]["made"]["hardware"] != "an abacus"


def begun(row: dict, outcomes: str, name: str = "outcomes") -> None:
    """Give a row other outcomes, without the counts that would not fit them."""
    row[name] = outcomes
    for count in ("n", "correct", "accuracy", "interval"):
        row.pop(count, None)


def test_a_file_from_before_rows_had_metadata_is_read(chain, tmp_path):
    _, said = evaluate(chain, tmp_path, "--attacks", "none,fgsm,tidim-2,pgd-2")
    for row in said["attacks"].values():
        row["standing"] = row.pop("outcomes")
        for name in ("made", "settings", "warnings", "perturbed", "stopped_early"):
            del row[name]
    said |= {
        "warnings": ["the outputs are odd", "fgsm: is weak", "pgd-2, which is weak, too"],
        "date": "2020-01-01 00:00:00 +0000",
    }
    begun(said["attacks"]["pgd-2"], said["attacks"]["pgd-2"]["standing"][:20], "standing")
    (tmp_path / "results.json").write_text(json.dumps(said))
    result, again = evaluate(chain, tmp_path, "--attacks", "none,bim-2,tidim-2")
    assert not any("standing" in row for row in again["attacks"].values())
    assert again["attacks"]["fgsm"]["outcomes"] == said["attacks"]["fgsm"]["standing"]
    assert again["attacks"]["pgd-2"]["outcomes"] == said["attacks"]["pgd-2"]["standing"]
    assert again["attacks"]["fgsm"]["warnings"][:2] == ["the outputs are odd", "fgsm: is weak"]
    assert again["attacks"]["pgd-2"]["warnings"] == [
        "the outputs are odd",
        "pgd-2, which is weak, too",
    ]
    assert (
        again["attacks"]["fgsm"]["made"]["date"]
        == "2020-01-01 00:00:00 +0000"
        == again["attacks"]["none"]["made"]["date"]
    )
    assert "tidim-2: its settings are not known; the row is made again" in result.out
    assert again["attacks"]["tidim-2"]["settings"]["sigma"] == 7 / 3


def test_a_row_made_with_other_settings_is_made_again(chain, tmp_path):
    _, said = evaluate(chain, tmp_path, "--attacks", "tidim-2,pgd-2")
    said["attacks"]["tidim-2"]["settings"]["sigma"] = 3.0
    begun(said["attacks"]["tidim-2"], 40 * "r")
    (tmp_path / "results.json").write_text(json.dumps(said))
    result, again = evaluate(chain, tmp_path, "--attacks", "tidim-2,pgd-2")
    assert (
        "tidim-2: it was made with other settings: sigma 3.0 (now 2.3333333333333335); the row is made again"
        in result.out
    )
    assert (
        again["attacks"]["tidim-2"]["outcomes"] != 40 * "r"
        and again["attacks"]["pgd-2"] == said["attacks"]["pgd-2"]
    )


def test_a_row_resumed_by_another_commit_says_so(chain, tmp_path):
    words = ["--attacks", "pgd-2", "--batch-size", 20]
    _, said = evaluate(chain, tmp_path, *words)
    row = said["attacks"]["pgd-2"]
    begun(row, row["outcomes"][:20])
    row["made"]["git_commit"] = "before"
    (tmp_path / "results.json").write_text(json.dumps(said))
    _, again = evaluate(chain, tmp_path, *words)
    row = again["attacks"]["pgd-2"]
    assert row["made"]["git_commit"] == "before" and [
        each["git_commit"] for each in row["resumed"]
    ] != ["before"]


def test_black_box_images_that_came_back_unchanged_are_counted(chain, tmp_path):
    """The surrogate errs on some already, or is not fooled: the minimum-norm attack returns the natural image there."""
    words = ["--norm", "l2", "--epsilon", 1, "--attacks", "none,cw-3,fgsm"]
    result, said = evaluate(
        chain, tmp_path, *words, "--surrogate", chain / "namid/target_model.pth"
    )
    row = said["attacks"]["cw-3"]
    assert 0 <= row["perturbed"] < row["attacked"]
    text = f"cw-3: {row['attacked'] - row['perturbed']} of {row['attacked']} attacked images came back unchanged"
    assert any(each.startswith(text) for each in row["warnings"]) and text in result.out
    assert (
        said["attacks"]["fgsm"]["perturbed"] == said["attacks"]["fgsm"]["attacked"]
        and said["attacks"]["fgsm"]["warnings"] == []
    )
    result, _ = evaluate(chain, tmp_path, *words, name="white.json")
    assert "came back unchanged" not in result.out


def test_settings_are_those_that_the_attack_runs_with():
    assert registry.settings_of("none", "linf", 0.1) == {}
    assert registry.settings_of("fgsm", "linf", 0.1) == {
        "norm": "linf",
        "epsilon": 0.1,
        "loss": "ce",
    }
    assert registry.settings_of("pgd-40x5", "l2", 0.5) == {
        "norm": "l2",
        "epsilon": 0.5,
        "steps": 40,
        "step_size": 0.125,
        "restarts": 5,
    }
    assert registry.settings_of("tidim", "linf", 0.1)["sigma"] == 7 / 3
    assert registry.settings_of("aa", "linf", 0.1) == {
        "norm": "linf",
        "epsilon": 0.1,
        "queries": 5000,
    }
    assert registry.settings_of("ddn-20", "l2", 0.5, levels=16) == {
        "steps": 20,
        "gamma": 0.05,
        "initial_norm": 1.0,
        "levels": 16,
    }
    for norm, rows in registry.RELEASED.items():
        for name, extra in rows.items():
            assert registry.settings_of(name, norm, 0.1, **extra).items() >= extra.items()


def test_tidim_smooths_with_the_published_kernel():
    """The gradient of one pixel spreads as gkern(15, 3) does: a Gaussian over 15 points from -3 to 3 deviations."""
    from utils.attacks import iterative

    class OnePixel(torch.nn.Module):
        def forward(self, x):
            return torch.stack([x[:, 0, 20, 20], -x[:, 0, 20, 20]], 1)

    seen = []
    true = iterative.projected_gradient.steepest
    iterative.projected_gradient.steepest = lambda direction, norm: (
        seen.append(direction) or true(direction, norm)
    )
    try:
        registry.attack(
            "tidim-1",
            OnePixel(),
            torch.full((1, 3, 41, 41), 0.5),
            torch.zeros(1, dtype=torch.long),
            probability=0.0,
        )
    finally:
        iterative.projected_gradient.steepest = true
    row = seen[0][0, 0, 20, 13:28].abs()
    expected = torch.exp(-0.5 * torch.linspace(-3, 3, 15) ** 2)
    torch.testing.assert_close(row / row.sum(), expected / expected.sum(), rtol=1e-5, atol=1e-7)
