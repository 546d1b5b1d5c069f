"""The scripts as a user runs them, in a chain, stopped and gone on with, on a few real digits."""

import csv
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from unittest import mock

import pytest
import torch
from conftest import ESTIMATOR, ROOT, SMALL, run_script, same_bits, succeed, tensors

import data
import models
import train_MIAT
from common.locks import locked
from models import mi
from utils.attacks.projected_gradient import pgd
from utils.settings.command_line import parse
from utils.training.estimators import load_estimators

FOUR = ["local_n_model.pth", "global_n_model.pth", "local_a_model.pth", "global_a_model.pth"]
MI_COLUMNS = {
    f"{kind}_mi_of_{sample}_{chosen}"
    for kind in ("natural", "adversarial")
    for sample in ("natural", "adversarial")
    for chosen in "WR"
}


def metrics(folder) -> list[dict]:
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_every_stage_leaves_its_files(chain):
    files = {
        "standard": ["best_model.pth", "last_model.pth"],
        "estimators": FOUR,
        "namid": ["target_model.pth", "last_model.pth"],
    }
    for stage, names in files.items():
        for name in [*names, "settings.json", "metrics.csv", "last.ckpt", "curves.png"]:
            assert (chain / stage / name).stat().st_size > 0, (stage, name)
        assert not [path for path in (chain / stage).iterdir() if path.name.endswith(".part")]
        assert (chain / stage / "curves.png").read_bytes()[:4] == b"\x89PNG"


def test_settings_say_how_the_run_was_made(chain):
    said = json.loads((chain / "namid" / "settings.json").read_text())
    assert (
        said["options"]["epsilon"] == 0.15
        and said["options"]["step_size"] == 0.15 / 4
        and said["options"]["lam"] == 0.1
    )
    assert (
        said["versions"]["torch"] == torch.__version__
        and said["data_fingerprint"]
        and said["command"].startswith("train_MIAT.py")
    )
    assert set(said["options"]) >= {
        "dataset",
        "seed",
        "alpha",
        "beta",
        "without",
        "init",
        "alpha_ramp",
        "warmup_epochs",
        "precision",
    }


def test_metrics_hold_accuracies_and_mi_values(chain):
    for stage, epochs in (("standard", 4), ("estimators", 2), ("namid", 4)):
        rows = metrics(chain / stage)
        assert [int(row["epoch"]) for row in rows] == list(range(1, epochs + 1))
        assert all(
            0 <= float(row["natural_accuracy"]) <= 100 and float(row["loss"]) == float(row["loss"])
            for row in rows
        )
    assert (
        set(metrics(chain / "estimators")[0]) >= MI_COLUMNS
        and set(metrics(chain / "namid")[0]) >= MI_COLUMNS
    )
    warm, adversarial = metrics(chain / "namid")[1], metrics(chain / "namid")[2]
    parts = [
        "adv_loss",
        "mi_loss",
        "mi_natural",
        "mi_adversarial",
        "mi_difference",
        "gradient_adv",
        "gradient_mi",
        "selected",
    ]
    assert all(warm[name] == "" for name in parts)
    values = {name: float(adversarial[name]) for name in parts}
    assert values["mi_loss"] == pytest.approx(
        values["mi_natural"] + values["mi_adversarial"] + values["mi_difference"], rel=1e-3
    )
    assert float(adversarial["loss"]) == pytest.approx(
        values["adv_loss"] + 0.1 * values["mi_loss"], rel=1e-3
    )


def test_best_is_the_epoch_with_the_best_mean_on_held_out_images(chain):
    """Measured again here from the file, on the held-out images, image by image."""
    rows = metrics(chain / "standard")
    best = max(rows, key=lambda row: float(row["score"]))
    result = succeed(
        "test_comparison.py",
        "--model-dir",
        chain / "standard",
        "--split",
        "holdout",
        "--attacks",
        "none,pgd-2",
        "--output",
        chain / "holdout.json",
    )
    assert "60 images" in result.out
    found = json.loads((chain / "holdout.json").read_text())["attacks"]
    assert found["none"]["accuracy"] == pytest.approx(float(best["natural_accuracy"]), abs=1e-3)
    # the attack's random start is another one here
    assert found["pgd-2"]["accuracy"] == pytest.approx(float(best["robust_accuracy"]), abs=5)


