"""WMIM, weight averaging, weight perturbation, schedules and presets: the step against its formula, and the scripts as a user runs them."""

import csv
import json
import shutil
from functools import partial
from types import SimpleNamespace

import one_batch
import pytest
import torch
import torch.nn.functional as F
from conftest import SMALL, run_script, succeed, tensors

import models
import train_MIAT
from models import mi
from utils.attacks import projected_gradient
from utils.attacks.projected_gradient import pgd
from utils.mi import patterns
from utils.mi.estimator import MIEstimator
from utils.mi.losses import namid
from utils.settings.command_line import parse
from utils.training.weight_perturbation import WeightPerturbation

NEW = ["schedule", "ema", "awp", "awp_warmup", "preset"]  # options that runs of before did not have


def rows(folder) -> list[dict]:
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def networks():
    """A narrow target in train mode, frozen estimators, and a batch that it gets right without the attack."""
    torch.manual_seed(0)
    nets = {
        f"{kind}_mi": MIEstimator(mi.LocalNet(8), mi.GlobalNet(10, 8)).eval().requires_grad_(False)
        for kind in ("natural", "adversarial")
    }
    target, x = models.build("resnet18", width=4).train(), torch.rand(8, 3, 16, 16)
    return SimpleNamespace(target=target, **nets, x=x, y=target(x).argmax(1))


def stage_3(networks, words, perturbation=None):
    """One step of train_MIAT, and the adversarial images it trains on."""
    settings = parse(
        train_MIAT.Settings,
        "",
        [*words.split(), *"--epsilon 0.5 --num-steps 1 --step-size 0.5 --warmup-epochs 0".split()],
    )
    x_adv = pgd(
        *(networks.target, networks.x, networks.y, *settings.attack.budget),
        generator=torch.Generator().manual_seed(3),
    )
    nets = {"natural": networks.natural_mi}
    if settings.mi_loss == "namid":
        nets["adversarial"] = networks.adversarial_mi
    batch = networks.x, networks.y, networks.target
    objective = partial(one_batch.stage_3, *batch, nets, settings, x_adv=x_adv)
    if perturbation:
        perturbation.ascend(lambda: objective().loss)
    return x_adv, objective()


def gradients(loss, target) -> list[torch.Tensor]:
    return torch.autograd.grad(loss, list(target.parameters()))


def test_wmim_is_its_formula_and_the_gradient_comes_through_the_output_alone(networks):
    x_adv, found = stage_3(networks, "--mi-loss wmim --alpha 0.7")
    loss, logged = found.loss, found.log
    logits = networks.target(x_adv)
    standard = networks.natural_mi(
        x_adv, logits
    )  # the pattern is the whole image, without a gradient to the target
    expected = F.cross_entropy(logits, networks.y) - 0.7 * standard.mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5) and logged[
        "mi_loss"
    ].item() == pytest.approx(-standard.mean().item(), rel=1e-5)
    assert set(logged) == {"adv_loss", "mi_loss"} and set(found.parts) == {"adv", "mi"}
    for ours, theirs in zip(gradients(loss, networks.target), gradients(expected, networks.target)):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "words, passes, encodings",
    [
        ("--mi-loss wmim", 1, {"natural": (1, 1)}),
        ("--mi-loss wmim --adv-loss trades", 2, {"natural": (1, 1)}),
        (
            "--adv-loss mart",
            2,
            {"natural": (1, 1), "adversarial": (1, 1)},
        ),  # both outputs in one pass of the global networks
        ("--without natural", 2, {"adversarial": (1, 1)}),
    ],
)
@pytest.mark.parametrize("gamma", [0.0, 0.01])
def test_each_network_runs_once_per_distinct_input(words, passes, encodings, gamma, networks):
    """Train-mode passes of the target, passes of (local, global) networks; the moved weights make a second round."""
    calls = []
    networks.target.register_forward_pre_hook(
        lambda net, _: calls.append("target") if net.training else None
    )
    for kind in ("natural", "adversarial"):
        for part in ("local", "global"):
            net = getattr(getattr(networks, f"{kind}_mi"), f"{part}_net")
            net.register_forward_pre_hook(lambda *_, name=f"{kind} {part}": calls.append(name))
    optimizer = torch.optim.SGD(networks.target.parameters(), 0.1)
    stage_3(
        networks, words, WeightPerturbation(networks.target, gamma, optimizer) if gamma else None
    )
    rounds = 2 if gamma else 1
    assert calls.count("target") == rounds * passes
    for kind in ("natural", "adversarial"):
        patterns, outputs = encodings.get(kind, (0, 0))
        assert (calls.count(f"{kind} local"), calls.count(f"{kind} global")) == (
            rounds * patterns,
            rounds * outputs,
        )


