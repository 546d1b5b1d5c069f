"""The scripts as a user runs them, in a chain, on a few real digits: the files, logs and counts that they leave."""

import json

import pytest
import torch
from conftest import ESTIMATOR, SMALL, metrics, same_bits, succeed, tensors

import data
import models
from utils.attacks.projected_gradient import pgd

FOUR = ["local_n_model.pth", "global_n_model.pth", "local_a_model.pth", "global_a_model.pth"]
MI_COLUMNS = {
    f"{kind}_mi_of_{sample}_{chosen}"
    for kind in ("natural", "adversarial")
    for sample in ("natural", "adversarial")
    for chosen in "WR"
}


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