def test_evaluation_counts_images(chain):
    """Against the count written out: natural accuracy by argmax, PGD accuracy only over what was right before."""
    succeed(
        "test_comparison.py",
        "--model-dir",
        chain / "standard",
        "--attacks",
        "none,fgsm,bim-3,pgd-3",
        "--limit-test",
        150,
        "--batch-size",
        64,
        "--output",
        chain / "r.json",
    )
    said = json.loads((chain / "r.json").read_text())
    assert (said["n"], said["norm"], said["epsilon"]) == (150, "linf", 0.15)
    target = models.load(chain / "standard" / "best_model.pth")
    digits = data.load("digits")
    x, y = digits.test_images[:150].float() / 255, digits.test_labels[:150]
    right = target(x).argmax(1) == y
    row = said["attacks"]["none"]
    assert (row["accuracy"], row["correct"], row["n"]) == (
        100 * right.sum().item() / 150,
        right.sum().item(),
        150,
    )
    assert row["outcomes"] == "".join("r" if each else "w" for each in right)
    x_adv = pgd(target, x, y, epsilon=0.15, steps=3, start=torch.zeros_like(x), until_fooled=True)
    expected = (right & (target(x_adv).argmax(1) == y)).sum().item()
    assert said["attacks"]["bim-3"]["correct"] == expected
    assert said["attacks"]["pgd-3"]["correct"] <= said["attacks"]["none"]["correct"]


def test_evaluation_does_not_depend_on_the_batch_size(chain):
    correct = []
    for size in (397, 50):
        succeed(
            "test_comparison.py",
            "--model-dir",
            chain / "namid",
            "--attacks",
            "none,bim-3",
            "--batch-size",
            size,
            "--output",
            chain / f"batch{size}.json",
        )
        correct.append(
            [
                r["outcomes"]
                for r in json.loads((chain / f"batch{size}.json").read_text())["attacks"].values()
            ]
        )
    assert correct[0] == correct[1]


def test_evaluation_of_one_file_is_that_of_the_folder(chain):
    torch.save(tensors(chain / "namid" / "target_model.pth"), chain / "plain.pth")
    found = []
    for words in (
        ["--model-dir", chain / "namid"],
        [
            "--model",
            chain / "plain.pth",
            "--arch",
            "resnet18",
            "--dataset",
            "digits",
            "--epsilon",
            "0.15",
        ],
    ):
        succeed(
            "test_comparison.py",
            *words,
            "--attacks",
            "none,fgsm",
            "--output",
            chain / "f.json",
            "--restart",
        )
        found.append(
            [r["correct"] for r in json.loads((chain / "f.json").read_text())["attacks"].values()]
        )
    assert found[0] == found[1]


STAGES = {
    "train_standard.py": [*SMALL, "--epochs", "3"],
    "train_MI_estimator.py": [*ESTIMATOR, "--pre-target", "{chain}/standard/best_model.pth"],
    "train_MI_estimator_only_max.py": [
        *ESTIMATOR,
        "--pre-target",
        "{chain}/standard/best_model.pth",
    ],
    "train_MIAT.py": [
        *SMALL,
        "--epochs",
        "3",
        "--warmup-epochs",
        "1",
        "--estimator-dir",
        "{chain}/estimators",
    ],
}


@pytest.mark.parametrize("script", STAGES)
@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stopped_in_the_middle_of_an_epoch_ends_with_the_same_bits(
    script, number, status, chain, tmp_path
):
    """4 batches to an epoch: the 6th training attack is in the second adversarial epoch; evaluation attacks count too."""
    words = [word.format(chain=chain) for word in STAGES[script]]
    through, stopped = tmp_path / "through", tmp_path / "stopped"
    succeed(script, *words, "--model-dir", through)
    first = run_script(script, *words, "--model-dir", stopped, stop_at=7, number=number)
    assert first.status == status, first.err + first.out
    assert "the same command resumes" in first.err and (stopped / "last.ckpt").exists()
    assert (
        torch.load(stopped / "last.ckpt", weights_only=True)["index"] > 0
    )  # it was inside an epoch
    again = succeed(script, *words, "--model-dir", stopped)
    assert "resumed after epoch" in again.out
    names = [path.name for path in through.glob("*.pth")]
    assert names and all(same_bits(through / name, stopped / name) for name in names)
    told = [
        [
            {k: v for k, v in row.items() if k not in ("seconds", "images_per_second")}
            for row in metrics(folder)
        ]
        for folder in (through, stopped)
    ]
    assert told[0] == told[1]


