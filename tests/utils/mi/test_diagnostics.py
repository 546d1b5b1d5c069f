"""MI of each sample, ROC areas and intervals; the bounds on Gaussians; Theorem 1 on joint Gaussians."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from models.mi import GlobalNet, LocalNet
from utils.mi import bounds, patterns
from utils.mi.diagnostics import (
    area,
    describe,
    detection,
    masks,
    plot_histograms,
    plot_roc,
    sample_values,
)
from utils.mi.estimator import MIEstimator
from utils.mi.gaussians import (
    Study,
    correlation,
    draw,
    estimates,
    limit,
    optimal_critic,
    plot_study,
    train_critic,
)
from utils.mi.theorem1 import JointGaussian, theorem1_cases
from utils.mi.values import Examples


def batch(n: int, generator: torch.Generator) -> Examples:
    x, x_adv = torch.rand(2, n, 3, 8, 8, generator=generator)
    logits, logits_adv = torch.randn(2, n, 4, generator=generator)
    return Examples(x, torch.arange(n) % 4, x_adv, logits, logits_adv, logits, logits_adv)


@pytest.fixture(scope="module")
def values_and_batches():
    torch.manual_seed(0)
    batches = [batch(n, torch.Generator().manual_seed(n)) for n in (30, 31)]
    estimators = {
        kind: MIEstimator(LocalNet(8), GlobalNet(4, 8), bound).train()
        for kind, bound in (("natural", "dv"), ("adversarial", "nce"))
    }
    return sample_values(batches, estimators), batches, estimators


def test_the_four_values_of_each_sample(values_and_batches):
    """E_n on x and E_a on n = x~ - x, each with both outputs, in eval mode, the negatives from the batch alone."""
    values, batches, estimators = values_and_batches
    assert all(estimator.training for estimator in estimators.values())  # as before
    natural, adversarial = (estimators[kind].eval() for kind in ("natural", "adversarial"))
    for name, expected in {
        "natural_mi_of_natural": lambda b: natural(b.x, b.output),
        "natural_mi_of_adversarial": lambda b: natural(b.x, b.output_adv),
        "adversarial_mi_of_natural": lambda b: adversarial(b.x_adv - b.x, b.output),
        "adversarial_mi_of_adversarial": lambda b: adversarial(b.x_adv - b.x, b.output_adv),
    }.items():
        with torch.no_grad():
            np.testing.assert_allclose(
                values[name], torch.cat([expected(b) for b in batches]), rtol=1e-5, atol=1e-5
            )
    assert values["batch"].tolist() == [0] * 30 + [1] * 31
    assert (
        values["prediction_adversarial"].tolist()
        == torch.cat([b.logits_adv for b in batches]).argmax(1).tolist()
    )
    for estimator in estimators.values():
        estimator.train()


def test_the_sets_are_those_of_the_losses(values_and_batches):
    values, batches, _ = values_and_batches
    expected = patterns.select(
        *(torch.cat([getattr(b, name) for b in batches]) for name in ("logits", "logits_adv", "y"))
    )
    found = masks(values)
    assert found["all"].all() and all(
        found[name].tolist() == expected[name].tolist() and found[name].any() for name in "CRW"
    )
    told = describe(values)["natural_mi_of_natural"]["W"]
    chosen = values["natural_mi_of_natural"][expected["W"].numpy()]
    assert (told["n"], told["mean"], told["quantiles"][0.5]) == (
        len(chosen),
        pytest.approx(chosen.mean()),
        pytest.approx(np.median(chosen)),
    )


def paired(n: int, shift: float, common: float, seed: int):
    """Scores of natural samples, and of adversarial ones `shift` above, both N(., 1), of correlation `common`."""
    random = np.random.default_rng(seed)
    image, *own = random.normal(size=(3, n))
    natural, adversarial = (
        math.sqrt(common) * image + math.sqrt(1 - common) * each for each in own
    )
    return natural, adversarial + shift


def test_the_area_counts_pairs_and_ties_by_half():
    natural, adversarial = (each.round(1) for each in paired(80, 0.7, 0.5, 0))
    above = (adversarial[:, None] > natural).mean() + 0.5 * (adversarial[:, None] == natural).mean()
    assert area(natural, adversarial)[0] == pytest.approx(above, abs=1e-12)
    assert area(np.exp(natural), np.exp(adversarial))[1] == pytest.approx(
        area(natural, adversarial)[1]
    )


@pytest.mark.parametrize("common", [0.0, 0.9])
def test_the_interval_is_that_of_a_bootstrap_over_images(common):
    """Independent pairs and closely paired ones, for which an interval that takes the two samples of an image for independent is far too wide."""
    natural, adversarial = paired(300, 0.8, common, 1)
    value, (low, high) = area(natural, adversarial)
    random = np.random.default_rng(2)
    again = [
        area(natural[chosen], adversarial[chosen])[0]
        for chosen in random.integers(0, 300, (600, 300))
    ]
    assert low < value < high and (high - low) / (2 * 1.96 * np.std(again)) == pytest.approx(
        1, abs=0.12
    )
    assert value == pytest.approx(stats.norm.cdf(0.8 / math.sqrt(2)), abs=0.05)


def test_areas_without_an_interval():
    assert area(np.arange(5.0), np.arange(5.0) + 10) == (1.0, None)  # separated
    assert area(np.arange(5.0) + 10, np.arange(5.0)) == (0.0, None)
    assert area(np.arange(5.0), np.arange(5.0)) == (
        0.5,
        pytest.approx((0.5, 0.5)),
    )  # the same values: no chance is involved


def made_up(n=200, shift=1.0):
    """Values that behave as the paper says: adversarial samples have less natural and more adversarial MI."""
    natural, adversarial = paired(n, shift, 0.5, 3)
    label = np.zeros(n, int)
    return {
        "label": label,
        "prediction": label,
        "prediction_adversarial": np.arange(n) % 2,
        "natural_mi_of_natural": adversarial,
        "natural_mi_of_adversarial": natural,
        "adversarial_mi_of_natural": natural,
        "adversarial_mi_of_adversarial": adversarial,
    }


def test_areas_above_a_half_are_what_the_paper_expects(tmp_path):
    values = made_up()
    found = detection(values)
    for kind in ("natural", "adversarial"):
        assert {name: entry["n"] for name, entry in found[kind].items()} == {
            "all": 200,
            "R": 100,
            "W": 100,
        }
        assert all(
            entry["auc"] > 0.65 and entry["interval"][0] > 0.6 for entry in found[kind].values()
        )
    swapped = values | {
        "natural_mi_of_natural": values["natural_mi_of_adversarial"],
        "natural_mi_of_adversarial": values["natural_mi_of_natural"],
    }
    assert detection(swapped)["natural"]["all"]["auc"] == pytest.approx(
        1 - found["natural"]["all"]["auc"]
    )


def test_pictures_of_sets_that_are_empty_and_of_values_all_alike(tmp_path):
    nobody_fooled = made_up() | {
        "prediction_adversarial": np.zeros(200, int),
        "natural_mi_of_natural": np.ones(200),
        "natural_mi_of_adversarial": np.ones(200),
    }
    found = detection(nobody_fooled)
    assert (
        found["natural"]["W"] == {"n": 0, "auc": None, "interval": None}
        and found["natural"]["all"]["auc"] == 0.5
    )
    assert describe(nobody_fooled)["natural_mi_of_natural"]["W"] == {
        "n": 0,
        "mean": None,
        "sd": None,
        "quantiles": None,
    }
    for plot in (plot_histograms, plot_roc):
        plot(nobody_fooled, tmp_path / "picture.png", "title")
        assert (tmp_path / "picture.png").read_bytes()[:4] == b"\x89PNG"
        (tmp_path / "picture.png").unlink()


@pytest.mark.parametrize("dim, mi", [(1, 0.3), (3, 2.0), (4, 9.0)])
def test_the_optimal_critic_is_the_log_density_ratio(dim, mi):
    rho = correlation(mi, dim)
    assert -dim / 2 * math.log(1 - rho**2) == pytest.approx(mi)
    x, y = draw(5, dim, rho, torch.Generator().manual_seed(0))
    joint = stats.multivariate_normal([0, 0], [[1, rho], [rho, 1]])
    u = bounds.scores(*optimal_critic(x, y, rho))
    for i in range(5):
        for j in range(5):
            ratio = sum(
                joint.logpdf([a, b]) - stats.norm.logpdf(a) - stats.norm.logpdf(b)
                for a, b in zip(x[i], y[j])
            )
            assert u[i, j, 0].item() == pytest.approx(ratio, abs=1e-9)


def test_draws_have_the_correlation_asked_for():
    x, y = draw(100_000, 2, 0.7, torch.Generator().manual_seed(0))
    for i in range(2):
        assert np.corrcoef(x[:, i], y[:, i])[0, 1] == pytest.approx(0.7, abs=0.01)
        assert np.corrcoef(x[:, i], y[:, 1 - i])[0, 1] == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("mi", [0.2, 1.5])
def test_the_limit_of_fd_is_twice_the_jensen_shannon_divergence(mi):
    """By integration over the plane, for one component."""
    rho = correlation(mi, 1)
    joint = stats.multivariate_normal([0, 0], [[1, rho], [rho, 1]])

    def twice_jsd(y, x):
        p, q = joint.logpdf([x, y]), stats.norm.logpdf(x) + stats.norm.logpdf(y)
        middle = np.logaddexp(p, q) - math.log(2)
        return math.exp(p) * (p - middle) + math.exp(q) * (q - middle)

    expected, _ = integrate.dblquad(twice_jsd, -8, 8, -8, 8, epsabs=1e-5)
    assert limit("fd", mi, 1) == pytest.approx(expected, abs=1e-4)


def test_the_limits():
    assert all(limit(bound, 3.0, 4) == 3.0 for bound in ("dv", "dv-released", "nce"))
    for dim, mi in ((1, 0.01), (4, 8.0), (50, 300.0)):
        assert limit("fd", mi, dim) == pytest.approx(limit("fd", mi, dim, nodes=160), abs=1e-4)
    assert limit("fd", 1e-6, 4) == pytest.approx(0, abs=1e-6) and limit(
        "fd", 25.0, 4
    ) == pytest.approx(2 * math.log(2), abs=1e-3)


def of_optimal(bound, n, mi, repetitions=200, dim=4):
    rho = correlation(mi, dim)
    return estimates(
        bound, lambda x, y: optimal_critic(x, y, rho), n, dim, rho, repetitions, seed=0
    )


def test_bounds_with_the_optimal_critic():
    """What is known of each: fd, linear in its expectations, has no bias against its limit at any N; nce lies below the truth and below log N;
    dv above the truth by Jensen's inequality, less with more negatives; and nce and dv near the truth where N is well above exp(I)."""
    for n in (4, 32):
        values = of_optimal("fd", n, 2.0)
        assert values.mean().item() == pytest.approx(
            limit("fd", 2.0, 4), abs=3.5 * values.std().item() / math.sqrt(200)
        )
    nce = of_optimal("nce", 16, 6.0)
    assert nce.max() <= math.log(16) and nce.mean() > math.log(16) - 0.1
    dv = {n: of_optimal("dv", n, 4.0).mean().item() - 4 for n in (8, 64)}
    assert dv[8] > 2 * dv[64] > 1
    for bound in ("dv", "dv-released", "nce"):
        assert of_optimal(bound, 512, 1.0, 30).mean().item() == pytest.approx(1.0, abs=0.06)


