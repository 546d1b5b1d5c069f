"""The bounds against triple loops over samples and locations, closed forms, and a Gaussian pair of known MI."""

import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from utils.mi import blocked, bounds
from utils.mi.bounds import BOUNDS, MEASURES, donsker_varadhan, f_divergence, infonce, per_sample

SHAPES = [(2, 3, 1), (5, 4, 3)]  # N, U, L


def encodings(n=5, units=4, locations=3, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    local = torch.randn(n, units, locations, generator=generator, dtype=torch.float64) * scale
    return local, torch.randn(n, units, 1, generator=generator, dtype=torch.float64)


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


def with_scores(u):
    """Encodings whose scores are the given u (N,N,L): g_i is a unit vector and f_jl the column of scores."""
    n = len(u)
    return u.permute(1, 0, 2).contiguous(), torch.eye(n, dtype=u.dtype).unsqueeze(2)


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


def close(value, expected):
    torch.testing.assert_close(
        value, torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=1e-10
    )


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


SCALARS = {
    "nce": infonce,
    **{f"fd {measure}": lambda f, g, m=measure: f_divergence(f, g, m) for measure in MEASURES},
}
VALUES = {
    **{bound: lambda f, g, b=bound: per_sample(b, f, g) for bound in BOUNDS},
    **{
        f"fd {measure}": lambda f, g, m=measure: f_divergence(f, g, m, per_sample=True)
        for measure in MEASURES
    },
}
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


class TestBlocks:
    @pytest.mark.parametrize("block", [1, 40, 100])
    @pytest.mark.parametrize("form", ["scalar", "per sample"])
    @pytest.mark.parametrize("trained", ["both", "global"])
    def test_values_and_gradients_are_those_of_the_plain_form(
        self, trained, form, block, monkeypatch
    ):
        for name, function in (SCALARS if form == "scalar" else VALUES).items():
            results = []
            for size in (2**27, block):
                monkeypatch.setattr(blocked, "BLOCK", size)
                local, global_ = (each.requires_grad_() for each in encodings(7))
                # the plain form takes both gradients in one block
                value = function(
                    local.detach() if trained == "global" and size == block else local, global_
                )
                weights = torch.arange(1.0, 1 + value.numel(), dtype=value.dtype).view_as(value)
                results.append([value, *torch.autograd.grad((weights * value).sum(), global_)])
                if trained == "both":
                    results[-1] += torch.autograd.grad(
                        (weights * function(local, global_)).sum(), local
                    )
            for plain, in_blocks in zip(*results):
                torch.testing.assert_close(in_blocks, plain, rtol=1e-12, atol=1e-12, msg=name)

    @pytest.mark.parametrize("trained", [True, False])
    @pytest.mark.parametrize("block", [2**27, 40])
    @pytest.mark.parametrize("bound", BOUNDS)
    def test_several_outputs_for_each_pattern(self, bound, block, trained, monkeypatch):
        monkeypatch.setattr(blocked, "BLOCK", block)
        (local, one), (_, other) = encodings(7), encodings(7, seed=1)
        local.requires_grad_(trained)
        both = torch.cat([one, other]).requires_grad_()
        weights = torch.arange(1.0, 15, dtype=torch.float64)
        values = per_sample(bound, local, both)
        expected = torch.cat([per_sample(bound, local, each) for each in both.split(7)])
        torch.testing.assert_close(values, expected, rtol=1e-12, atol=1e-12)
        for found, wanted in zip(
            *(
                torch.autograd.grad((weights * each).sum(), [both] + [local] * trained)
                for each in (values, expected)
            )
        ):
            torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("trained", [True, False])
    @pytest.mark.parametrize("bound", BOUNDS)
    def test_memory_grows_with_the_batch_and_not_with_its_square(self, bound, trained, monkeypatch):
        """The largest sum of the sizes of all tensors alive at a time, forwards and backwards."""

        def memory(n):
            alive, most = {}, 0

            class Watch(TorchDispatchMode):
                def __torch_dispatch__(self, function, types, args=(), kwargs=None):
                    nonlocal alive, most
                    result = function(*args, **(kwargs or {}))
                    for each in result if isinstance(result, (tuple, list)) else [result]:
                        if isinstance(each, torch.Tensor):
                            storage = each.untyped_storage()
                            alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
                    alive = {key: entry for key, entry in alive.items() if not entry[0].expired()}
                    most = max(most, sum(size for _, size in alive.values()))
                    return result

            local, global_ = (each.requires_grad_() for each in encodings(n, units=2, locations=2))
            local.requires_grad_(trained)
            with Watch():
                per_sample(bound, local, global_).sum().backward()
            return most

        monkeypatch.setattr(blocked, "BLOCK", 64)
        assert memory(200) <= 4.5 * memory(50)
        monkeypatch.setattr(blocked, "BLOCK", 2**27)
        assert memory(200) > 12 * memory(50)
