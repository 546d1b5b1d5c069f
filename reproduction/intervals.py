"""Means, deviations and 95 % intervals over seeds and over images. Accuracies in percent."""
import itertools
import math
import statistics

from scipy.special import stdtrit

from utils.robustness import wilson

Z = 1.959964  # the normal distribution's 97.5 % point


def deviation(values: list[float]) -> float | None:
    """The sample's standard deviation (n - 1 below); None for a single value."""
    return statistics.stdev(values) if len(values) > 1 else None


def over_seeds(values: list[float]) -> tuple[float, float]:
    """Student's interval of the mean of two or more values."""
    half = stdtrit(len(values) - 1, 0.975) * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.mean(values) - half, statistics.mean(values) + half


def over_images(first: list[bool], second: list[bool]) -> tuple[float, float]:
    """The interval of the difference of two shares, first less second, seen on the same images, in percent.

    Only the images on which the two differ count; half an image is added to each of the four cells of the table of both
    outcomes, so that none that differ still leaves an interval (Agresti and Min 2005, Simple Improved Confidence Intervals for
    Comparing Matched Proportions).
    """
    n = len(first) + 2
    only_first = sum(a and not b for a, b in zip(first, second, strict=True)) + 0.5
    only_second = sum(b and not a for a, b in zip(first, second)) + 0.5
    middle = (only_first - only_second) / n
    half = Z * math.sqrt((only_first + only_second) / n - middle**2) / math.sqrt(n)
    return 100 * (middle - half), 100 * (middle + half)


def of_a_difference(pairs: list[tuple[list[bool], list[bool]]]) -> tuple[float, tuple[float, float]]:
    """The mean difference of two defenses in points, and its interval; each pair their outcomes on the same images for one seed.

    One seed: over its images. Several: over the seeds, widened to the interval over all images where that is wider, for a few
    seeds may agree by chance. Neither sees all: training another time moves the one, other test images the other.
    """
    images = over_images(*(list(itertools.chain(*outcomes)) for outcomes in zip(*pairs)))
    differences = [100 * (sum(first) - sum(second)) / len(first) for first, second in pairs]
    if len(pairs) == 1:
        return differences[0], images
    seeds = over_seeds(differences)
    # two seeds may say less than that no difference exceeds 100 points
    return statistics.mean(differences), (max(min(images[0], seeds[0]), -100.0), min(max(images[1], seeds[1]), 100.0))


def of_a_share(correct: int, n: int) -> tuple[float, float]:
    """Wilson's interval of a share, in percent."""
    return wilson(correct, n)