def test_trained_critics_come_near_and_dv_escapes():
    """nce of a trained critic is near the optimal critic's; dv with few negatives has no maximum, and training finds that out."""
    rho = correlation(1.0, 2)
    critic = train_critic("nce", 64, 2, rho, 300, seed=0)
    value = estimates("nce", critic, 64, 2, rho, 50, seed=1).mean().item()
    best = (
        estimates("nce", lambda x, y: optimal_critic(x, y, rho), 64, 2, rho, 50, seed=1)
        .mean()
        .item()
    )
    assert best - 0.2 < value < best + 0.05
    rho = correlation(6.0, 2)
    assert (
        estimates("dv", train_critic("dv", 4, 2, rho, 300, seed=0), 4, 2, rho, 50, seed=1).mean()
        > 10 * 6
    )


def test_the_study_reports_what_it_drew(tmp_path):
    study = Study(dim=2, mi=(0.5, 2.0), samples=(4, 8), repetitions=6, steps=3, seed=5)
    torch.manual_seed(1)
    rows = list(study.rows())
    torch.manual_seed(2)
    assert list(study.rows()) == rows and len(rows) == len(study) == 2 * 4 * 2 * 2
    assert (
        torch.rand(1).item() == torch.rand(1, generator=torch.Generator().manual_seed(2)).item()
    )  # draws nothing from the caller's stream
    for row in rows:
        assert row["bias"] == row["mean"] - row["mi"] and row["standard_error"] == pytest.approx(
            row["sd"] / math.sqrt(6)
        )
    assert len({row["mean"] for row in rows}) == len(rows)
    plot_study([row for row in rows if row["critic"] == "trained"], tmp_path / "study.png", "title")
    assert (tmp_path / "study.png").read_bytes()[:4] == b"\x89PNG"


