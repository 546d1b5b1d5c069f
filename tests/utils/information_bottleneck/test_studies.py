"""Correlations, the linear bottleneck and estimators against closed forms."""

import math

import numpy
import pytest

from utils.information_bottleneck import correlations, known, linear
from utils.mi import gaussian_bottleneck


def test_correlations_of_lines_and_ranks():
    x = numpy.arange(10.0)
    assert correlations.pearson(x, 3 - 2 * x) == pytest.approx(-1)
    assert correlations.spearman(x, numpy.exp(x)) == pytest.approx(1)
    assert correlations.pearson(x, numpy.exp(x)) < 0.9
    assert list(correlations.ranks([5, 1, 5, 2])) == [3.5, 1, 3.5, 2]
    assert math.isnan(correlations.pearson(x, numpy.ones(10)))
    assert correlations.pearson(x, x**2) == pytest.approx(numpy.corrcoef(x, x**2)[0, 1])


def test_within_groups_a_difference_between_them_does_not_count():
    groups = [0] * 5 + [1] * 5
    x = numpy.r_[0:5, 100:105].astype(float)
    y = numpy.r_[5:0:-1, 105:100:-1].astype(float)
    assert correlations.pearson(x, y) > 0.9
    assert correlations.partial(x, y, groups) == pytest.approx(-1)


def test_a_permutation_s_p_is_uniform_without_and_small_with_a_correlation():
    random = numpy.random.default_rng(0)
    x = random.normal(size=(40, 12))
    y = random.normal(size=(40, 12))
    ps = [correlations.permutation_p(a, b, range(12), draws=200) for a, b in zip(x, y)]
    assert 0.3 < numpy.mean(ps) < 0.7 and numpy.mean(numpy.array(ps) < 0.05) < 0.2
    assert correlations.permutation_p(x[0], x[0], range(12), draws=200) == pytest.approx(1 / 201)


def test_points_of_one_unit_change_places_together():
    # Two units only: each permutation leaves them or swaps them, and both correlate fully.
    units = [0, 0, 1, 1]
    p = correlations.permutation_p([1, 1, 2, 2], [3, 3, 7, 7], units, draws=100)
    assert p == 1
    uneven = correlations.permutation_p([1, 1, 2], [3, 3, 7], [0, 0, 1], draws=100)
    assert uneven == 1


@pytest.mark.parametrize("beta", [0.1, 0.3, 0.5])
def test_the_linear_bottleneck_reaches_the_gaussian_optimum(beta):
    one = numpy.eye(1)
    cases = [(one, one, 0.8 * one), linear.example(4, 3, seed=1)]
    for x, y, cross in cases:
        found = linear.train(x, y, cross, beta, dim=len(x))
        assert abs(found["loss"] - found["least_loss"]) < 0.01
        assert found["loss"] > found["least_loss"] - 1e-9
        for name in ("x", "y"):
            optimal = found[f"optimal_{name}"]
            assert found[f"information_{name}"] == pytest.approx(optimal, rel=0.02, abs=1e-6)
        assert found["rate"] == pytest.approx(found["information_x"], rel=0.02, abs=1e-6)


def test_beyond_the_correlation_nothing_is_kept():
    one = numpy.eye(1)
    found = linear.train(one, one, 0.8 * one, 0.66, dim=1)
    assert found["rate"] < 1e-6 and found["optimal_x"] == 0
    assert found["loss"] == pytest.approx(gaussian_bottleneck.entropy(one), abs=1e-6)


def test_estimators_are_compared_with_the_truth():
    rows = list(known.rows((200,), 5, seed=1))
    assert len(rows) == 5 * 3
    truth = {row["distribution"]: row["entropy"] for row in rows}
    assert truth["uniform 100"] == pytest.approx(math.log2(100))
    assert truth["geometric 1/2"] == pytest.approx(2)
    bias = {(row["distribution"], row["estimator"]): row["bias"] for row in rows}
    for name in ("uniform 100", "uniform 10,000"):
        assert bias[name, "maximum_likelihood"] < bias[name, "miller_madow"] < 0
        assert abs(bias[name, "jvhw"]) < abs(bias[name, "miller_madow"])
