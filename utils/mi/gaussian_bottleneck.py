"""Solve the information bottleneck of jointly Gaussian X and Y in closed form (Chechik et al.
2005).

Maximise I(Y;T) - beta I(X;T) over t_i = a_i v_i'x + N(0,1). With l_i, v_i the left eigenpairs of
S_{x|y} S_x^-1, component i is active where l_i < 1 - beta, and then

    a_i^2  = ((1 - l_i)/beta - 1) / (l_i v_i' S_x v_i)
    I(X;T) = 1/2 sum ln[(1/beta - 1)(1 - l_i)/l_i],   I(Y;T) = I(X;T) - 1/2 sum ln[(1 - l_i)/beta].

Their beta is 1/beta here. All in nats.
"""

import math
from dataclasses import dataclass

import numpy


@dataclass(frozen=True)
class Solution:
    """Hold the optimal bottleneck.

    projection: the rows a_i v_i', (active components, d). information_x, information_y: I(X;T) and
    I(Y;T). objective: I(Y;T) - beta I(X;T).
    """

    projection: numpy.ndarray
    information_x: float
    information_y: float
    objective: float


def solve(
    covariance_x: numpy.ndarray, covariance_y: numpy.ndarray, cross: numpy.ndarray, beta: float
) -> Solution:
    """Solve the bottleneck of zero-mean Gaussians.

    Args:
        covariance_x, covariance_y: S_x (d,d) and S_y (k,k), positive definite.
        cross: S_xy (d,k).
        beta: the weight of I(X;T), between 0 and 1.
    """
    conditional = covariance_x - cross @ numpy.linalg.solve(covariance_y, cross.T)
    values, vectors = numpy.linalg.eig(numpy.linalg.solve(covariance_x, conditional))
    order = numpy.argsort(values.real)  # left eigenvectors of M are eigenvectors of M'
    values, vectors = values.real[order], vectors.real[:, order]
    active = values < 1 - beta
    values, vectors = values[active], vectors[:, active].T
    gains = numpy.einsum("id,de,ie->i", vectors, covariance_x, vectors)
    scale = numpy.sqrt(((1 - values) / beta - 1) / (values * gains))
    information_x = 0.5 * float(numpy.log((1 / beta - 1) * (1 - values) / values).sum())
    information_y = information_x - 0.5 * float(numpy.log((1 - values) / beta).sum())
    objective = information_y - beta * information_x
    return Solution(scale[:, None] * vectors, information_x, information_y, objective)


def entropy(covariance: numpy.ndarray) -> float:
    """Compute the differential entropy of a Gaussian, in nats."""
    return 0.5 * float(numpy.linalg.slogdet(2 * math.pi * math.e * covariance)[1])


def informations(
    covariance_x: numpy.ndarray,
    covariance_y: numpy.ndarray,
    cross: numpy.ndarray,
    projection: numpy.ndarray,
    noise: numpy.ndarray,
) -> tuple[float, float]:
    """Compute I(X;T) and I(Y;T), in nats, of t = projection x + N(0, noise).

    projection: (m,d); noise: (m,m), positive definite.
    """
    conditional = covariance_x - cross @ numpy.linalg.solve(covariance_y, cross.T)
    of_t = entropy(projection @ covariance_x @ projection.T + noise)
    given_y = entropy(projection @ conditional @ projection.T + noise)
    return of_t - entropy(noise), of_t - given_y