def test_a_signal_in_the_evaluation_stops_after_its_epoch(tmp_path):
    """No step of the next is made; in the last epoch nothing is left to stop."""

    def stopping(*arguments, **settings):
        os.kill(os.getpid(), signal.SIGTERM)
        return pgd(*arguments, **settings)

    with mock.patch("utils.training.held_out.pgd", stopping):
        stopped = run_script("train_standard.py", *SMALL, "--epochs", 2, "--model-dir", tmp_path)
    assert (
        stopped.status == 143
        and "state saved in epoch 2 after batch 0" in stopped.err
        and len(metrics(tmp_path)) == 1
    )
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert (checkpoint["epoch"], checkpoint["index"]) == (1, 0)
    with mock.patch("utils.training.held_out.pgd", stopping):
        succeed("train_standard.py", *SMALL, "--epochs", 2, "--model-dir", tmp_path)
    assert len(metrics(tmp_path)) == 2


def test_a_folder_has_one_training_at_a_time(tmp_path):
    with locked(tmp_path):
        refused = run_script("train_standard.py", *SMALL, "--epochs", 1, "--model-dir", tmp_path)
        assert (
            refused.status == 2
            and "another process trains in it" in refused.err
            and refused.err.count("\n") == 1
        )
    succeed("train_standard.py", *SMALL, "--epochs", 1, "--model-dir", tmp_path)


def test_killed_without_warning_ends_with_the_same_bits(tmp_path):
    """SIGKILL as soon as the first epoch is saved, in a process of its own; then the same command."""
    words = [sys.executable, "train_standard.py", *SMALL, "--epochs", "6"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*words, "--model-dir", tmp_path / "killed"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    limit = time.monotonic() + 120
    while not (tmp_path / "killed" / "metrics.csv").exists():
        assert process.poll() is None and time.monotonic() < limit
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert len(metrics(tmp_path / "killed")) < 6
    for folder in ("killed", "through"):
        subprocess.run(
            [*words, "--model-dir", tmp_path / folder],
            cwd=ROOT,
            env=environment,
            check=True,
            stdout=subprocess.DEVNULL,
        )
    assert same_bits(
        tmp_path / "killed" / "last_model.pth", tmp_path / "through" / "last_model.pth"
    )
    assert same_bits(
        tmp_path / "killed" / "best_model.pth", tmp_path / "through" / "best_model.pth"
    )


def test_a_finished_run_says_so_and_changes_nothing(chain):
    before = {path.name: path.read_bytes() for path in (chain / "standard").glob("*.pth")}
    again = succeed("train_standard.py", *SMALL, "--epochs", 4, "--model-dir", chain / "standard")
    assert "already finished after epoch 4" in again.out
    assert all(
        torch.load(chain / "standard" / name, weights_only=True) is not None for name in before
    )
    assert len(metrics(chain / "standard")) == 4


def test_other_settings_are_refused_by_name_and_the_run_stays(chain):
    before = (chain / "standard" / "last.ckpt").read_bytes()
    for words, named in (
        (["--lr", "0.01"], "lr 0.05 (now 0.01)"),
        (["--seed", "2"], "seed 1 (now 2)"),
        (["--limit-train", "280"], "data_fingerprint"),
    ):
        refused = run_script(
            "train_standard.py", *SMALL, "--epochs", 4, *words, "--model-dir", chain / "standard"
        )
        assert refused.status == 2 and named in refused.err and refused.err.count("\n") == 1, (
            refused.err
        )
    refused = run_script(
        "train_MI_estimator.py",
        *ESTIMATOR,
        "--pre-target",
        chain / "standard/best_model.pth",
        "--model-dir",
        chain / "standard",
    )
    assert refused.status == 2 and "stage train_standard (now train_MI_estimator)" in refused.err
    assert (chain / "standard" / "last.ckpt").read_bytes() == before


def test_restart_throws_the_run_away_and_nothing_else(tmp_path):
    words = [*SMALL, "--model-dir", tmp_path]
    succeed("train_standard.py", *words, "--epochs", 1)
    (tmp_path / "notes.txt").write_text("mine")
    succeed("train_standard.py", *words, "--epochs", 2, "--restart")
    assert len(metrics(tmp_path)) == 2 and (tmp_path / "notes.txt").read_text() == "mine"


def test_divergence_keeps_the_last_good_state(tmp_path):
    result = run_script(
        "train_standard.py",
        *SMALL,
        "--epochs",
        2,
        "--lr-milestones",
        "0.5",
        "--lr-factor",
        "1e30",
        "--model-dir",
        tmp_path,
    )
    assert result.status == 3 and "epoch 2" in result.err and "last.ckpt" in result.err
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["epoch"] == 1 and all(
        torch.isfinite(v).all() for v in saved["nets"]["target"].values()
    )


def test_without_held_out_images_the_last_model_is_kept(tmp_path):
    succeed("train_standard.py", *SMALL, "--epochs", 1, "--holdout", 0, "--model-dir", tmp_path)
    assert same_bits(tmp_path / "best_model.pth", tmp_path / "last_model.pth")


@pytest.mark.parametrize("defense", ["natural", "trades", "mart"])
def test_the_other_defenses_train(defense, tmp_path):
    succeed(
        "train_standard.py", *SMALL, "--epochs", 3, "--defense", defense, "--model-dir", tmp_path
    )
    rows = metrics(tmp_path)
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])


