"""The bounds: gradients, low precision, extreme scores, closed forms, and a Gaussian pair of known MI."""

import math

import pytest
import torch
from bound_parts import SCALARS, VALUES, close, encodings, with_scores
from torch._subclasses.fake_tensor import FakeTensorMode

from utils.mi import bounds
from utils.mi.bounds import donsker_varadhan, f_divergence, infonce, per_sample

EVERY = [
    *(pytest.param(function, id=f"{name} scalar") for name, function in SCALARS.items()),
    *(pytest.param(function, id=f"{name} per sample") for name, function in VALUES.items()),
]


@pytest.mark.parametrize("function", EVERY)
class TestEveryBound:
    def test_gradient(self, function):
        local, global_ = (each.requires_grad_() for each in encodings(3, 2, 2, seed=4))
        assert torch.autograd.gradcheck(function, (local, global_))

    def test_one_sample_has_no_negatives(self, function):
        with pytest.raises(ValueError, match="at least 2 samples, not 1"):
            function(*encodings(1, 4, 3))

    def test_shapes_that_do_not_fit(self, function):
        local, global_ = encodings()
        for wrong in (
            (local, global_[:-1]),
            (local, global_[:, :-1]),
            (local, global_[..., 0]),
            (local[..., 0], global_),
            (local, local),
        ):
            with pytest.raises(ValueError, match=r"local \(N,U,L\)"):
                function(*wrong)

    def test_order_of_samples(self, function):
        """Permuting the samples permutes values and leaves scalars; so does permuting locations or units."""
        local, global_ = encodings(6, 4, 3, seed=1)
        order = torch.tensor([3, 0, 5, 1, 4, 2])
        value = function(local, global_)
        torch.testing.assert_close(
            function(local[order], global_[order]), value[order] if value.dim() else value
        )
        torch.testing.assert_close(function(local[..., [2, 0, 1]], global_), value)
        torch.testing.assert_close(
            function(local[:, [3, 1, 0, 2]], global_[:, [3, 1, 0, 2]]), value
        )

    def test_low_precision_and_autocast(self, function):
        """float32 values come out, near those in float64 of the same (rounded) inputs."""
        exact = [each.bfloat16().double() for each in encodings(6, 32, 3, scale=0.3)]
        expected = function(*exact).float()
        for dtype in (torch.bfloat16, torch.float32):
            inputs = [each.to(dtype) for each in exact]
            with torch.autocast("cpu", dtype=torch.bfloat16):
                under_autocast = function(*inputs)
            torch.testing.assert_close(function(*inputs), expected, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(under_autocast, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            function(exact[0].bfloat16(), exact[1].half()), expected, rtol=1e-4, atol=1e-5
        )
        assert function(*exact).dtype == torch.float64

    def test_gradient_under_autocast(self, function):
        exact = [each.requires_grad_() for each in encodings(6, 32, 3, scale=0.3)]
        rough = [each.detach().float().requires_grad_() for each in exact]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = function(*rough).sum()
        exact_gradients = torch.autograd.grad(function(*exact).sum(), exact)
        for gradient, expected in zip(torch.autograd.grad(value, rough), exact_gradients):
            torch.testing.assert_close(gradient, expected.float(), rtol=1e-3, atol=1e-4)

    def test_never_asks_for_a_value(self, function):
        """Tensors without values raise where a function would wait for one."""
        with FakeTensorMode():
            local, global_ = (
                torch.empty(4, 8, 3, requires_grad=True),
                torch.empty(4, 8, 1, requires_grad=True),
            )
            function(local, global_).sum().backward()
            assert local.grad.shape == local.shape


OVERFLOWING = {"fd KL", "fd RKL", "fd H2"}
PATTERNS = {
    "positives high": lambda u, eye: torch.where(eye, 2000.0, -2000.0),
    "positives low": lambda u, eye: torch.where(eye, -2000.0, 2000.0),
    "all high": lambda u, eye: torch.full_like(u, 2000.0),
    "all low": lambda u, eye: torch.full_like(u, -2000.0),
    "mixed": lambda u, eye: u.sign() * 2000,
}


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize(
    "function",
    [
        pytest.param(function, id=f"{name} {form}")
        for form, table in (("scalar", SCALARS), ("per sample", VALUES))
        for name, function in table.items()
        if name not in OVERFLOWING
    ],
)
def test_scores_of_2000(pattern, function):
    """Values and gradients in float32 are finite, and those of float64 as far as float32 resolves 2000."""
    u = torch.randn(4, 4, 3, generator=torch.Generator().manual_seed(0))
    u = PATTERNS[pattern](u, torch.eye(4, dtype=torch.bool).unsqueeze(2)).expand(4, 4, 3)
    results = []
    for dtype in (torch.float32, torch.float64):
        local, global_ = (each.clone().requires_grad_() for each in with_scores(u.to(dtype)))
        value = function(local, global_)
        results.append(
            [each.double() for each in (value, *torch.autograd.grad(value.sum(), (local, global_)))]
        )
    # float32 knows a score of 2000 to 1e-4, hence a softmax weight to 1e-4 of itself; the gradient in `global_` sums
    # scores by such weights, which may cancel.
    for rough, exact, atol in zip(*results, (1e-3, 1e-5, 0.3)):
        assert exact.isfinite().all()
        torch.testing.assert_close(rough, exact, rtol=3e-4, atol=atol)


def test_overflow_of_a_positive_leaves_negatives_alone():
    """KL at a positive of 1000 is linear there; exp(999), its negative term, must not turn the gradient into NaN."""
    u = torch.where(torch.eye(3, dtype=torch.bool), 1000.0, 0.0).unsqueeze(2)
    local, global_ = (each.requires_grad_() for each in with_scores(u))
    value = f_divergence(local, global_, "KL")
    torch.testing.assert_close(value, torch.tensor(1000 - math.exp(-1)))
    assert all(each.isfinite().all() for each in torch.autograd.grad(value, (local, global_)))


class TestDonskerVaradhan:
    @pytest.mark.parametrize("constant", [0.0, -3.0, 40.0])
    @pytest.mark.parametrize("n", [2, 7])
    def test_constant_critic_is_worth_nothing(self, constant, n):
        inputs = with_scores(torch.full((n, n, 2), constant, dtype=torch.float64))
        torch.testing.assert_close(
            donsker_varadhan(*inputs), torch.zeros(n, dtype=torch.float64), atol=1e-12, rtol=0
        )

    @pytest.mark.parametrize("n", [2, 7])
    def test_released_bound_of_a_zero_critic(self, n):
        inputs = with_scores(torch.zeros(n, n, 2, dtype=torch.float64))
        expected = torch.full((n,), -math.log(n / (n - 1)), dtype=torch.float64)
        torch.testing.assert_close(donsker_varadhan(*inputs, released_diagonal=True), expected)

    def test_released_bound_is_capped_and_ours_is_not(self):
        """With negatives far below, only exp(0) is left in the released sum."""
        n = 5
        u = torch.where(torch.eye(n, dtype=torch.bool), 3.0, -50.0).double().unsqueeze(2)
        released = donsker_varadhan(*with_scores(u), released_diagonal=True)
        torch.testing.assert_close(
            released, torch.full((n,), 3 + math.log(n - 1), dtype=torch.float64)
        )
        torch.testing.assert_close(
            donsker_varadhan(*with_scores(u)), torch.full((n,), 53.0, dtype=torch.float64)
        )
        local, global_ = encodings(n, scale=5)
        positives = bounds.scores(local, global_).diagonal(dim1=0, dim2=1).mean(0)
        assert (
            donsker_varadhan(local, global_, released_diagonal=True) <= positives + math.log(n - 1)
        ).all()

    def test_adding_a_constant_to_all_scores_changes_nothing(self):
        u = torch.randn(4, 4, 3, dtype=torch.float64)
        torch.testing.assert_close(
            donsker_varadhan(*with_scores(u)), donsker_varadhan(*with_scores(u + 11))
        )

    def test_grows_without_limit_with_the_scores(self):
        u = torch.where(torch.eye(4, dtype=torch.bool), 1.0, -1.0).double().unsqueeze(2)
        for scale in (10, 1000):
            values = donsker_varadhan(*with_scores(scale * u))
            torch.testing.assert_close(values, torch.full((4,), 2.0 * scale, dtype=torch.float64))
            torch.testing.assert_close(donsker_varadhan(*with_scores(-scale * u)), -values)


@pytest.mark.parametrize("scale", [0.1, 1, 100])
def test_infonce_stays_below_its_limits(scale):
    local, global_ = encodings(8, scale=scale)
    assert (infonce(local, global_, per_sample=True) <= math.log(8)).all()
    assert infonce(local, global_) <= 0


def test_infonce_reaches_log_n_and_counts_all_locations_of_the_others():
    n, locations = 4, 3
    u = (
        torch.where(torch.eye(n, dtype=torch.bool), 90.0, 0.0)
        .double()
        .unsqueeze(2)
        .repeat(1, 1, locations)
    )
    close(infonce(*with_scores(u), per_sample=True), [math.log(n)] * n)
    close(infonce(*with_scores(0 * u)), -math.log(1 + (n - 1) * locations))


def test_x2_at_zero_has_a_finite_gradient():
    local, global_ = encodings()
    local = local.zero_().requires_grad_()
    (gradient,) = torch.autograd.grad(f_divergence(local, global_, "X2"), local)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("rho", [0.5, 0.8])
def test_mutual_information_of_a_gaussian_pair(rho):
    """With the log density ratio as the critic every bound is tight, sampling aside: -log(1 - rho^2) / 2."""
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, 1500, generator=generator, dtype=torch.float64)
    y = rho * x + math.sqrt(1 - rho**2) * noise
    a, b = (
        rho**2 / (2 * (1 - rho**2)),
        rho / (1 - rho**2),
    )  # log ratio: constant - a x^2 + b x y - a y^2
    constant = -math.log(1 - rho**2) / 2
    one = torch.ones_like(x)
    global_ = torch.stack([one, x**2, x], 1).unsqueeze(2)
    local = torch.stack([constant - a * y**2, -a * one, b * y], 1).unsqueeze(2)
    for value in (
        donsker_varadhan(local, global_).mean(),
        infonce(local, global_, per_sample=True).mean(),
        f_divergence(local, global_, "DV"),
    ):
        assert value.item() == pytest.approx(constant, abs=0.04)
    # The critic of KL is the log ratio plus 1.
    local[:, 0] += 1
    assert f_divergence(local, global_, "KL").item() == pytest.approx(constant, abs=0.04)


def test_unknown_names_are_answered_with_the_choices():
    inputs = encodings()
    with pytest.raises(ValueError, match=r"'jsd'.*GAN, JSD, KL, RKL, H2, X2, DV, W1"):
        f_divergence(*inputs, measure="jsd")
    with pytest.raises(ValueError, match=r"'mine'.*dv, dv-released, nce, fd"):
        per_sample("mine", *inputs)
