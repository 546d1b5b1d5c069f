"""Figures and statements of the documents follow from stored outcomes, or from sums over all cases."""

import json

import numpy as np
import pytest
from conftest import ROOT

from reproduction.intervals import of_a_difference, over_images

TABLE1 = ROOT / "results/table1-small"
RESULTS = " ".join((ROOT / "docs/results.md").read_text().split())
PAGE = " ".join((TABLE1 / "README.md").read_text().split())
COLUMNS = ["none", "pgd-40", "fwa-40"]
OUTCOMES = json.loads((TABLE1 / "outcomes.json").read_text())


def outcomes(network: str, attack: str) -> list[bool]:
    """Read which of the 1,000 test images the network of seed 1 classifies right."""
    return [mark == "r" for mark in OUTCOMES[f"{network}-1"][attack]["outcomes"]]


def paired(first: str, second: str, attack: str) -> tuple[float, float, float]:
    """Compute the difference of two networks in points and both ends of its interval."""
    pair = outcomes(first, attack), outcomes(second, attack)
    return of_a_difference([pair])[0], *over_images(*pair)


def written(difference: float, low: float, high: float, digits: int = 1) -> str:
    return f"{difference:+.1f} ({low:+.{digits}f} to {high:+.{digits}f})"


@pytest.mark.parametrize("other, said", [("namid", "NAMID"), ("standard", "standard AT")])
@pytest.mark.parametrize("ablation", ["i", "ii", "iii"])
def test_the_ablations_rows_are_paired_intervals_of_the_outcomes(ablation, other, said):
    cells = []
    for attack in COLUMNS:
        difference, low, high = paired(f"namid_{ablation}", other, attack)
        text = written(
            difference, low, high, 1 if low * high < 0 or min(abs(low), abs(high)) > 0.05 else 2
        )
        cells.append(f"**{text}**" if low * high > 0 else text)
    assert f"| ({ablation}) minus {said} | {' | '.join(cells)} |" in PAGE


def test_the_results_page_names_each_ablation_that_differs():
    """And says that none does under PGD-40."""
    differs = set()
    for ablation in ("i", "ii", "iii"):
        for other in ("namid", "standard"):
            for attack in COLUMNS:
                _, low, high = paired(f"namid_{ablation}", other, attack)
                if low > 0 or high < 0:
                    differs.add((ablation, other, attack))
    assert differs == {
        ("i", "namid", "none"),
        ("iii", "namid", "none"),
        ("i", "standard", "none"),
        ("iii", "standard", "none"),
        ("ii", "namid", "fwa-40"),
    }
    assert "cannot be told apart from NAMID or from standard AT under PGD-40" in RESULTS
    assert "(i) lies 3.0 points below NAMID (0.9 to 5.0) and (iii) 2.6 (0.8 to 4.4)" in RESULTS
    assert "lie below standard AT, by 3.1 (1.2 to 5.0) and 2.7 (0.5 to 4.9)" in RESULTS
    assert "(ii) lies 1.4 points above NAMID (0.03 to 2.76)" in RESULTS


def test_what_is_said_of_namid_t_is_in_its_outcomes_and_in_the_papers_table():
    difference, low, high = paired("namid_t", "trades", "none")
    assert f"by {-difference:.1f} ({-high:.1f} to {-low:.1f}) without an attack" in RESULTS
    printed = json.loads((ROOT / "reproduction/paper.json").read_text())["white_box_linf"][
        "cifar10"
    ]
    gap = printed["namid_t"]["none"][0] - printed["trades"]["none"][0]
    assert (
        round(gap, 2) == -0.03
        and "prints a difference of 0.03 points with the same sign" in RESULTS
    )


def entropy(p: np.ndarray) -> float:
    """Compute the entropy of a table of probabilities in nats."""
    p = p[p > 0]
    return -float((p * np.log(p)).sum())


@pytest.mark.parametrize("network", [False, True])
def test_theorem_1_holds_for_any_joint_distribution(network):
    """As docs/analyze_MI.md states it, summed over tables of p(x, n, z) with x~ = x + n. network: z depends
    on x~ alone, and both conditional entropies are equal; else H(z|x,n) <= H(z|x~)."""
    random = np.random.default_rng(0)
    for _ in range(50):
        a, b, c = random.integers(2, 6, 3)
        p = random.dirichlet(np.full(a * b * c, 0.5)).reshape(a, b, c)
        if network:
            given = random.dirichlet(np.ones(c), a + b - 1)
            p = p.sum(2, keepdims=True) * given[np.add.outer(np.arange(a), np.arange(b))]
        moved = np.zeros((a + b - 1, c))
        for i in range(a):
            moved[i : i + b] += p[i]
        x, n, z = (entropy(p.sum(axes)) for axes in ((1, 2), (0, 2), (0, 1)))
        xn, xz, nz, xnz = entropy(p.sum(2)), entropy(p.sum(1)), entropy(p.sum(0)), entropy(p)
        given_both, given_moved = xnz - xn, entropy(moved) - entropy(moved.sum(1))
        triple = (x + n - xn) - (xz + nz - xnz - z)  # I(x;n) - I(x;n|z)
        right = (x + z - xz) + (n + z - nz) - triple + given_both - given_moved
        assert z - given_moved == pytest.approx(right, abs=1e-12)
        if network:
            assert given_both == pytest.approx(given_moved, abs=1e-12)
        else:
            assert given_both <= given_moved + 1e-12
