"""The entropy estimators: exact values, the published means, and unbiasedness summed over the binomial."""

import math

import mpmath
import numpy
import pytest

from utils.mi import entropies, feature_entropy
from utils.mi.entropies import jvhw, jvhw_mi, maximum_likelihood, miller_madow
from utils.mi.remez import best_approximation, entropy_term, in_chebyshev_basis

BIT = math.log(2)


@pytest.mark.parametrize("degree", [1, 2, 6, 10, 22])
def test_the_error_of_the_best_polynomial_alternates(degree):
    chebyshev, level = in_chebyshev_basis(degree)
    grid = numpy.sin(numpy.linspace(0, numpy.pi / 2, 50_001)) ** 2
    error = entropy_term(grid) - numpy.polynomial.chebyshev.chebval(2 * grid - 1, chebyshev)
    assert numpy.abs(error).max() <= level * (1 + 1e-6)
    reaching = numpy.sign(error[numpy.abs(error) > level * (1 - 1e-3)])
    assert 1 + (numpy.diff(reaching) != 0).sum() == degree + 2


def test_a_line_is_best_where_calculus_says():
    # The best line has the slope of the chord, 0, and lies in the middle between 0 and the maximum 1/e.
    (constant, slope), error = best_approximation(1)
    assert constant == pytest.approx(1 / (2 * math.e), abs=1e-9)
    assert slope == pytest.approx(0, abs=1e-9)
    assert error == pytest.approx(1 / (2 * math.e), abs=1e-9)


@pytest.mark.parametrize("degree, constant", [(2, 0.2113), (6, 0.2248), (10, 0.2261), (22, 0.2267)])
def test_the_error_falls_with_the_square_of_the_degree(degree, constant):
    assert best_approximation(degree)[1] * degree**2 == pytest.approx(constant, abs=5e-5)


def test_monomials_are_the_same_polynomial():
    chebyshev, _ = in_chebyshev_basis(8)
    monomials, _ = best_approximation(8)
    u = numpy.linspace(0, 1, 101)
    same = numpy.polynomial.chebyshev.chebval(2 * u - 1, chebyshev)
    assert numpy.allclose(numpy.polynomial.polynomial.polyval(u, monomials), same, atol=1e-11)


def test_a_degree_below_1_is_refused():
    with pytest.raises(ValueError, match="degree"):
        best_approximation(0)


@pytest.mark.parametrize("n", [2, 10, 1000])
def test_a_constant_sample_has_the_bias_correction_alone(n):
    constant = numpy.full(n, 7)
    assert jvhw(constant) == pytest.approx(1 / (2 * n), abs=1e-15)
    assert maximum_likelihood(constant) == miller_madow(constant) == 0


def best_in_fifty_digits(degree: int) -> list:
    """The best polynomial's coefficients by Remez's algorithm in 50 digits, whose extrema are the
    roots of e'."""
    chebyshev, _ = in_chebyshev_basis(degree)
    grid = numpy.sin(numpy.linspace(0, numpy.pi / 2, 50_001)) ** 2
    error = entropy_term(grid) - numpy.polynomial.chebyshev.chebval(2 * grid - 1, chebyshev)
    turns = numpy.flatnonzero(numpy.diff(numpy.sign(numpy.diff(error)))) + 1
    inner = [mpmath.mpf(float(u)) for u in grid[turns]]
    points = [mpmath.mpf(0), *inner, mpmath.mpf(1)]
    assert len(points) == degree + 2
    for _ in range(3):
        system = mpmath.matrix(degree + 2)
        values = mpmath.matrix(degree + 2, 1)
        for i, u in enumerate(points):
            for k in range(degree + 1):
                system[i, k] = u**k
            system[i, degree + 1] = (-1) ** i
            values[i] = -u * mpmath.log(u) if u else 0
        *g, _ = mpmath.lu_solve(system, values)
        for i, u in enumerate(points[1:-1], start=1):
            for _ in range(4):  # Newton's method for e'(u) = -ln u - 1 - p'(u)
                slope = sum(k * g[k] * u ** (k - 1) for k in range(1, degree + 1))
                bend = sum(k * (k - 1) * g[k] * u ** (k - 2) for k in range(2, degree + 1))
                u -= (-mpmath.log(u) - 1 - slope) / (-1 / u - bend)
            points[i] = u
    return g


