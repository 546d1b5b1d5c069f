"""Warnings: what makes an evaluation doubtful is said."""

import pytest
import torch
from conftest import evaluate
from torch import nn

from utils.attacks import registry
from utils.devices import Compute
from utils.evaluation import checks
from utils.evaluation.counting import Evaluation
from utils.evaluation.threat import ThreatModel

CPU = Compute(torch.device("cpu"), "fp32")


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
