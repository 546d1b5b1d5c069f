"""What a run belongs to: its folder, its precision, its held-out images, and estimator files of one make."""

import copy
import hashlib
import json
import shutil

import one_batch
import pytest
import torch
from conftest import ESTIMATOR, SMALL, run_script, succeed, tensors

import data
import models
import train_MI_estimator_only_max as script
from common.locks import locked
from models import mi
from utils.attacks.projected_gradient import pgd
from utils.mi import patterns
from utils.mi.estimator import MIEstimator
from utils.settings.command_line import parse
from utils.training import estimators


def everything_in(folder) -> dict[str, str]:
    """{file: hash of its bytes and its date} of a folder."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() + str(path.stat().st_mtime_ns)
        for path in folder.iterdir()
    }


@pytest.mark.parametrize("words", [["--defense", "trades"], ["--restart"], []])
def test_a_refused_second_process_changes_no_byte(words, chain, tmp_path):
    """Another process trains in the folder: its settings, models and checkpoint stay."""
    folder = tmp_path / "run"
    shutil.copytree(chain / "standard", folder)
    if not words:  # a run whose first checkpoint is not written yet
        (folder / "last.ckpt").unlink()
    before = everything_in(folder)
    with locked(folder):
        refused = run_script(
            "train_standard.py", *SMALL, "--epochs", 4, *words, "--model-dir", folder
        )
    assert (
        refused.status == 2
        and "another process trains in it" in refused.err
        and refused.err.count("\n") == 1
    )
    assert everything_in(folder) == before


@pytest.mark.parametrize(
    "stage, words",
    [
        ("train_MI_estimator.py", [*ESTIMATOR, "--pre-target", "{chain}/standard/best_model.pth"]),
        ("train_MIAT.py", [*SMALL, "--epochs", "1", "--estimator-dir", "{chain}/estimators"]),
    ],
)
def test_the_other_stages_lock_first_too(stage, words, chain, tmp_path):
    with locked(tmp_path):
        refused = run_script(
            stage, *[str(word).format(chain=chain) for word in words], "--model-dir", tmp_path
        )
    assert (
        refused.status == 2
        and "another process trains in it" in refused.err
        and not list(tmp_path.iterdir())
    )


def test_a_refused_command_leaves_the_folder_unlocked(chain, tmp_path):
    """Refused after the folder was opened: the next command may use it."""
    refused = run_script(
        "train_MIAT.py",
        *SMALL,
        "--epochs",
        1,
        "--estimator-dir",
        chain / "estimators",
        "--n-units",
        7,
        "--model-dir",
        tmp_path,
    )
    assert refused.status == 2 and "--n-units 7" in refused.err
    with locked(tmp_path, lambda: 1 / 0):
        pass


def test_a_run_resumes_in_the_precision_it_began_with(tmp_path):
    """--precision auto means another thing on another machine; the precision used is the run's."""
    words = [*SMALL, "--epochs", 3, "--model-dir", tmp_path]
    assert run_script("train_standard.py", *words, "--precision", "bf16", stop_at=6).status == 143
    refused = run_script("train_standard.py", *words, "--precision", "fp32")
    assert (
        refused.status == 2
        and "precision bf16 (now fp32)" in refused.err
        and refused.err.count("\n") == 1
    )
    succeed("train_standard.py", *words, "--precision", "bf16")


def test_auto_is_the_precision_it_stands_for(tmp_path):
    words = [*SMALL, "--epochs", 2, "--model-dir", tmp_path]
    assert run_script("train_standard.py", *words, stop_at=6).status == 143
    used = json.loads((tmp_path / "settings.json").read_text())["precision_used"]
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["identity"]["precision"] == used
    refused = run_script(
        "train_standard.py", *words, "--precision", "fp32" if used == "bf16" else "bf16"
    )
    assert refused.status == 2 and f"precision {used}" in refused.err
    succeed("train_standard.py", *words, "--precision", used)


@pytest.mark.parametrize("other", [False, True])
def test_a_checkpoint_from_before_takes_the_precision_that_settings_say(other, tmp_path):
    words = [*SMALL, "--epochs", 2, "--model-dir", tmp_path]
    assert run_script("train_standard.py", *words, stop_at=6).status == 143
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    checkpoint["identity"]["precision"] = "auto"
    torch.save(checkpoint, tmp_path / "last.ckpt")
    said = json.loads((tmp_path / "settings.json").read_text())
    if other:
        said["precision_used"] = {"fp32": "bf16", "bf16": "fp32"}[said["precision_used"]]
        (tmp_path / "settings.json").write_text(json.dumps(said))
    ended = run_script("train_standard.py", *words)
    assert (
        ended.status == (2 if other else 0)
        and (f"precision {said['precision_used']} (now" in ended.err) == other
    )


def estimators_of(chain, folder, *words):
    succeed(
        "train_MI_estimator.py",
        *ESTIMATOR,
        "--epochs",
        1,
        "--pre-target",
        chain / "standard/best_model.pth",
        *words,
        "--model-dir",
        folder,
    )


