"""Intervals against closed forms, other formulas and simulation."""

import math

import numpy
import pytest
from scipy import stats

from reproduction import intervals


def test_over_images_by_hand():
    """10 images: both right 4, first alone 3, second alone 1, none 2; with half an image in each cell 12, 3.5 and 1.5."""
    first = [True] * 7 + [False] * 3
    second = [True] * 4 + [False] * 3 + [True] + [False] * 2
    middle = 2 / 12
    half = 1.959964 * math.sqrt((5 / 12 - middle**2) / 12)
    assert intervals.over_images(first, second) == pytest.approx(
        (100 * (middle - half), 100 * (middle + half))
    )
    low, high = intervals.over_images(second, first)
    assert (-high, -low) == pytest.approx(intervals.over_images(first, second))


def test_over_images_covers_the_truth_and_profits_from_pairing():
    """95 % of the intervals cover the true difference; where outcomes agree on most images, they are narrower than two
    independent samples would make them."""
    random = numpy.random.RandomState(0)
    n, covered, trials = 100, 0, 2000
    for _ in range(trials):
        outcome = random.choice(
            4, n, p=[0.45, 0.12, 0.05, 0.38]
        )  # both, first alone, second alone, none
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


def outcomes(right, n=200):
    return [True] * right + [False] * (n - right)


def test_one_seed_is_over_its_images():
    one = (outcomes(120), outcomes(100))
    assert intervals.of_a_difference([one]) == (10, intervals.over_images(*one))
    assert intervals.of_a_mean([outcomes(120)]) == intervals.of_a_share(120, 200)


def test_several_seeds_by_hand():
    """Check both parts against an analysis of variance written out, and Student's against SciPy."""
    random = numpy.random.RandomState(3)
    seen = (random.rand(3, 50) < 0.5).astype(float) - (random.rand(3, 50) < 0.4)
    k, n = seen.shape
    rows, columns, mean = seen.mean(1), seen.mean(0), seen.mean()
    rest = ((seen - rows[:, None] - columns + mean) ** 2).sum() / ((k - 1) * (n - 1))
    images = max(0, (k * ((columns - mean) ** 2).sum() / (n - 1) - rest) / k)
    low, high = stats.t.interval(0.95, k - 1, mean, stats.sem(rows))
    expected = math.hypot((high - low) / 2, 1.959964 * math.sqrt((images + 1 / n) / n))
    assert images > 0 and intervals.half_width(seen) == pytest.approx(expected)
    assert intervals.half_width(numpy.stack([seen, seen])) == pytest.approx([expected] * 2)


def test_an_image_seen_ten_times_is_not_ten_images():
    """Ten seeds that agree on every image know as much of other images as one does."""
    one = (outcomes(120), outcomes(100))
    mean, (low, high) = intervals.of_a_difference([one] * 10)
    alone = intervals.over_images(*one)
    assert mean == 10 and high - low == pytest.approx(alone[1] - alone[0], rel=0.05)


def test_seeds_that_differ_have_students_interval_and_a_little():
    one = (outcomes(120), outcomes(100))
    pairs = [one, (outcomes(80), outcomes(100)), (outcomes(130), outcomes(100))]
    low, high = stats.t.interval(0.95, 2, 5.0, stats.sem([10, -10, 15]))
    mean, interval = intervals.of_a_difference(pairs)
    assert (
        mean == 5
        and interval == pytest.approx((low, high), abs=0.5)
        and interval[0] < low < high < interval[1]
    )


def coverage(k, n, spread, times=2000):
    """Return the share of intervals that hold the true difference, and a network's true accuracy.

    An image's difficulty is common to both networks (standard deviation 4), with a part of each
    network's own (0.6); a training moves a network by `spread`; the rest is 1. With 0.08 the three
    components are those of standard AT and NAMID in results/table1-small: 0.01, 0.13 and 0.31.
    """
    random, covered = numpy.random.default_rng(7), numpy.zeros(2)
    levels = numpy.array([-3.0, -2.7], numpy.float32)
    difference, share = numpy.array(
        [
            stats.norm.cdf(levels / math.sqrt(17.36 + spread**2)) @ [-1, 1],
            stats.norm.cdf(levels[0] / math.sqrt(17.36 + spread**2)),
        ]
    )
    for _ in range(times // 100):
        latent = 4 * random.standard_normal((100, 1, 1, n), numpy.float32) + levels[:, None, None]
        latent = latent + 0.6 * random.standard_normal((100, 2, 1, n), numpy.float32)
        latent = latent + spread * random.standard_normal((100, 2, k, 1), numpy.float32)
        right = (latent + random.standard_normal((100, 2, k, n), numpy.float32) > 0).astype(
            numpy.float32
        )
        for i, (seen, truth) in enumerate(
            ((right[:, 1] - right[:, 0], difference), (right[:, 0], share))
        ):
            covered[i] += (abs(seen.mean((-1, -2)) - truth) <= intervals.half_width(seen)).sum()
    return covered / times


@pytest.mark.parametrize("k", [2, 3, 10])
def test_the_coverage_is_honest_for_seeds_and_images(k):
    """1,000 images and a realistic spread between trainings: 93 to 97.5 %."""
    difference, share = coverage(k, 1000, 0.08)
    assert 0.93 < difference < 0.975 and 0.93 < share < 0.99


@pytest.mark.parametrize(
    "n, spread", [(250, 0.0), (250, 0.08), (250, 1.0), (1000, 0.0), (1000, 1.0)]
)
@pytest.mark.parametrize("k", [2, 3, 10])
def test_the_coverage_is_never_too_small(k, n, spread):
    """Fewer images, trainings that are all alike, and trainings that differ by 10 points and more."""
    difference, share = coverage(k, n, spread, 1000)
    assert 0.935 < difference < 0.985 and 0.935 < share < 0.995


def test_no_difference_exceeds_100_points():
    right, wrong = [True] * 10, [False] * 10
    assert intervals.of_a_difference([(right, wrong), (wrong, right)]) == (0, (-100, 100))


def test_deviation():
    assert intervals.deviation([3.0]) is None and intervals.deviation([1.0, 2.0, 3.0]) == 1.0
