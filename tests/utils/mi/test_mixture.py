"""The Gaussian mixture's closed forms against printed numbers, draws, grids and random cases."""

import math

import numpy
import pytest
from scipy.optimize import brentq
from scipy.special import ndtr

from utils.mi.caps import binary_entropy, fano_cap, printed_cap
from utils.mi.mixture import (
    closed_form,
    dual_norm,
    of_classifier,
    robust_classifier,
    worst_shift,
)

LOG2 = math.log(2)
# b: the values at a = s = 1, each to six digits
KNOWN = {
    0.5: {
        **{"P": 0.241730, "RV": 0.029508, "I_worst": 0.663639, "risk": 0.158655},
        **{"adv_risk": 0.308538, "adversarial_gap": 0.149882},
        **{"rv_lower": 0.011275, "rv_upper": 0.045628},
    },
    1.0: {"RV": 0.118657, "I_worst": 0.574490},
}
NORMS = (1.5, 2.0, 3.0, math.inf)


@pytest.mark.parametrize("shift", KNOWN)
def test_known_values(shift):
    found = closed_form(1, 1, shift)
    assert found["I"] == pytest.approx(LOG2, abs=1e-12)
    for name, value in KNOWN[shift].items():
        assert found[name] == pytest.approx(value, abs=1e-6), name


def random_cases(count, seed=0):
    """(w, theta, S, p, epsilon) of 2 to 5 dimensions, the direction w of length 1."""
    random = numpy.random.default_rng(seed)
    for _ in range(count):
        d = random.integers(2, 6)
        w, theta = random.normal(size=(2, d))
        root = random.normal(size=(d, d)) / math.sqrt(d)
        p = NORMS[random.integers(len(NORMS))]
        covariance = root @ root.T + 0.1 * numpy.eye(d)
        yield w / numpy.linalg.norm(w), theta, covariance, p, random.exponential(0.5)


def test_the_corrected_bounds_hold_on_20000_random_cases_and_the_printed_ones_do_not():
    cases = numpy.array([of_classifier(*case) for case in random_cases(20000)]).T
    found = closed_form(*cases)
    rv, gap, p = found["RV"], found["adversarial_gap"], found["P"]
    slack = 1e-12
    assert (gap <= p + slack).all() and (p <= 2 * gap + slack).all()
    assert (found["rv_lower"] <= rv + slack).all() and (rv <= found["rv_upper"] + slack).all()
    exchanged = (found["rv_upper"] <= rv) & (rv <= found["rv_lower"])
    assert exchanged.mean() < 0.05  # the paper prints them so
    for worst, adv_risk in list(zip(found["I_worst"], found["adv_risk"]))[:500]:
        assert 1 - fano_cap(worst, 2) <= adv_risk + 1e-9


def test_draws_of_one_case_agree():
    random = numpy.random.default_rng(5)
    w, theta, covariance, p, _ = next(random_cases(1, seed=9))
    epsilon = 0.4
    y = random.choice([-1, 1], size=400_000)
    x = y[:, None] * theta + random.multivariate_normal(0 * theta, covariance, size=len(y))
    found = closed_form(*of_classifier(w, theta, covariance, p, epsilon))
    score = x @ w
    assert (abs(score) <= epsilon * dual_norm(w, p)).mean() == pytest.approx(found["P"], abs=3e-3)
    for sign in (-1, 1):  # either sign of the one shift attains the infimum
        share = ((x + sign * epsilon * worst_shift(w, p)) @ w > 0).mean()
        assert binary_entropy(share) == pytest.approx(found["I_worst"], abs=3e-3)
    better = y * math.copysign(1, w @ theta)
    assert (better * score < 0).mean() == pytest.approx(found["risk"], abs=3e-3)
    assert (better * score < epsilon * dual_norm(w, p)).mean() == pytest.approx(
        found["adv_risk"], abs=3e-3
    )