@pytest.mark.parametrize("words", ["--awp 0.05", "--awp 0.05 --mi-loss wmim"])
def test_stage_3_takes_its_gradient_at_the_moved_weights(words, networks):
    """A copy of the target with the moved weights, and no perturbation, has the same loss and gradient on the same images."""
    before = {name: value.clone() for name, value in networks.target.state_dict().items()}
    perturbation = WeightPerturbation(
        networks.target, 0.05, torch.optim.SGD(networks.target.parameters(), 0.1)
    )
    x_adv, (loss, *_) = stage_3(networks, words, perturbation)
    found = gradients(loss, networks.target)
    moved = [parameter.detach().clone() for parameter in networks.target.parameters()]
    assert any(
        not torch.equal(value, before[name]) for name, value in networks.target.named_parameters()
    )
    perturbation.restore()
    assert all(
        torch.equal(value, before[name]) for name, value in networks.target.named_parameters()
    )

    logits = {}
    for parameter, value in zip(networks.target.parameters(), moved):
        parameter.data.copy_(value)
    logits["x"], logits["x_adv"] = networks.target(networks.x), networks.target(x_adv)
    if "wmim" in words:
        expected = (
            F.cross_entropy(logits["x_adv"], networks.y)
            - 0.1 * networks.natural_mi(x_adv, logits["x_adv"]).mean()
        )
    else:
        four = [
            net(pattern, logits[of])
            for net, pattern in (
                (networks.natural_mi, networks.x),
                (networks.adversarial_mi, x_adv - networks.x),
            )
            for of in ("x", "x_adv")
        ]
        mask = patterns.select(logits["x"], logits["x_adv"], networks.y)["W"]
        assert mask.any()
        expected = F.cross_entropy(logits["x_adv"], networks.y) + 5 * namid(*four, mask, 0.1)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    for ours, theirs in zip(found, gradients(expected, networks.target)):
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-5 * theirs.abs().max().item())


@pytest.mark.parametrize("script", ["train_standard.py", "train_MIAT.py"])
def test_a_script_perturbs_after_its_warm_up_and_attacks_once(script, chain, tmp_path, monkeypatch):
    """Of two adversarial epochs of four batches, the weights are moved in the second."""
    attacks, moves = [], []
    true, ascend = projected_gradient.pgd, WeightPerturbation.ascend

    def noting(target, x, y, norm, epsilon, steps, *more, **settings):
        attacks.extend([1] if steps == 2 else [])  # not the evaluation's, of three steps
        return true(target, x, y, norm, epsilon, steps, *more, **settings)

    monkeypatch.setattr(projected_gradient, "pgd", noting)
    monkeypatch.setattr(
        WeightPerturbation, "ascend", lambda *args: moves.append(len(attacks)) or ascend(*args)
    )
    words = [*SMALL, "--eval-steps", 3, "--epochs", 2, "--awp", 0.05, "--awp-warmup", 1]
    if script == "train_MIAT.py":
        words += ["--warmup-epochs", 0, "--estimator-dir", chain / "estimators"]
    succeed(script, *words, "--model-dir", tmp_path)
    assert len(attacks) == 8 and moves == [5, 6, 7, 8]


ALL_ON = {
    "train_standard.py": "--defense trades --ema 0.9 --awp 0.01 --awp-warmup 1 --schedule cosine",
    "train_MIAT.py": "--mi-loss wmim --warmup-epochs 1 --ema 0.9 --awp 0.01 --schedule cyclic",
}


@pytest.fixture
def natural_only(chain, tmp_path):
    """A folder with the natural estimator's two files and no others."""
    folder = tmp_path / "natural"
    folder.mkdir()
    for name in ("local_n_model.pth", "global_n_model.pth"):
        shutil.copy(chain / "estimators" / name, folder)
    return folder


