"""The bound of a whole batch against loops over pairs and locations, its limits and its gradients."""

import itertools
import math
from unittest import mock

import pytest
import torch

from utils.mi import blocked
from utils.mi.batch_bound import batch_bound
from utils.mi.names import FORMS, PAIRINGS

EVERY = list(itertools.product(FORMS, PAIRINGS))


def encodings(n=5, units=4, locations=3, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    local = scale * torch.randn(n, units, locations, generator=generator, dtype=torch.float64)
    return local, torch.randn(n, units, 1, generator=generator, dtype=torch.float64)


def with_scores(u):
    """Encodings whose scores u[i,j,l] are the given ones: g_i is the i-th unit vector."""
    return u.permute(1, 0, 2).contiguous(), torch.eye(len(u), dtype=u.dtype).unsqueeze(2)


def by_loops(local, global_, form, pairs):
    """The formulas of the module's first lines, in plain numbers."""
    n, units, locations = local.shape
    f, g = local.tolist(), global_.tolist()
    u = [
        [
            [sum(g[i][k][0] * f[j][k][l] for k in range(units)) for l in range(locations)]
            for j in range(n)
        ]
        for i in range(n)
    ]
    if form == "average":
        u = [[[sum(row) / locations] for row in rows] for rows in u]
    places = range(len(u[0][0]))

    def log_mean(where):
        total, number = 0.0, 0
        for i, j, l in itertools.product(range(n), range(n), where):
            own = i == j
            if pairs == "released":
                total += math.exp(0 * u[i][j][l] if own else u[i][j][l])
            elif pairs == "all" or not own:
                total += math.exp(u[i][j][l])
            number += not own or pairs == "all"
        return math.log(total / number)

    if form == "pooled":
        return sum(u[i][i][l] for i in range(n) for l in places) / (n * len(places)) - log_mean(
            places
        )
    return sum(sum(u[i][i][l] for i in range(n)) / n - log_mean([l]) for l in places) / len(places)


@pytest.mark.parametrize("form, pairs", EVERY)
@pytest.mark.parametrize("shape", [(2, 3, 1), (5, 4, 3)])
def test_equals_loops(form, pairs, shape):
    local, global_ = encodings(*shape)
    expected = by_loops(local, global_, form, pairs)
    assert batch_bound(local, global_, form, pairs).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("form, pairs", EVERY)
def test_blocks_change_neither_value_nor_gradient(form, pairs):
    def found(block):
        local, global_ = (each.requires_grad_() for each in encodings(7, 4, 3))
        with mock.patch.object(blocked, "BLOCK", block):
            value = batch_bound(local, global_, form, pairs)
            return value, *torch.autograd.grad(value, (local, global_))

    for one, other in zip(found(2**24), found(2 * 7 * 3)):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("pairs", PAIRINGS)
@pytest.mark.parametrize("seed", range(20))
def test_average_location_pooled_are_in_order(pairs, seed):
    scores = encodings(4, 3, 5, seed=seed, scale=2.0)
    average, location, pooled = (batch_bound(*scores, form, pairs).item() for form in FORMS)
    assert average >= location - 1e-12
    assert location >= pooled - 1e-12


@pytest.mark.parametrize("form", FORMS)
def test_all_pairs_cap_j_at_log_n(form):
    n, most = 6, 0.0
    for strength in (1, 10, 1000):
        own = strength * torch.eye(n, dtype=torch.float64)[:, :, None].expand(n, n, 3)
        value = batch_bound(*with_scores(own), form, "all").item()
        assert most <= value <= math.log(n) + 1e-12
        most = value
        assert batch_bound(*with_scores(own), form, "others").item() == pytest.approx(strength)
        # mean u[i,i,l] + log(N-1) limits the released pairs, and is reached far below 0
        released = batch_bound(*with_scores(own - 900), form, "released").item()
        assert released <= strength - 900 + math.log(n - 1) + 1e-9
    assert most == pytest.approx(math.log(n))
    assert batch_bound(*with_scores(own - 2000), form, "released").item() == pytest.approx(
        1000 - 2000 + math.log(n - 1)
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("pairs, expected", [("all", 0), ("others", 0), ("released", None)])
@pytest.mark.parametrize("n", [2, 9])
def test_a_critic_that_is_0(form, pairs, expected, n):
    local, global_ = encodings(n)
    value = batch_bound(0 * local, global_, form, pairs).item()
    assert value == pytest.approx(-math.log(n / (n - 1)) if expected is None else 0, abs=1e-12)


def test_the_indicator_critic_gives_the_entropy_of_a_discrete_representation():
    """T(x,z) = -log p(z) where z = g(x), else -inf: its J over all pairs of a set is H(Z)."""
    z = torch.tensor([0, 0, 0, 0, 1, 1, 2, 3])
    p = torch.bincount(z) / 8.0
    entropy = -(p * p.log()).sum().item()
    u = torch.where(z[:, None] == z[None, :], -p.double().log()[z][:, None], -1e4)[:, :, None]
    assert batch_bound(*with_scores(u), "average", "all").item() == pytest.approx(entropy, abs=1e-6)


@pytest.mark.parametrize("form, pairs", EVERY)
def test_gradient_in_images_that_both_sides_see(form, pairs):
    """float64 gradcheck in x, which reaches J through the pattern and through the output."""
    generator = torch.Generator().manual_seed(3)
    a, b = torch.randn(2, 6, 4, generator=generator, dtype=torch.float64)
    x = torch.randn(4, 6, generator=generator, dtype=torch.float64, requires_grad=True)

    def j(x):
        local = torch.tanh(x[:, :, None] * a + b)  # (N, U, L)
        return batch_bound(local, torch.sin(x).unsqueeze(2), form, pairs)

    assert torch.autograd.gradcheck(j, (x,))


def test_wrong_words_and_single_samples_are_refused():
    scores = encodings()
    with pytest.raises(ValueError, match="form 'mean' is unknown; choose one of average"):
        batch_bound(*scores, form="mean")
    with pytest.raises(ValueError, match="pairs 'own' is unknown; choose one of all, others"):
        batch_bound(*scores, pairs="own")
    with pytest.raises(ValueError, match="at least 2 samples, not 1"):
        batch_bound(*encodings(n=1))


def test_half_precision_is_scored_in_float32():
    local, global_ = encodings(4, 8, 2, scale=30.0)
    with torch.autocast("cpu", torch.bfloat16):
        value = batch_bound(local.float(), global_.float())
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(by_loops(local, global_, "average", "all"), rel=1e-4)