def scalar(k, a, b):
    one = np.eye(1)
    return JointGaussian(2.0 * one, k * one, a * one, b * one, spread=0.5, noise=0.7).theorem1()


def test_theorem_1_for_numbers():
    """x, n and z one-dimensional: every term from variances written out."""
    k, a, b, x, m, e = -0.4, 1.5, 0.6, 2.0, 0.25, 0.49
    terms = scalar(k, a, b)
    slope = a * (1 + k) + b  # z = slope x + a m + e
    z, n, adv = slope**2 * x + a**2 * m + e, k**2 * x + m, (1 + k) ** 2 * x + m
    xz, nz, xn, az = slope * x, slope * k * x + a * m, k * x, slope * (1 + k) * x + a * m

    def information(squared_correlation):
        return -math.log(1 - squared_correlation) / 2

    assert terms["I(x;z)"] == pytest.approx(information(xz**2 / (x * z)))
    assert terms["I(n;z)"] == pytest.approx(information(nz**2 / (n * z)))
    assert terms["I(x~;z)"] == pytest.approx(information(az**2 / (adv * z)))
    assert terms["H(z|x,n)"] == pytest.approx(math.log(2 * math.pi * math.e * e) / 2)
    assert terms["H(z|x~)"] == pytest.approx(math.log(2 * math.pi * math.e * (z - az**2 / adv)) / 2)
    partial = (xn - xz * nz / z) ** 2 / ((x - xz**2 / z) * (n - nz**2 / z))
    assert terms["I(x;n;z)"] == pytest.approx(information(xn**2 / (x * n)) - information(partial))