def jvhw_in_fifty_digits(counts: list[int]) -> float:
    """The authors' estimator, in bits, from the definition alone; n >= 200 and some symbol seen
    once."""
    n = sum(counts)
    degree = min(4 + math.ceil(1.2 * math.log(n)), 22)
    g, log_n = best_in_fifty_digits(degree), mpmath.log(n)
    r = mpmath.log(mpmath.mpf(n) / counts.count(1))
    quadratic = 0.184831781602259 + 1.09787328176926 * r - 0.530556484842359 * r**2
    c = 0.4679 + 0.3303 * r if r > 1.5 else quadratic
    width = 4 * max(c, 1 / (1.9 * log_n)) * log_n / n
    total = mpmath.mpf(0)
    for j in counts:
        p = mpmath.mpf(j) / n
        plug_in = -p * mpmath.log(p) + mpmath.mpf(1) / (2 * n)
        moments = [mpmath.ff(j, k) / mpmath.ff(n, k) / width**k for k in range(degree + 1)]
        polynomial = width * mpmath.fdot(g, moments) - p * mpmath.log(width)
        weight = min(max(2 * p / width - 1, 0), 1)
        total += max(0, weight * plug_in + (1 - weight) * polynomial)
    return float(total / mpmath.log(2))


@pytest.mark.parametrize(
    "counts",
    [[1] * 1000, [1] * 150 + [2] * 75 + [5] * 20 + [30] * 20, [1] * 40 + [4] * 60 + [100] * 97],
    ids=["all distinct", "few twice", "ten thousand"],
)
def test_jvhw_is_the_authors_estimator_to_a_millionth_of_a_bit(counts):
    with mpmath.workdps(50):
        expected = jvhw_in_fifty_digits(counts)
    samples = numpy.repeat(numpy.arange(len(counts)), counts)
    assert jvhw(samples) / BIT == pytest.approx(expected, abs=1e-6)


def test_two_symbols_500_times_each():
    halves = numpy.arange(1000) % 2
    assert jvhw(halves) / BIT == pytest.approx(1.00144, abs=5e-6)
    assert maximum_likelihood(halves) == pytest.approx(BIT)
    assert miller_madow(halves) == pytest.approx(BIT + 1 / 2000)


@pytest.mark.parametrize("n, bits", [(1000, 15.0772), (10_000, 18.58)])
def test_distinct_symbols(n, bits):
    assert jvhw(numpy.arange(n)) / BIT == pytest.approx(bits, abs=10 ** -(4 if n == 1000 else 2))
    assert maximum_likelihood(numpy.arange(n)) == pytest.approx(math.log(n))
    assert entropies.single_share(numpy.arange(n)) == 1


def zipf(m):
    return 1 / numpy.arange(1, m + 1)


# distribution, n, and of each estimator the published mean in bits; the last is the deviation of one draw
TABLE = [
    (numpy.ones(100), 1000, 6.572, 6.644, 6.645, 0.009),
    (numpy.ones(10_000), 5000, 11.834, 12.401, 13.30, 0.05),
    (zipf(1000), 1000, 6.894, 7.136, 7.46, 0.11),
    (zipf(100_000), 10_000, 9.984, 10.295, 11.04, 0.08),
    (0.5 ** numpy.arange(1, 60), 1000, 1.990, 1.997, 2.00, 0.04),
]


@pytest.mark.parametrize("case", TABLE, ids=["uniform", "many", "zipf", "long zipf", "geometric"])
def test_means_over_20_draws_are_the_published_ones(case):
    weights, n, *means, deviation = case
    random = numpy.random.default_rng(3)
    draws = [random.choice(len(weights), n, p=weights / weights.sum()) for _ in range(20)]
    for estimator, mean in zip((maximum_likelihood, miller_madow, jvhw), means):
        found = numpy.mean([estimator(draw) for draw in draws]) / BIT
        # two means of 20 draws differ by a deviation of sqrt(2/20); 4 of these, and the rounding
        assert abs(found - mean) < 4 * deviation * math.sqrt(2 / 20) + 0.006