@pytest.mark.parametrize("script", ALL_ON)
def test_with_everything_on_a_stopped_run_ends_with_the_same_bits(script, natural_only, tmp_path):
    words = [*SMALL, "--epochs", 3, *ALL_ON[script].split()]
    words += ["--estimator-dir", natural_only] if script == "train_MIAT.py" else []
    through, stopped = tmp_path / "through", tmp_path / "stopped"
    succeed(script, *words, "--model-dir", through)
    assert run_script(script, *words, "--model-dir", stopped, stop_at=7).status == 143
    assert torch.load(stopped / "last.ckpt", weights_only=True)["index"] > 0
    succeed(script, *words, "--model-dir", stopped)
    one, other = (
        torch.load(folder / "last.ckpt", weights_only=True)["nets"] for folder in (through, stopped)
    )
    assert one.keys() == other.keys() == {"target", "average"}
    assert all(
        torch.equal(value, other[net][name]) for net in one for name, value in one[net].items()
    )

    # What is kept is the average, and it is what the record measures.
    last = tensors(through / "last_model.pth")
    assert all(torch.equal(value, one["average"][f"module.{name}"]) for name, value in last.items())
    assert not torch.equal(last["conv1.weight"], one["target"]["conv1.weight"])
    assert not torch.equal(last["bn1.running_mean"], one["target"]["bn1.running_mean"])
    assert one["average"]["steps"] == 3 * 4
    succeed(
        "test_comparison.py",
        "--model-dir",
        through,
        "--which",
        "last",
        "--split",
        "holdout",
        "--attacks",
        "none",
        "--output",
        tmp_path / "r.json",
    )
    found = json.loads((tmp_path / "r.json").read_text())["attacks"]["none"]["accuracy"]
    assert found == pytest.approx(float(rows(through)[-1]["natural_accuracy"]), abs=1e-3)


def test_wmim_needs_and_records_the_natural_estimator_alone(natural_only, tmp_path):
    succeed(
        "train_MIAT.py",
        *SMALL,
        "--epochs",
        2,
        "--warmup-epochs",
        1,
        "--mi-loss",
        "wmim",
        "--estimator-dir",
        natural_only,
        "--model-dir",
        tmp_path / "t",
    )
    assert models.load(tmp_path / "t" / "target_model.pth").about["defense"] == "wmim-ce"
    warm, row = rows(tmp_path / "t")
    assert {
        "adv_loss",
        "mi_loss",
        "gradient_adv",
        "gradient_mi",
        "natural_mi_of_adversarial_R",
    } <= set(row)
    assert not [
        name
        for name in row
        if name in ("selected", "mi_natural") or name.startswith("adversarial_mi")
    ]
    assert warm["mi_loss"] == "" and float(row["loss"]) == pytest.approx(
        float(row["adv_loss"]) + 0.1 * float(row["mi_loss"]), rel=1e-3
    )
    said = json.loads((tmp_path / "t" / "settings.json").read_text())
    assert (
        (said["options"]["alpha"], said["options"]["lam"]) == (0.1, 0.0)
        and said["pre_local_n_hash"]
        and "pre_local_a_hash" not in said
    )


def test_a_run_of_before_these_options_goes_on(chain, tmp_path):
    """As their defaults do; with another value it is refused by name."""
    shutil.copytree(chain / "standard", tmp_path / "old")
    saved = torch.load(tmp_path / "old" / "last.ckpt", weights_only=True)
    for name in NEW:
        saved["identity"].pop(name, None)
    torch.save(saved, tmp_path / "old" / "last.ckpt")
    words = [*SMALL, "--epochs", 4, "--model-dir", tmp_path / "old"]
    assert "already finished" in succeed("train_standard.py", *words).out
    for option, value, named in (
        ("--ema", 0.9, "ema 0.0 (now 0.9)"),
        ("--schedule", "cosine", "schedule steps (now cosine)"),
    ):
        refused = run_script("train_standard.py", *words, option, value)
        assert refused.status == 2 and refused.err.count("\n") == 1 and named in refused.err, (
            refused.err
        )


def test_values_make_a_run_and_not_the_presets_name(tmp_path):
    words = [*SMALL, "--epochs", 1, "--model-dir", tmp_path]
    succeed("train_standard.py", *words, "--preset", "strong")
    said = json.loads((tmp_path / "settings.json").read_text())
    assert {name: said["origin"][name] for name in ("ema", "batch_size", "momentum")} == {
        "ema": "preset strong",
        "batch_size": "command line",
        "momentum": "default",
    }
    assert (said["options"]["ema"], said["options"]["batch_size"]) == (0.999, 64)
    assert (
        "already finished"
        in succeed("train_standard.py", *words, "--weight-decay", "5e-4", "--ema", 0.999).out
    )
    refused = run_script("train_standard.py", *words)
    assert refused.status == 2 and "weight_decay 0.0005 (now 0.0002)" in refused.err
