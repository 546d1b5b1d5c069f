"""Intervals against closed forms, other formulas and simulation."""
import math
import statistics

import numpy
import pytest
from scipy import stats

from reproduction import intervals


def test_over_seeds_is_students():
    """df 1 and 2 in closed form: the quantiles are tan(pi (p - 1/2)) and (2p - 1) sqrt(2 / (4 p (1 - p)))."""
    p = 0.975
    for values, quantile in (([40.0, 43.0], math.tan(math.pi * (p - 0.5))), ([40.0, 41.0, 45.0], (2 * p - 1) * math.sqrt(2 / (4 * p * (1 - p))))):
        half = quantile * statistics.stdev(values) / math.sqrt(len(values))
        assert intervals.over_seeds(values) == pytest.approx((statistics.mean(values) - half, statistics.mean(values) + half))


def test_over_images_by_hand():
    """10 images: both right 4, first alone 3, second alone 1, none 2; with half an image in each cell 12, 3.5 and 1.5."""
    first = [True] * 7 + [False] * 3
    second = [True] * 4 + [False] * 3 + [True] + [False] * 2
    middle = 2 / 12
    half = 1.959964 * math.sqrt((5 / 12 - middle**2) / 12)
    assert intervals.over_images(first, second) == pytest.approx((100 * (middle - half), 100 * (middle + half)))
    low, high = intervals.over_images(second, first)
    assert (-high, -low) == pytest.approx(intervals.over_images(first, second))


def test_over_images_covers_the_truth_and_profits_from_pairing():
    """95 % of the intervals cover the true difference; where outcomes agree on most images, they are narrower than two
    independent samples would make them."""
    random = numpy.random.RandomState(0)
    n, covered, trials = 100, 0, 2000
    for _ in range(trials):
        outcome = random.choice(4, n, p=[0.45, 0.12, 0.05, 0.38])  # both, first alone, second alone, none
        low, high = intervals.over_images(list(outcome < 2), list((outcome == 0) | (outcome == 2)))
        covered += low <= 100 * (0.12 - 0.05) <= high
    assert 0.93 < covered / trials < 0.975
    assert high - low < 2 * 1.96 * 100 * math.sqrt(2 * 0.25 / n)


def test_no_image_that_differs_still_leaves_an_interval():
    low, high = intervals.over_images([True, False], [True, False])
    assert low < 0 < high and low == pytest.approx(-high)


def test_images_must_be_the_same():
    with pytest.raises(ValueError):
        intervals.over_images([True], [True, False])


def test_of_a_difference():
    def outcomes(right, n=200):
        return [True] * right + [False] * (n - right)

    one = (outcomes(120), outcomes(100))
    assert intervals.of_a_difference([one]) == (10, intervals.over_images(*one))
    # seeds that agree by chance: as wide as all images together say
    mean, same = intervals.of_a_difference([one, one])
    assert mean == 10 and same == pytest.approx(intervals.over_images(one[0] * 2, one[1] * 2)) and same[1] - same[0] > 1
    # seeds that do not: Student's interval, checked by another library
    pairs = [one, (outcomes(80), outcomes(100)), (outcomes(130), outcomes(100))]
    expected = stats.t.interval(0.95, 2, 5.0, stats.sem([10, -10, 15]))
    mean, interval = intervals.of_a_difference(pairs)
    assert mean == 5 and interval == pytest.approx(expected)


def test_no_difference_exceeds_100_points():
    right, wrong = [True] * 10, [False] * 10
    assert intervals.of_a_difference([(right, wrong), (wrong, right)]) == (0, (-100, 100))


def test_deviation():
    assert intervals.deviation([3.0]) is None and intervals.deviation([1.0, 2.0, 3.0]) == 1.0