@pytest.mark.parametrize("p", NORMS)
def test_no_shift_of_the_ball_does_more_than_the_worst_one(p):
    random = numpy.random.default_rng(1)
    w = random.normal(size=4)
    v = worst_shift(w, p)
    assert numpy.linalg.norm(v, p) == pytest.approx(1)
    assert w @ v == pytest.approx(dual_norm(w, p))
    others = random.normal(size=(20000, 4))
    others /= numpy.linalg.norm(others, p, axis=1, keepdims=True)
    assert (others @ w).max() <= w @ v + 1e-12


def test_the_worst_shift_beats_every_choice_of_z_inside_the_strip():
    """I(X'; z) = H(z), and the adversary can only choose z where |w.x| <= b."""
    a, s, b = 0.7, 1.3, 0.4
    found = closed_form(a, s, b)
    outside = (1 - found["P"]) / 2  # of either sign, by symmetry
    choices = binary_entropy(outside + found["P"] * numpy.linspace(0, 1, 1001))
    assert choices.min() == pytest.approx(found["I_worst"], abs=1e-12)


def test_limits():
    nothing = closed_form(2, 0.5, 0)
    assert nothing["RV"] == pytest.approx(0, abs=1e-15) and nothing["adversarial_gap"] == 0
    everything = closed_form(1, 1, 100)
    assert everything["I_worst"] == pytest.approx(0, abs=1e-12)
    # necessary, not sufficient: a direction without signal is hardly vulnerable and guesses
    blind = closed_form(0, 10, 1)
    assert blind["RV"] == pytest.approx(0.0032, abs=5e-5) and blind["risk"] == 0.5
    assert closed_form(-1, 1, 0.5) == pytest.approx(closed_form(1, 1, 0.5))


@pytest.mark.parametrize(
    "mi, printed, whole", [(0, 30.1, 10), (1.08, 77.0, 71.5), (-3, 30.1, 10), (2.5, 100, 100)]
)
def test_caps_of_ten_classes(mi, printed, whole):
    assert 100 * printed_cap(mi, 10) == pytest.approx(printed, abs=0.05)
    assert 100 * fano_cap(mi, 10) == pytest.approx(whole, abs=0.05)


def test_the_printed_cap_says_nothing_from_log_5_on_and_for_two_classes():
    assert printed_cap(math.log(5) - 1e-6, 10) < 1 == printed_cap(math.log(5) + 1e-6, 10)
    assert printed_cap(0, 2) == 1 and fano_cap(0, 2) == pytest.approx(0.5)


@pytest.mark.parametrize("classes", [2, 3, 10, 100])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_fanos_cap_solves_its_equation(classes, share):
    mi = share * math.log(classes)

    def gap(r):
        return float(binary_entropy(r)) + r * math.log(classes - 1) - (math.log(classes) - mi)

    root = brentq(gap, 1e-12, 1 - 1 / classes, xtol=1e-14)
    assert 1 - fano_cap(mi, classes) == pytest.approx(root, abs=1e-10)
    assert fano_cap(mi, classes) <= printed_cap(mi, classes)


def test_no_linear_classifier_on_a_grid_is_more_robust():
    theta, sigma, epsilon = numpy.array([0.9, 0.5]), 0.8, 0.3
    covariance = sigma**2 * numpy.eye(2)

    def adv_risk(w):
        return closed_form(*of_classifier(w, theta, covariance, math.inf, epsilon))["adv_risk"]

    angles = numpy.linspace(0, 2 * math.pi, 20001)
    best = min(adv_risk(numpy.array([math.cos(t), math.sin(t)])) for t in angles[::10])
    w = robust_classifier(theta, epsilon)
    assert adv_risk(w) <= best + 1e-9 and adv_risk(w) == pytest.approx(best, abs=1e-6)
    assert adv_risk(w) == pytest.approx(ndtr(-numpy.linalg.norm([0.6, 0.2]) / sigma))
    with pytest.raises(ValueError, match="no linear classifier has an adversarial risk below 1/2"):
        robust_classifier(theta, 1.0)