def test_bf16_trains_much_like_float32(chain, tmp_path):
    succeed(
        "train_standard.py", *SMALL, "--epochs", 4, "--precision", "bf16", "--model-dir", tmp_path
    )
    assert json.loads((tmp_path / "settings.json").read_text())["precision_used"] == "bf16"
    assert float(metrics(tmp_path)[-1]["loss"]) == pytest.approx(
        float(metrics(chain / "standard")[-1]["loss"]), rel=0.15
    )
    assert all(
        value.dtype != torch.bfloat16 for value in tensors(tmp_path / "last_model.pth").values()
    )


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
        settings.estimator_files(),
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


def test_released_files_by_the_released_options(chain, tmp_path):
    """Plain state dicts, the local network's layers twice, given as the released code's four options."""
    words = []
    for name in FOUR:
        state = tensors(chain / "estimators" / name)
        state |= {
            name.replace("layer", "layers.", 1): value
            for name, value in state.items()
            if name.startswith("layer")
        }
        torch.save(state, tmp_path / name)
        words += [f"--pre_{name.removesuffix('_model.pth')}", tmp_path / name]
    result = succeed(
        "train_MIAT.py",
        *SMALL,
        "--epochs",
        4,
        "--warmup-epochs",
        2,
        "--alpha",
        0.1,
        *words,
        "--model-dir",
        tmp_path / "t",
    )
    assert "does not say how it was trained" in result.out
    assert same_bits(tmp_path / "t" / "last_model.pth", chain / "namid" / "last_model.pth")


def test_a_published_target_by_its_architecture(chain, tmp_path):
    torch.save(
        {f"module.{k}": v for k, v in tensors(chain / "standard" / "best_model.pth").items()},
        tmp_path / "plain.pth",
    )
    succeed(
        "train_MI_estimator.py",
        *ESTIMATOR,
        "--pre-target",
        tmp_path / "plain.pth",
        "--arch",
        "resnet18",
        "--model-dir",
        tmp_path / "e",
    )
    assert all(same_bits(tmp_path / "e" / name, chain / "estimators" / name) for name in FOUR)


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


def test_digits_of_another_folder_are_another_data_set(chain, tmp_path):
    """The run's identity is its data, not where they lie: the same arrays from a folder go on with the run."""
    import numpy

    digits = data.load("digits")
    for split in ("train", "test"):
        images = getattr(digits, f"{split}_images").permute(0, 2, 3, 1).numpy()
        numpy.save(tmp_path / f"{split}_images.npy", images)
        numpy.save(tmp_path / f"{split}_labels.npy", getattr(digits, f"{split}_labels").numpy())
    shutil.copytree(chain / "standard", tmp_path / "copy")
    result = succeed(
        "train_standard.py",
        *SMALL,
        "--epochs",
        4,
        "--data-dir",
        tmp_path,
        "--model-dir",
        tmp_path / "copy",
    )
    assert "already finished" in result.out


def test_compile_changes_nothing_but_the_speed(chain, tmp_path, monkeypatch):
    """With the compiler's front end alone ("eager" runs the captured graphs as they are) the bits stay; Inductor takes a minute."""
    true, compiled = torch.nn.Module.compile, []
    monkeypatch.setattr(
        torch.nn.Module,
        "compile",
        lambda net, **options: compiled.append(net) or true(net, backend="eager", **options),
    )
    succeed("train_standard.py", *SMALL, "--epochs", 4, "--compile", "--model-dir", tmp_path)
    assert len(compiled) == 1 and same_bits(
        tmp_path / "last_model.pth", chain / "standard" / "last_model.pth"
    )