@pytest.mark.parametrize(
    "words, said",
    [
        (["--bound", "nce"], "--bound"),
        (["--scale-scores"], "--scale-scores"),
        (["--representation", "layer4"], "--representation"),
    ],
)
def test_estimator_files_of_different_makes_are_not_joined(words, said, chain, tmp_path):
    """The natural estimator of one run, the adversarial one of another."""
    estimators_of(chain, tmp_path / "other", *words)
    mixed = []
    for part in ("local", "global"):
        mixed += [f"--pre-{part}-a", tmp_path / "other" / f"{part}_a_model.pth"]
    command = [
        "train_MIAT.py",
        *SMALL,
        "--epochs",
        1,
        "--warmup-epochs",
        0,
        "--alpha",
        0.1,
        "--estimator-dir",
        chain / "estimators",
        *mixed,
        "--model-dir",
        tmp_path / "t",
    ]
    refused = run_script(*command)
    assert (
        refused.status == 2
        and f"was trained with {said}" in refused.err
        and refused.err.count("\n") == 1
    ), refused.err
    if said == "--bound":  # asked for by name, it is taken for both
        succeed(*command, "--bound", "dv", "--restart")


def test_local_and_global_network_of_different_makes_are_not_joined(chain, tmp_path):
    estimators_of(chain, tmp_path / "other", "--bound", "nce")
    refused = run_script(
        "train_MIAT.py",
        *SMALL,
        "--epochs",
        1,
        "--estimator-dir",
        chain / "estimators",
        "--pre-global-n",
        tmp_path / "other/global_n_model.pth",
        "--model-dir",
        tmp_path / "t",
    )
    assert (
        refused.status == 2
        and "global_n_model.pth: was trained with --bound nce" in refused.err
        and refused.err.count("\n") == 1
    )


def init(chain, folder, *words, path=None):
    return run_script(
        "train_MIAT.py",
        *SMALL,
        "--epochs",
        1,
        "--warmup-epochs",
        0,
        "--alpha",
        0.1,
        "--estimator-dir",
        chain / "estimators",
        "--init",
        path or chain / "standard/best_model.pth",
        "--model-dir",
        folder,
        *words,
    )


@pytest.mark.parametrize(
    "words, said",
    [
        (["--seed", 2], "60 images held out by --seed 1; here 60 are held out by --seed 2"),
        (["--holdout", 30], "here 30 are held out"),
        (["--limit-train", 200], "trained on 300 images"),
    ],
)
def test_a_start_that_was_trained_on_held_out_images_is_refused(words, said, chain, tmp_path):
    for path in (chain / "standard/best_model.pth", tmp_path / "before/best_model.pth"):
        if not path.exists():  # a file from before files said it: settings.json does
            shutil.copytree(chain / "standard", tmp_path / "before")
            content = torch.load(path, weights_only=True)
            content["about"] = {
                k: v for k, v in content["about"].items() if not k.startswith("held_out")
            }
            torch.save(content, path)
        refused = init(chain, tmp_path / "t", *words, path=path)
        assert refused.status == 2 and said in refused.err and refused.err.count("\n") == 1, (
            refused.err
        )


def test_a_start_with_the_same_held_out_images_or_none_is_taken(chain, tmp_path):
    assert init(chain, tmp_path / "same").status == 0
    assert init(chain, tmp_path / "none", "--holdout", 0, "--seed", 3).status == 0
    torch.save(tensors(chain / "standard/best_model.pth"), tmp_path / "plain.pth")
    ended = init(chain, tmp_path / "plain", path=tmp_path / "plain.pth")
    assert ended.status == 0 and "does not say which images it was trained on" in ended.out


def test_a_start_of_another_threat_model_is_refused(chain, tmp_path):
    content = torch.load(chain / "standard/best_model.pth", weights_only=True)
    content["about"]["epsilon"] = 0.5
    torch.save(content, tmp_path / "other.pth")
    refused = init(chain, tmp_path / "t", path=tmp_path / "other.pth")
    assert (
        refused.status == 2
        and "was made with epsilon 0.5" in refused.err
        and refused.err.count("\n") == 1
    )


def test_estimators_by_eq_4_see_their_own_kind_of_sample_alone(chain):
    """The other kind would move their batch-norm statistics, and nothing else."""
    torch.manual_seed(0)
    target, digits = (
        models.load(chain / "standard/best_model.pth"),
        data.load("digits", limit_train=32),
    )
    x, y = digits.train_images.float() / 255, digits.train_labels
    settings = parse(script.Settings, "", ["--epsilon", "0.15", "--num-steps", "2"])
    nets = {
        kind: MIEstimator(mi.LocalNet(8), mi.GlobalNet(10, 8))
        for kind in ("natural", "adversarial")
    }
    alone = copy.deepcopy(nets)
    batch = x, y, target, nets
    one_batch.stage_2(
        *(*batch, script.OBJECTIVES, settings.attack),
        compare=False,
        generator=torch.Generator().manual_seed(1),
    )
    x_adv = pgd(target, x, y, "linf", 0.15, 2, 0.15 / 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        alone["natural"](patterns.natural(x, x_adv), target(x))
        alone["adversarial"](patterns.adversarial(x, x_adv), target(x_adv))
    for kind, net in nets.items():
        for (name, found), expected in zip(net.named_buffers(), alone[kind].buffers()):
            torch.testing.assert_close(
                found, expected, msg=lambda text, name=name: f"{name}: {text}"
            )


def test_the_script_of_eq_4_does_not_compare(chain, tmp_path, monkeypatch):
    true, seen = estimators.own_and_other, set()

    def noting(estimator, pattern, own, other):
        seen.add(other is not None)
        return true(estimator, pattern, own, other)

    monkeypatch.setattr(estimators, "own_and_other", noting)
    words = [
        *ESTIMATOR,
        "--epochs",
        1,
        "--pre-target",
        chain / "standard/best_model.pth",
        "--model-dir",
    ]
    succeed("train_MI_estimator_only_max.py", *words, tmp_path / "max")
    assert seen == {False}
    succeed("train_MI_estimator.py", *words, tmp_path / "cosine")
    assert seen == {False, True}
