"""The registry of attacks: names, what it says of each, choices, the columns of the paper."""

import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import InputError
from utils.attacks.registry import FAMILIES, choices, parse


def test_registry_is_read_without_torch():
    code = "import sys, utils.attacks.registry as s; s.parse('pgd-40x5'); print({'torch', 'numpy'} & set(sys.modules))"
    root = Path(__file__).resolve().parents[3]
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    ).stdout
    assert out.strip() == "set()"


@pytest.mark.parametrize(
    "name, spelt, steps, restarts",
    [
        ("none", "none", None, 1),
        ("fgsm", "fgsm", None, 1),
        ("pgd", "pgd-40", 40, 1),
        ("pgd-7", "pgd-7", 7, 1),
        (" PGD-40x5 ", "pgd-40x5", 40, 5),
        ("pgd-40x1", "pgd-40", 40, 1),
        ("pgd-margin", "pgd-margin-100", 100, 1),
        ("pgd-margin-20x3", "pgd-margin-20x3", 20, 3),
        ("tidim-40", "tidim", 40, 1),
        ("tidim-9", "tidim-9", 9, 1),
        ("bim", "bim", 10, 1),
        ("cw", "cw-20", 20, 1),
        ("ddn-20", "ddn-20", 20, 1),
        ("fwa", "fwa-40", 40, 1),
        ("fwa-fw-40", "fwa-fw-40", 40, 1),
        ("sta", "sta", 100, 1),
        ("apgd-ce", "apgd-ce", None, 1),
        ("fab-t", "fab-t", None, 1),
    ],
)
def test_parse(name, spelt, steps, restarts):
    spec = parse(name)
    assert (spec.name, spec.steps, spec.restarts) == (spelt, steps, restarts)
    assert parse(spec.name) == spec


def test_parse_says_what_an_attack_is():
    assert parse("fgsm").one_step and not parse("pgd-40").one_step
    assert parse("square").black_box and not parse("aa").black_box
    assert {parse(name).kind for name in FAMILIES} == {
        "none",
        "bounded",
        "minimum-norm",
        "transport",
        "spatial",
    }
    assert [name for name in FAMILIES if parse(name).kind == "minimum-norm"] == [
        "deepfool",
        "cw",
        "ddn",
    ]
    assert parse("cw-20").norms == ("l2",) and parse("fwa-40").norms == ("linf",)


@pytest.mark.parametrize(
    "name, norm, says",
    [
        ("pgf-40", None, "pgd-N, pgd-NxSTARTS"),
        ("", None, "unknown"),
        ("pgd-0", None, "unknown"),
        ("pgd-4.5", None, "unknown"),
        ("fgsm-3", None, "write fgsm"),
        ("aa-100", None, "write aa"),
        ("bim-10x2", None, "write bim-10"),
        ("cw-20", "linf", "exists for --norm l2, not for linf"),
        ("fwa-40", "l2", "exists for --norm linf, not for l2"),
    ],
)
def test_parse_refuses(name, norm, says):
    with pytest.raises(InputError, match=says) as caught:
        parse(name, norm)
    assert "\n" not in str(caught.value) and repr(name) in str(caught.value)


def test_choices_are_those_of_the_norm():
    assert "cw-N" in choices() and "cw-N" not in choices("linf") and "fwa-N" not in choices("l2")
