"""The bounds against triple loops over samples and locations."""

import math

import pytest
from bound_parts import close, encodings

from utils.mi.bounds import BOUNDS, MEASURES, donsker_varadhan, f_divergence, infonce, per_sample

SHAPES = [(2, 3, 1), (5, 4, 3)]  # N, U, L


def score_lists(local, global_):
    """u[i][j][l] as plain numbers, by three loops."""
    n, units, locations = local.shape
    f, g = local.tolist(), global_.tolist()
    return [
        [
            [sum(g[i][k][0] * f[j][k][l] for k in range(units)) for l in range(locations)]
            for j in range(n)
        ]
        for i in range(n)
    ]


def softplus(x):
    return max(x, 0) + math.log1p(math.exp(-abs(x)))


POSITIVE = {
    "GAN": lambda x: -softplus(-x),
    "JSD": lambda x: math.log(2) - softplus(-x),
    "KL": lambda x: x,
    "RKL": lambda x: -math.exp(-x),
    "H2": lambda x: 1 - math.exp(-x),
    "X2": lambda x: x**2,
    "W1": lambda x: x,
}
NEGATIVE = {
    "GAN": lambda x: softplus(-x) + x,
    "JSD": lambda x: softplus(-x) + x - math.log(2),
    "KL": lambda x: math.exp(x - 1),
    "RKL": lambda x: x - 1,
    "H2": lambda x: math.exp(x) - 1,
    "X2": lambda x: -((abs(x) + 1) ** 2) / 2,
    "W1": lambda x: x,
}


def expected_dv(u, released_diagonal=False):
    n, locations = len(u), len(u[0][0])
    values = []
    for i in range(n):
        terms = []
        for l in range(locations):
            total = sum(math.exp(u[i][j][l]) for j in range(n) if j != i) + (
                1 if released_diagonal else 0
            )
            terms.append(u[i][i][l] - (math.log(total) - math.log(n - 1)))
        values.append(sum(terms) / locations)
    return values


def expected_nce(u):
    n, locations = len(u), len(u[0][0])
    return [
        sum(
            u[i][i][l] - math.log(sum(math.exp(u[i][j][l]) for j in range(n))) + math.log(n)
            for l in range(locations)
        )
        / locations
        for i in range(n)
    ]


def expected_nce_scalar(u):
    n, locations = len(u), len(u[0][0])
    terms = []
    for i in range(n):
        negatives = sum(math.exp(u[i][j][k]) for j in range(n) if j != i for k in range(locations))
        for l in range(locations):
            terms.append(math.log(math.exp(u[i][i][l]) / (math.exp(u[i][i][l]) + negatives)))
    return sum(terms) / len(terms)


def expected_fd(u, measure):
    if measure == "DV":
        return expected_dv(u)
    n, locations = len(u), len(u[0][0])
    positive, negative = POSITIVE[measure], NEGATIVE[measure]
    return [
        sum(
            positive(u[i][i][l]) - sum(negative(u[i][j][l]) for j in range(n) if j != i) / (n - 1)
            for l in range(locations)
        )
        / locations
        for i in range(n)
    ]


def expected_fd_scalar(u, measure):
    n, locations = len(u), len(u[0][0])
    positives = [u[i][i][l] for i in range(n) for l in range(locations)]
    negatives = [u[i][j][l] for i in range(n) for j in range(n) if j != i for l in range(locations)]
    if measure == "DV":
        return sum(positives) / len(positives) - math.log(
            sum(math.exp(x) for x in negatives) / len(negatives)
        )
    return sum(map(POSITIVE[measure], positives)) / len(positives) - sum(
        map(NEGATIVE[measure], negatives)
    ) / len(negatives)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(3))
class TestAgainstLoops:
    def test_donsker_varadhan(self, shape, seed):
        local, global_ = encodings(*shape, seed=seed)
        for released in (False, True):
            expected = expected_dv(score_lists(local, global_), released)
            close(donsker_varadhan(local, global_, released_diagonal=released), expected)
            close(donsker_varadhan(local, global_, released, per_sample=True), expected)
            close(
                donsker_varadhan(local, global_, released, per_sample=False),
                sum(expected) / len(expected),
            )

    def test_infonce(self, shape, seed):
        local, global_ = encodings(*shape, seed=seed)
        u = score_lists(local, global_)
        close(infonce(local, global_), expected_nce_scalar(u))
        close(infonce(local, global_, per_sample=True), expected_nce(u))

    @pytest.mark.parametrize("measure", MEASURES)
    def test_f_divergence(self, shape, seed, measure):
        local, global_ = encodings(*shape, seed=seed)
        u = score_lists(local, global_)
        close(f_divergence(local, global_, measure), expected_fd_scalar(u, measure))
        close(f_divergence(local, global_, measure, per_sample=True), expected_fd(u, measure))

    def test_by_name(self, shape, seed):
        local, global_ = encodings(*shape, seed=seed)
        u = score_lists(local, global_)
        expected = {
            "dv": expected_dv(u),
            "dv-released": expected_dv(u, True),
            "nce": expected_nce(u),
            "fd": expected_fd(u, "JSD"),
        }
        assert set(expected) == set(BOUNDS)
        for bound, values in expected.items():
            close(per_sample(bound, local, global_), values)
