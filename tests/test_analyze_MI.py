"""analyze_MI.py as a user runs it: values of each image, areas, the bounds on Gaussians, Theorem 1, and mistakes."""

import csv
import json
import math

import numpy as np
import pytest
import torch
from conftest import run_script, succeed

import data
import models
from models import mi
from utils.attacks.projected_gradient import pgd
from utils.devices import mix
from utils.mi.estimator import MIEstimator

SAMPLES = ["samples", "--limit-test", 40, "--num-steps", 3]


def rows(path) -> list[dict]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def column(table: list[dict], name: str) -> np.ndarray:
    return np.array([float(row[name]) for row in table])


def analyze(chain, folder, *words):
    return succeed(
        "analyze_MI.py",
        *SAMPLES,
        "--model-dir",
        chain / "namid",
        "--estimator-dir",
        chain / "estimators",
        "--output",
        folder,
        *words,
    )


def test_values_are_the_estimators_own(chain, tmp_path):
    """Against the attack, the network and the estimators called one by one, in two batches of 20."""
    said = analyze(chain, tmp_path, "--batch-size", 20).out
    table = rows(tmp_path / "values.csv")
    digits = data.load("digits", limit_test=40)
    target = models.load(chain / "namid/target_model.pth")
    natural, adversarial = (
        MIEstimator(
            *(
                mi.load_net(chain / f"estimators/{part}_{letter}_model.pth")
                for part in ("local", "global")
            )
        )
        for letter in "na"
    )
    assert [int(row["label"]) for row in table] == digits.test_labels.tolist()
    for number in range(2):
        part = slice(20 * number, 20 * number + 20)
        x, y = digits.test_images[part].float() / 255, digits.test_labels[part]
        x_adv = pgd(
            target, x, y, "linf", 0.15, 3, generator=torch.Generator().manual_seed(mix(1, number))
        )
        with torch.no_grad():
            z, z_adv = target(x), target(x_adv)
            expected = {
                "natural_mi_of_natural": natural(x, z),
                "natural_mi_of_adversarial": natural(x, z_adv),
                "adversarial_mi_of_natural": adversarial(x_adv - x, z),
                "adversarial_mi_of_adversarial": adversarial(x_adv - x, z_adv),
                "prediction": z.argmax(1),
                "prediction_adversarial": z_adv.argmax(1),
                "batch": torch.full((20,), number),
            }
        for name, values in expected.items():
            np.testing.assert_allclose(
                column(table[part], name), values, rtol=1e-3, atol=1e-3, err_msg=name
            )
    assert "others of its batch of 20:" in said
    assert {path.name for path in tmp_path.iterdir()} == {
        "values.csv",
        "summary.json",
        "histograms.png",
        "roc.png",
    }


def test_the_summary_follows_from_the_values(chain, tmp_path):
    said = analyze(chain, tmp_path).out
    table, summary = (
        rows(tmp_path / "values.csv"),
        json.loads((tmp_path / "summary.json").read_text()),
    )
    natural, adversarial = (
        column(table, f"adversarial_mi_of_{kind}") for kind in ("natural", "adversarial")
    )
    found = summary["detection"]["adversarial"]["all"]
    assert found["auc"] == pytest.approx(
        (adversarial[:, None] > natural).mean() + 0.5 * (adversarial[:, None] == natural).mean(),
        abs=1e-3,
    )
    assert (
        found["n"] == summary["n"] == 40
        and f"{found['auc']:.3f} ({found['interval'][0]:.3f}-" in said
    )
    natural, adversarial = (
        column(table, f"natural_mi_of_{kind}") for kind in ("natural", "adversarial")
    )
    assert summary["detection"]["natural"]["all"]["auc"] == pytest.approx(
        (adversarial[:, None] < natural).mean() + 0.5 * (adversarial[:, None] == natural).mean(),
        abs=1e-3,
    )
    assert summary["mi"]["natural_mi_of_natural"]["all"]["mean"] == pytest.approx(
        natural.mean(), abs=1e-4
    )
    assert (
        summary["batch_sizes"] == [40]
        and summary["epsilon"] == 0.15
        and summary["bound"] == "dv"
        and summary["n_units"] == 16
    )
    right = (column(table, "prediction_adversarial") == column(table, "label")).sum()
    assert summary["robust_accuracy"]["percent"] == pytest.approx(100 * right / 40)


def test_the_same_command_gives_the_same_bytes_and_another_batch_size_other_values(chain, tmp_path):
    for name, words in (("one", []), ("two", []), ("small", ["--batch-size", 10])):
        analyze(chain, tmp_path / name, *words)
    one, two, small = (
        (tmp_path / name / "values.csv").read_bytes() for name in ("one", "two", "small")
    )
    assert one == two != small
    gap = abs(
        column(rows(tmp_path / "one/values.csv"), "natural_mi_of_natural")
        - column(rows(tmp_path / "small/values.csv"), "natural_mi_of_natural")
    )
    assert gap.max() > 1e-3


