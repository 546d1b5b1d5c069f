"""Figures that the documents state of one seed follow from the stored outcomes of each image."""
import json

import pytest
from conftest import ROOT

from reproduction.intervals import of_a_difference, over_images

TABLE1 = ROOT / "results/table1-small"
README = " ".join((ROOT / "README.md").read_text().split())
PAGE = " ".join((TABLE1 / "README.md").read_text().split())
COLUMNS = ["none", "pgd-40", "fwa-40"]


def outcomes(network: str, attack: str) -> list[bool]:
    """Read which of the 1,000 test images the network of seed 1 classifies right."""
    rows = json.loads((TABLE1 / network / "white.json").read_text())["attacks"]
    return [mark == "r" for mark in rows[attack]["standing"]]


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
        text = written(difference, low, high, 1 if low * high < 0 or min(abs(low), abs(high)) > 0.05 else 2)
        cells.append(f"**{text}**" if low * high > 0 else text)
    assert f"| ({ablation}) minus {said} | {' | '.join(cells)} |" in PAGE


def test_the_readme_names_each_ablation_that_differs():
    """And says that none does under PGD-40."""
    differs = set()
    for ablation in ("i", "ii", "iii"):
        for other in ("namid", "standard"):
            for attack in COLUMNS:
                _, low, high = paired(f"namid_{ablation}", other, attack)
                if low > 0 or high < 0:
                    differs.add((ablation, other, attack))
    assert differs == {("i", "namid", "none"), ("iii", "namid", "none"), ("i", "standard", "none"),
                       ("iii", "standard", "none"), ("ii", "namid", "fwa-40")}
    assert "cannot be told apart from NAMID or from standard AT under PGD-40" in README
    assert "(i) lies 3.0 points below NAMID (0.9 to 5.0) and (iii) 2.6 (0.8 to 4.4)" in README
    assert "below standard AT, by 3.1 (1.2 to 5.0) and 2.7 (0.5 to 4.9)" in README
    assert "(ii) lies 1.4 points above NAMID (0.03 to 2.76)" in README


def test_what_is_said_of_namid_t_is_in_its_outcomes_and_in_the_papers_table():
    difference, low, high = paired("namid_t", "trades", "none")
    assert f"by {-difference:.1f} ({-high:.1f} to {-low:.1f}) without an attack" in README
    printed = json.loads((ROOT / "reproduction/paper.json").read_text())["white_box_linf"]["cifar10"]
    gap = printed["namid_t"]["none"][0] - printed["trades"]["none"][0]
    assert round(gap, 2) == -0.03 and "prints a difference of 0.03 points with the same sign" in README
