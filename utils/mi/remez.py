"""Compute the best uniform polynomial approximation of -u ln u on [0,1] by Remez's algorithm.

The best polynomial of degree K is the one whose error alternates: it attains its largest size E at
K + 2 points with alternating signs. An exchange solves for the polynomial that alternates on K + 2
trial points and moves each point to the extremum of the error beside it, until the largest error is
the alternating one.
"""

from fractions import Fraction
from functools import cache

import numpy

GRID = 80_000  # points on which the extrema of the error are sought
TOLERANCE = 1e-9  # relative, between the largest error and the alternating one
ROUNDS = 30  # 4 or 5 suffice


def entropy_term(u: numpy.ndarray) -> numpy.ndarray:
    """Compute -u ln u, 0 at u = 0."""
    return -u * numpy.log(numpy.where(u > 0, u, 1))


@cache
def best_approximation(degree: int) -> tuple[tuple[float, ...], float]:
    """Compute the best polynomial of a degree for -u ln u on [0,1], and its largest error.

    Returns ((g_0, ..., g_K), E): the polynomial is sum_k g_k u^k, and |error| <= E on [0,1]. In
    double precision the monomials of degree 22 err by 1e-3 near u = 1; evaluate a higher degree in
    the Chebyshev basis instead.

    Raises ValueError for a degree below 1, and RuntimeError where the exchange does not converge.
    """
    chebyshev, error = in_chebyshev_basis(degree)
    return _monomials(chebyshev), error


def in_chebyshev_basis(degree: int) -> tuple[numpy.ndarray, float]:
    """Compute the same polynomial as sum_k a_k T_k(2u - 1), and its largest error."""
    if degree < 1:
        raise ValueError(f"degree must be 1 or more, not {degree}")
    # Both sets are dense at 0, where the slope of -u ln u is infinite, and at 1.
    points = numpy.sin(numpy.linspace(0, numpy.pi / 2, degree + 2)) ** 2
    grid = numpy.sin(numpy.linspace(0, numpy.pi / 2, GRID)) ** 2
    for _ in range(ROUNDS):
        coefficients, level = _alternating(points, degree)
        error = entropy_term(grid) - numpy.polynomial.chebyshev.chebval(2 * grid - 1, coefficients)
        largest = numpy.abs(error).max()
        if largest <= abs(level) * (1 + TOLERANCE):
            return coefficients, float(largest)
        points = grid[_extrema(error, degree + 2)]
    raise RuntimeError(f"Remez's algorithm did not converge for degree {degree}")


def _alternating(points: numpy.ndarray, degree: int) -> tuple[numpy.ndarray, float]:
    """Solve for the polynomial whose errors at the points are E, -E, E, ...

    Returns its coefficients in the Chebyshev basis, and E.
    """
    signs = (-1.0) ** numpy.arange(len(points))
    basis = numpy.polynomial.chebyshev.chebvander(2 * points - 1, degree)
    solution = numpy.linalg.solve(numpy.column_stack([basis, signs]), entropy_term(points))
    return solution[:-1], float(solution[-1])


def _extrema(error: numpy.ndarray, wanted: int) -> numpy.ndarray:
    """Return the indices of the largest |error| of each run of one sign, `wanted` of them.

    Of more, the smaller of both ends is dropped, so that the signs still alternate.
    """
    breaks = numpy.flatnonzero(numpy.diff(numpy.sign(error)) != 0) + 1
    runs = numpy.split(numpy.arange(len(error)), breaks)
    found = [run[numpy.abs(error[run]).argmax()] for run in runs]
    while len(found) > wanted:
        del found[0 if abs(error[found[0]]) < abs(error[found[-1]]) else -1]
    return numpy.array(found)


def _monomials(chebyshev: numpy.ndarray) -> tuple[float, ...]:
    """Convert sum_k a_k T_k(2u - 1) to monomials, in rational arithmetic, rounded at the end."""
    double = [Fraction(-2), Fraction(4)]  # 2 (2u - 1)
    before, now = [Fraction(1)], [Fraction(-1), Fraction(2)]
    total = [Fraction(0)] * len(chebyshev)
    for a in chebyshev:
        for power, factor in enumerate(before):
            total[power] += Fraction(float(a)) * factor
        after = [Fraction(0)] * (len(now) + 1)
        for power, factor in enumerate(now):
            after[power] += double[0] * factor
            after[power + 1] += double[1] * factor
        for power, factor in enumerate(before):
            after[power] -= factor
        before, now = now, after
    return tuple(float(value) for value in total)