def binomial(n, p):
    j = numpy.arange(n + 1)
    logs = [math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in j]
    return j, numpy.exp(numpy.array(logs) + j * math.log(p) + (n - j) * math.log1p(-p))


def test_the_polynomial_is_estimated_without_bias():
    # Summed over the binomial distribution of the count, the estimate is the polynomial itself.
    n, width = 60, 0.4
    monomials, _ = best_approximation(entropies.polynomial_degree(n))
    for p in (0.01, 0.1, 0.3):
        j, probability = binomial(n, p)
        mean = probability @ entropies.polynomial_estimate(j, n, width)
        polynomial = numpy.polynomial.polynomial.polyval(p / width, monomials)
        assert mean == pytest.approx(width * polynomial - p * math.log(width), abs=1e-9)
        error = best_approximation(entropies.polynomial_degree(n))[1]
        assert abs(mean + p * math.log(p)) <= width * error + 1e-9


def test_the_names_of_symbols_do_not_matter():
    samples = numpy.random.default_rng(0).integers(0, 50, 300)
    renamed = 1000 - 7 * samples[::-1]
    for estimator in (maximum_likelihood, miller_madow, jvhw):
        assert estimator(samples) == pytest.approx(estimator(renamed), abs=1e-12)


def test_mutual_information_of_independent_and_equal_variables():
    random = numpy.random.default_rng(1)
    x, y = random.integers(0, 8, (2, 20_000))
    assert jvhw_mi(x, x) == pytest.approx(3 * BIT, abs=0.01)
    assert 0 <= jvhw_mi(x, y) < 0.005
    assert jvhw_mi(x, 8 * x + y) == pytest.approx(3 * BIT, abs=0.01)


@pytest.mark.parametrize("wrong", [[], [[1, 2]], [0.5, 1.0]])
def test_other_than_integers_in_one_dimension_is_refused(wrong):
    for estimator in (maximum_likelihood, miller_madow, jvhw):
        with pytest.raises(ValueError, match="one-dimensional array of one or more integers"):
            estimator(numpy.array(wrong))
    with pytest.raises(ValueError, match="as many"):
        jvhw_mi(numpy.arange(2), numpy.arange(3))


def test_uniform_features_fill_their_bins_evenly():
    features = numpy.random.default_rng(0).random((20_000, 3))
    found = feature_entropy.feature_entropies(features, features, width=0.1)
    assert found["unit"]["jvhw"] == pytest.approx(math.log(30), abs=0.01)
    assert found["width"]["jvhw"] == pytest.approx(math.log(10), abs=0.01)
    # A change of scale changes the absolute bins alone.
    doubled = feature_entropy.feature_entropies(2 * features, 2 * features, width=0.1)
    assert doubled["unit"] == pytest.approx(found["unit"])
    assert doubled["width"]["jvhw"] == pytest.approx(math.log(20), abs=0.01)


def test_joint_codes_count_independent_components():
    random = numpy.random.default_rng(0)
    # Uniform in a box: the principal components are its axes, each with 4 equal bins.
    box = random.random((20_000, 2)) * [1, 3]
    found = feature_entropy.mean_over_units(feature_entropy.joint_codes(box, box)[:, None])
    assert found["jvhw"] == pytest.approx(2 * math.log(4), abs=0.01)
    many = random.normal(size=(200, 20))
    codes = feature_entropy.joint_codes(many, many)
    assert codes.shape == (200,) and codes.min() >= 0 and codes.max() < 4**8


def test_a_dead_unit_has_one_code_and_distinct_codes_warn():
    features = numpy.column_stack([numpy.zeros(50), numpy.arange(50)])
    assert len(set(feature_entropy.codes_by_unit(features, features)[:, 0])) == 1
    found = feature_entropy.feature_entropies(features, features, width=1e-3)
    assert found["width"]["single_share"] == 0.5  # one unit has a code, the other 50
    assert feature_entropy.warnings(found) == []
    distinct = feature_entropy.feature_entropies(features[:, 1:], features[:, 1:], width=1e-3)
    (text,) = feature_entropy.warnings(distinct)
    assert text.startswith("entropy, width bins: 100 % of the samples have a code of their own")