def residual(a, given):
    return a - given @ np.linalg.lstsq(given, a, rcond=None)[0]


def information(a, b):
    """From samples (N, d) and (N, k): by their canonical correlations."""
    cosines = np.linalg.svd(np.linalg.qr(a)[0].T @ np.linalg.qr(b)[0], compute_uv=False)
    return -np.log(1 - cosines**2).sum() / 2


@pytest.mark.parametrize("direct", [0.0, 1.0])
def test_theorem_1_against_samples(direct):
    """Every term from samples drawn as the definition says; I(x;n;z) in another of its forms, I(x;z) - I(x;z|n)."""
    random = np.random.default_rng(1)
    root, follow = random.normal(size=(2, 3, 3)) / 2
    through, direct = random.normal(size=(2, 2, 3)) * np.array([1, direct])[:, None, None]
    x = random.normal(size=(200_000, 3)) @ root.T
    n = x @ follow.T + 0.5 * random.normal(size=x.shape)
    adv = x + n
    z = adv @ through.T + x @ direct.T + 0.7 * random.normal(size=(200_000, 2))

    def entropy(some):
        return np.linalg.slogdet(2 * math.pi * math.e * np.cov(some.T))[1] / 2

    expected = {
        "I(x~;z)": information(adv, z),
        "I(x;z)": information(x, z),
        "I(n;z)": information(n, z),
        "I(x;n;z)": information(x, z) - information(residual(x, n), residual(z, n)),
        "H(z|x,n)": entropy(residual(z, np.hstack([x, n]))),
        "H(z|x~)": entropy(residual(z, adv)),
    }
    terms = JointGaussian(root @ root.T, follow, through, direct, spread=0.5, noise=0.7).theorem1()
    for name, value in expected.items():
        assert terms[name] == pytest.approx(value, abs=0.015), name


def test_theorem_1_holds_to_rounding_and_its_terms_are_what_they_must_be():
    for seed in range(5):
        for case, joint in theorem1_cases(4, 3, seed).items():
            terms = joint.theorem1()
            assert abs(terms["difference"]) < 1e-12
            assert min(terms["I(x~;z)"], terms["I(x;z)"], terms["I(n;z)"]) > 0.001
            if case == "z sees x beside x~":
                assert terms["H(z|x,n)"] < terms["H(z|x~)"] - 0.01
            else:  # z depends on x and n through x~ alone
                assert terms["H(z|x,n)"] == pytest.approx(terms["H(z|x~)"], abs=1e-10)
            if case == "n independent of x":
                assert terms["I(x;n;z)"] < -0.001  # -I(x;n|z): to know z ties x and n together
