"""train_MIAT.py as a user runs it: representations, bounds, released files, ablations, the weight of the MI part."""

import math

import pytest
import torch
from conftest import ESTIMATOR, SMALL, metrics, succeed, tensors

import models
import train_MIAT
from models import mi
from utils.settings.command_line import parse
from utils.training.estimators import load_estimators


@pytest.mark.parametrize("representation", ["layer3", "layer4"])
@pytest.mark.parametrize("bound", ["nce", "fd"])
def test_the_other_representations_and_bounds_go_through_the_chain(
    representation, bound, chain, tmp_path
):
    succeed(
        "train_MI_estimator.py",
        *ESTIMATOR,
        "--epochs",
        1,
        "--objective",
        "difference",
        "--representation",
        representation,
        "--bound",
        bound,
        "--pre-target",
        chain / "standard/best_model.pth",
        "--model-dir",
        tmp_path / "e",
        *["--scale-scores"] * (bound == "fd"),
    )
    net = mi.load_net(tmp_path / "e" / "global_n_model.pth")
    assert (
        net.representation == representation
        and net.about["bound"] == bound
        and net.about["scaled"] == (bound == "fd")
    )
    settings = parse(
        train_MIAT.Settings, "", [*map(str, SMALL), "--estimator-dir", str(tmp_path / "e")]
    )
    found = load_estimators(
        settings.files(),
        models.load(chain / "standard/best_model.pth"),
        settings.threat,
        None,
    )
    assert {(each.bound, each.scaled) for each in found.values()} == {(bound, bound == "fd")}
    succeed(
        "train_MIAT.py",
        *SMALL,
        "--epochs",
        1,
        "--warmup-epochs",
        0,
        "--alpha",
        0.1,
        "--estimator-dir",
        tmp_path / "e",
        "--model-dir",
        tmp_path / "t",
    )
    assert float(metrics(tmp_path / "t")[0]["mi_loss"]) != 0


@pytest.mark.parametrize(
    "without, gone, stays",
    [("natural", "mi_natural", "mi_adversarial"), ("adversarial", "mi_adversarial", "mi_natural")],
)
def test_ablations(without, gone, stays, chain, tmp_path):
    succeed(
        "train_MIAT.py",
        *SMALL,
        "--epochs",
        1,
        "--warmup-epochs",
        0,
        "--alpha",
        0.1,
        "--without",
        without,
        "--init",
        chain / "standard/best_model.pth",
        "--estimator-dir",
        chain / "estimators",
        "--model-dir",
        tmp_path,
    )
    row = metrics(tmp_path)[0]
    assert float(row[gone]) == 0 and float(row[stays]) > 0


def test_lambda_0_leaves_the_third_term_out(chain, tmp_path):
    succeed(
        "train_MIAT.py",
        *SMALL,
        "--epochs",
        1,
        "--warmup-epochs",
        0,
        "--alpha",
        0.1,
        "--lam",
        0,
        "--estimator-dir",
        chain / "estimators",
        "--model-dir",
        tmp_path,
    )
    assert float(metrics(tmp_path)[0]["mi_difference"]) == 0


def test_init_starts_from_the_file(chain, tmp_path):
    """With next to no learning the weights stay where the file has them."""
    succeed(
        "train_MIAT.py",
        *SMALL,
        "--lr",
        "1e-12",
        "--weight-decay",
        0,
        "--epochs",
        1,
        "--estimator-dir",
        chain / "estimators",
        "--init",
        chain / "standard/best_model.pth",
        "--model-dir",
        tmp_path,
    )
    before, after = tensors(chain / "standard/best_model.pth"), tensors(tmp_path / "last_model.pth")
    assert all(
        torch.allclose(before[name], after[name], atol=1e-7)
        for name in before
        if "running" not in name and "tracked" not in name
    )


@pytest.mark.parametrize("adv_loss", ["trades", "mart"])
def test_namid_with_another_adversarial_loss(adv_loss, chain, tmp_path):
    succeed(
        "train_MIAT.py",
        *SMALL,
        "--epochs",
        1,
        "--warmup-epochs",
        0,
        "--alpha",
        0.1,
        "--adv-loss",
        adv_loss,
        "--estimator-dir",
        chain / "estimators",
        "--model-dir",
        tmp_path,
    )
    assert math.isfinite(float(metrics(tmp_path)[0]["adv_loss"]))


def test_warnings_name_what_is_suspect():
    assert (
        train_MIAT.warnings({"gradient_adv": 1.0, "gradient_mi": 1.0, "largest_class": 0.2}) == []
    )
    assert (
        "outputs is 30.0 times that of L_adv"
        in train_MIAT.warnings({"gradient_adv": 1.0, "gradient_mi": 30.0})[0]
    )
    assert "collapsed" in train_MIAT.warnings({"largest_class": 0.95})[0]


def test_a_weight_that_takes_over_is_warned_of(chain, tmp_path):
    """Far too large a weight at once on an untrained narrow network, as alpha 5 is in results/cifar10-small."""
    result = succeed(
        "train_MIAT.py",
        *SMALL,
        "--epochs",
        2,
        "--warmup-epochs",
        0,
        "--alpha",
        500,
        "--estimator-dir",
        chain / "estimators",
        "--model-dir",
        tmp_path,
    )
    assert "warning: the gradient of alpha L_mi" in result.out
