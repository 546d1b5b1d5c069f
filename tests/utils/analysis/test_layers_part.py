"""analyze_MI.py layers as a user runs it: against the quantities called one by one, and mistakes."""

import csv
import json
import sys

import pytest
import torch
from conftest import run_script, succeed

import data
import models
from data.sets import split_holdout
from utils.mi.layers import (
    activation_entropy,
    label_information,
    noisy_information,
    relative_noise,
    unit_entropy,
)
from utils.mi.taps import tapped

OPTIONS = "--dataset digits --limit-train 200 --holdout 40 --epsilon 0.15 --eval-steps 1".split()
OPTIONS += "--batch-size 100 --epochs 1 --arch sperl-cnn --width 4 --num-steps 1".split()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two seeds of a natural network, and of one trained further with and without an attack."""
    folder = tmp_path_factory.mktemp("layers")
    for seed in (1, 2):
        words = [*OPTIONS, "--lr", 0.05, "--seed", seed]
        natural = folder / f"natural-{seed}"
        succeed("train_standard.py", *words, "--defense", "natural", "--model-dir", natural)
        words += ["--init", natural / "last_model.pth"]
        for role, defense in (("adv", "standard"), ("ctl", "natural")):
            where = ["--defense", defense, "--model-dir", folder / f"{role}-{seed}"]
            succeed("train_standard.py", *words, *where)
    return folder


def of_role(runs, role):
    return [runs / f"{role}-{seed}" for seed in (1, 2)]


def test_a_profile_of_three_roles_and_two_seeds(runs, tmp_path):
    options = [
        *("--natural", *of_role(runs, "natural")),
        *("--adversarial", *of_role(runs, "adv")),
        *("--control", *of_role(runs, "ctl")),
    ]
    said = succeed("analyze_MI.py", "layers", *options, "--output", tmp_path).out
    found = json.loads((tmp_path / "profile.json").read_text())
    assert found["seeds"] == 2 and found["split"] == "holdout"
    assert [each["seed"] for each in found["networks"]["adversarial"]] == [1, 2]
    assert {each["dataset"] for each in found["networks"]["control"]} == {"digits"}

    digits = data.load("digits", limit_train=200)
    _, chosen = split_holdout(digits.train_labels, 40, 2)
    x, y = digits.train_images[chosen].float() / 255, digits.train_labels[chosen]
    with torch.no_grad():
        layers = tapped(models.load(runs / "adv-2/best_model.pth"), x).layers
    assert list(layers) == list(found["quantities"]["activation"])
    for name, a in layers.items():
        noise = relative_noise(a)
        expected = {
            "activation": activation_entropy(a).mean(),
            "information": noisy_information(a, noise)[0],
            "information_upper": noisy_information(a, noise)[1],
            "label": label_information(a, y, noise)[0],
            "unit": unit_entropy(a),
        }
        for kind, value in expected.items():
            entry = found["quantities"][kind][name]
            assert entry["adversarial"][1] == pytest.approx(value.item(), rel=1e-4, abs=1e-5)
    entry = found["quantities"]["activation"]["dense.1"]
    differences = [a - b for a, b in zip(entry["adversarial"], entry["control"])]
    assert entry["delta"] == pytest.approx(sum(differences) / 2)
    line = next(line for line in said.split("\n") if line.startswith("dense.1"))
    assert f"{entry['delta']:+.4f}" in line
    with open(tmp_path / "layers.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == 3 * 2 * len(layers)
    assert (tmp_path / "layers.png").stat().st_size > 1000


def test_networks_of_files_and_factories_side_by_side(runs, tmp_path, monkeypatch):
    (tmp_path / "my_layers.py").write_text(
        f"import models\n\n\ndef made():\n    return models.load('{runs}/adv-1/best_model.pth')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    options = ["--natural", runs / "natural-1/best_model.pth", "--adversarial", "my_layers:made"]
    options += ["--split", "test", "--limit", 50, "--layers", "dense", "--quantity", "unit"]
    where = ["--dataset", "digits", "--output", tmp_path]
    said = succeed("analyze_MI.py", "layers", *options, *where).out
    entry = json.loads((tmp_path / "profile.json").read_text())["quantities"]["unit"]["dense.9"]
    assert entry["interval"] is None and entry["sign"] == 0
    assert "no sign can be told" in said and "conv1" not in said


@pytest.mark.parametrize(
    "words, says",
    [
        ([], "--natural : give --natural, --adversarial or --control"),
        (["--natural", "nosuch"], "--natural nosuch: is no folder, file or module:function"),
        (["--natural", "no.such:thing"], "--natural: --factory no.such:thing"),
        (["--natural", "{runs}/natural-1", "--control", "a", "b"], "--control a b: give as many"),
        (["--natural", "{runs}/natural-1/best_model.pth"], "held no images out; give --split test"),
        (["--natural", "{runs}/natural-1", "--layers", "x"], "--layers x: 'x' is no hidden layer"),
        (["--natural", "{runs}/natural-1", "--limit", "1"], "--limit 1: give 2 or more images"),
        (["--natural", "{runs}/natural-1", "--dataset", "cifar10"], "cifar10"),
    ],
)
def test_bad_input_is_one_line(runs, tmp_path, words, says):
    words = [word.format(runs=runs) for word in words]
    result = run_script(
        "analyze_MI.py", "layers", *words, "--data-dir", tmp_path, "--output", tmp_path / "out"
    )
    assert result.status == 2 and result.err.count("\n") == 1 and says in result.err, result.err


def test_networks_of_two_architectures_are_refused(runs, tmp_path):
    words = [*OPTIONS, "--arch", "resnet18", "--defense", "natural", "--model-dir", tmp_path / "r"]
    succeed("train_standard.py", *words)
    options = ["--natural", runs / "natural-1", "--control", tmp_path / "r"]
    result = run_script("analyze_MI.py", "layers", *options, "--output", tmp_path / "out")
    assert result.status == 2 and "give networks of one architecture" in result.err