def test_a_model_file_and_the_attacks_options(chain, tmp_path):
    succeed(
        "analyze_MI.py",
        *SAMPLES,
        "--model",
        chain / "standard/best_model.pth",
        "--estimator-dir",
        chain / "estimators",
        "--bound",
        "nce",
        "--output",
        tmp_path,
    )
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (
        summary["bound"],
        summary["dataset"],
        summary["norm"],
        summary["epsilon"],
        summary["num_steps"],
    ) == ("nce", "digits", "linf", 0.15, 3)
    table = rows(tmp_path / "values.csv")
    assert max(column(table, "natural_mi_of_natural")) <= math.log(40) + 1e-5


def refused(*words) -> str:
    result = run_script("analyze_MI.py", *words)
    assert result.status == 2 and result.err.count("\n") == 1 and "Traceback" not in result.err, (
        result.err
    )
    return result.err


def test_mistakes_are_named(chain, tmp_path):
    whole = [
        "samples",
        "--model-dir",
        chain / "namid",
        "--estimator-dir",
        chain / "estimators",
        "--output",
        tmp_path / "o",
    ]
    assert "{samples, gaussians, theorem1, vulnerability, mixture, layers}" in refused()
    assert "--model-dir or --model" in refused("samples")
    assert "--model-dir or --model" in refused(*whole, "--model", "a.pth")
    assert "--batch-size 1" in refused(*whole, "--batch-size", 1)
    assert "--limit-test 1" in refused(*whole, "--limit-test", 1)
    assert "--num-steps 0" in refused(*whole, "--num-steps", 0)
    assert "epsilon 0.15" in refused(*whole, "--epsilon", "8/255")  # the estimators' own budget
    assert "local_n_model.pth" in refused(*whole[:3], "--estimator-dir", tmp_path)
    assert "--dim 0" in refused("gaussians", "--dim", 0)
    assert "--mi" in refused("gaussians", "--mi", "-1") and "--mi" in refused(
        "gaussians", "--mi", "1", "40"
    )
    assert "--samples" in refused("gaussians", "--samples", 1) and "--samples" in refused(
        "gaussians", "--samples"
    )
    assert "--outputs 0" in refused("theorem1", "--outputs", 0)
    (tmp_path / "file").write_text("not a folder")
    assert "--output" in refused("theorem1", "--output", tmp_path / "file/o")
    assert not (tmp_path / "o").exists()


def test_estimators_that_have_diverged(chain, tmp_path):
    for path in (chain / "estimators").glob("*_model.pth"):
        net = mi.load_net(path)
        if path.name == "local_n_model.pth":
            torch.nn.init.constant_(net.block_ln[1].weight, 1e38)  # finite; what comes of it is not
        mi.save_net(net, tmp_path / path.name, **net.about)
    line = refused(
        *SAMPLES,
        "--model-dir",
        chain / "namid",
        "--estimator-dir",
        tmp_path,
        "--output",
        tmp_path / "o",
    )
    assert "not finite for 40 of 40" in line


def test_the_bounds_on_gaussians(tmp_path):
    words = [
        "gaussians",
        "--mi",
        1,
        4,
        "--samples",
        8,
        32,
        "--repetitions",
        20,
        "--steps",
        5,
        "--output",
    ]
    said = succeed("analyze_MI.py", *words, tmp_path / "one").out
    succeed("analyze_MI.py", *words, tmp_path / "two")
    assert (tmp_path / "one/gaussians.csv").read_bytes() == (
        tmp_path / "two/gaussians.csv"
    ).read_bytes()
    table = rows(tmp_path / "one/gaussians.csv")
    assert len(table) == 2 * 4 * 2 * 2
    for row in table:
        assert float(row["bias"]) == pytest.approx(float(row["mean"]) - float(row["mi"]), abs=1e-4)
        assert f"{float(row['bias']):+.3f}"[:-1] in said
    optimal = {
        (row["bound"], int(row["n"]), float(row["mi"])): float(row["bias"])
        for row in table
        if row["critic"] == "optimal"
    }
    assert optimal["nce", 8, 4.0] < math.log(8) - 4 < 0 < optimal["dv", 8, 4.0]
    assert {path.name for path in (tmp_path / "one").iterdir()} == {
        "gaussians.csv",
        "gaussians-optimal.png",
        "gaussians-trained.png",
    }


def test_theorem_1(tmp_path):
    said = succeed(
        "analyze_MI.py", "theorem1", "--dim", 3, "--outputs", 2, "--seed", 4, "--output", tmp_path
    ).out
    table = rows(tmp_path / "theorem1.csv")
    assert len(table) == 4
    for row in table:
        assert abs(float(row["difference"])) < 1e-12 and row["case"] in said
        terms = [
            sign * float(row[name])
            for name, sign in (
                ("I(x;z)", 1),
                ("I(n;z)", 1),
                ("I(x;n;z)", -1),
                ("H(z|x,n)", 1),
                ("H(z|x~)", -1),
            )
        ]
        assert sum(terms) == pytest.approx(float(row["I(x~;z)"]), abs=1e-4)
