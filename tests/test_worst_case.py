"""train_worst_case_MI.py and train_classifier.py as a user runs them."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
from unittest import mock

import pytest
import torch
from conftest import ROOT, run_script, same_bits, succeed, tensors

import models
import train_classifier
import train_worst_case_MI
from models.encoder import CODES, Encoder, load_encoder
from models.mi import load_net
from utils.attacks import mutual_information
from utils.mi.critic import build_critic
from utils.settings.command_line import parse
from utils.training.held_out_mi import held_out_mi, warnings

DIGITS = "--dataset digits --limit-train 120 --holdout 24 --epsilon 0.12 --batch-size 24".split()
DIGITS += "--num-steps 2 --lr 1e-3 --epochs 2 --precision fp32".split()
G = [*DIGITS, *"--width 4 --n-units 8".split()]
H = [*DIGITS, "--eval-steps", "2"]


def rows(folder) -> list[dict]:
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with worst/ and normal/, encoders trained on a few digits."""
    root = tmp_path_factory.mktemp("encoders")
    for mi in ("worst", "normal"):
        succeed("train_worst_case_MI.py", *G, "--mi", mi, "--model-dir", root / mi)
    return root


def test_the_folder_of_an_encoder(root):
    for mi, last in (("worst", "J2"), ("normal", "J1")):
        folder = root / mi
        encoder = load_encoder(folder / "best_model.pth")
        assert encoder.options == {"width": 4, "size": [16, 16]}
        assert (encoder.about["mi"], encoder.about["dataset"]) == (mi, "digits")
        assert ("epsilon" in encoder.about) == (mi == "worst")
        table = rows(folder)
        assert [row["score"] for row in table] == [row[last] for row in table]
        assert ("J2" in table[0]) == (mi == "worst") and len(table) == 2
        assert ("worst_mi" in table[0], "natural_mi" in table[0]) == (mi == "worst", mi != "worst")
        assert load_net(folder / "local_model.pth").options["n_units"] == 8
        assert load_net(folder / "global_model.pth").options["n_inputs"] == CODES
        assert (folder / "curves.png").exists()
    assert not same_bits(root / "worst/last_model.pth", root / "normal/last_model.pth")


def test_best_is_the_held_out_j_of_attacked_images(root):
    """Measured again from the files of the best encoder and its critic."""
    import data
    from utils.devices import Compute
    from utils.training.stages import split_holdout

    digits = data.load("digits", limit_train=120)
    _, chosen = split_holdout(digits.train_labels, 24, 1)
    encoder = load_encoder(root / "worst/best_model.pth")
    critic = build_critic("code", CODES, 8, form="location", pairs="others")
    critic.local_net = load_net(root / "worst/local_model.pth")
    critic.global_net = load_net(root / "worst/global_model.pth")
    settings = parse(train_worst_case_MI.Settings, "", G)
    compute = Compute(torch.device("cpu"), "fp32")
    images = digits.train_images[chosen]
    found = held_out_mi(encoder, critic, images, 24, settings.attack.budget, compute)
    best = max(float(row["J2"]) for row in rows(root / "worst"))
    assert found["J2"] == pytest.approx(best, abs=1e-4)
    assert found["J1"] > found["J2"]


def test_objective_weighs_both_terms():
    torch.manual_seed(0)
    encoder, critic = Encoder(4, (16, 16)).eval(), build_critic("code", CODES, 8).eval()
    x, x_adv = torch.rand(2, 6, 3, 16, 16)
    natural, worst = (critic(each, encoder(each)).item() for each in (x, x_adv))
    for beta in (0.0, 0.25, 1.0):
        found = train_worst_case_MI.objective(x, x_adv, encoder, critic, beta)
        expected = beta * worst + (1 - beta) * natural  # I(X; g(X)) - beta RV
        assert found["objective"].item() == pytest.approx(expected, abs=1e-5)
        assert expected == pytest.approx(natural - beta * (natural - worst))
        assert ("natural_mi" in found) == (beta < 1) and ("worst_mi" in found) == (beta > 0)


def stopping_attack(stop_at: int):
    """lower_mi, which sends SIGTERM in its stop_at-th call."""
    true, calls = mutual_information.lower_mi, 0

    def attack(*args, **settings):
        nonlocal calls
        calls += 1
        if calls == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return true(*args, **settings)

    return mock.patch.object(mutual_information, "lower_mi", attack)


def test_a_stopped_run_resumes_bit_for_bit(root, tmp_path):
    """Stopped in the second epoch, between two checkpoints."""
    with stopping_attack(6):
        stopped = run_script("train_worst_case_MI.py", *G, "--model-dir", tmp_path)
    assert stopped.status == 143 and "the same command resumes" in stopped.err
    assert not (tmp_path / "last_model.pth").exists()
    succeed("train_worst_case_MI.py", *G, "--model-dir", tmp_path)
    for name in ("best_model.pth", "last_model.pth", "local_model.pth", "global_model.pth"):
        assert same_bits(tmp_path / name, root / "worst" / name), name
    done = succeed("train_worst_case_MI.py", *G, "--model-dir", tmp_path)
    assert "already finished" in done.out


def train_h(root, folder, *words, encoder="worst"):
    file = root / encoder / "best_model.pth"
    return succeed("train_classifier.py", *H, "--encoder", file, "--model-dir", folder, *words)


@pytest.mark.parametrize("classifier, arch", train_classifier.ARCHITECTURE.items())
@pytest.mark.parametrize("defense", ["natural", "robust"])
def test_a_classifier_is_a_target(root, tmp_path, classifier, arch, defense):
    """g keeps its bits, batch norm included; test_comparison.py takes h o g."""
    train_h(root, tmp_path, "--classifier", classifier, "--defense", defense)
    target = models.load(tmp_path / "best_model.pth")
    assert target.arch == arch and target.about["defense"] == defense
    before = tensors(root / "worst/best_model.pth")
    for name, value in target.encoder.state_dict().items():
        assert torch.equal(value, before[name]), name
    words = ["--model-dir", tmp_path, "--limit-test", 20, "--attacks", "none,pgd-2"]
    said = succeed("test_comparison.py", *words).out
    assert "linf 0.12" in said
    found = json.loads((tmp_path / "results.json").read_text())["attacks"]
    assert found["pgd-2"]["accuracy"] <= found["none"]["accuracy"]


def test_a_classifier_resumes_bit_for_bit(root, tmp_path):
    """The word of train_standard.py for PGD training means the same run."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train_h(root, whole, "--defense", "robust")
    words = [*H, "--encoder", root / "worst/best_model.pth", "--model-dir", parts]
    words += ["--defense", "standard"]
    stopped = run_script("train_classifier.py", *words, stop_at=3)
    assert stopped.status == 143
    succeed("train_classifier.py", *words)
    assert same_bits(whole / "last_model.pth", parts / "last_model.pth")


def test_baseline_h_end_to_end(tmp_path):
    words = ["--arch", "baseline-h", "--width", 4, "--eval-steps", 2, "--model-dir", tmp_path]
    words = [word for word in [*DIGITS, *words] if word != "--n-units"]
    succeed("train_standard.py", *words)
    assert models.load(tmp_path / "best_model.pth").options["size"] == [16, 16]


ONE_LINE = [
    ("train_worst_case_MI.py", ["--beta", "2"], "--beta 2.0: give a weight from 0 to 1"),
    (
        "train_worst_case_MI.py",
        ["--mi", "normal", "--beta", "0.5"],
        "--beta 0.5: applies to the attack; leave it out with --mi normal",
    ),
    ("train_worst_case_MI.py", ["--momentum", "0.5"], "trains with Adam, leave it out"),
    ("train_worst_case_MI.py", ["--mi", "best"], "--mi"),
    ("train_classifier.py", ["--encoder", "absent.pth"], "--encoder absent.pth: no such file"),
    ("train_classifier.py", ["--weight-decay", "0"], "--weight-decay 0.0: applies to SGD"),
]


@pytest.mark.parametrize("script, words, message", ONE_LINE)
def test_mistakes_are_answered_in_one_line(script, words, message, tmp_path):
    result = run_script(script, *words, "--model-dir", tmp_path / "new")
    assert result.status == 2 and message in result.err
    assert len(result.err.strip().splitlines()) == 1 and not (tmp_path / "new").exists()


def test_encoders_that_do_not_fit(root, tmp_path):
    file = root / "worst/best_model.pth"
    words = ["--encoder", file, "--model-dir", tmp_path / "h"]
    for other, message in (
        (["--epsilon", "0.05"], "was made with epsilon 0.12, but --epsilon is 0.05"),
        (["--seed", "2"], "was trained with 24 images held out by --seed 1; here 24 are held out"),
    ):
        result = run_script("train_classifier.py", *H, *words, *other)
        assert result.status == 2 and message in result.err
    models.save(Encoder(4, (32, 32)), tmp_path / "g.pth", dataset="digits")
    words[1] = tmp_path / "g.pth"
    result = run_script("train_classifier.py", *H, *words)
    assert result.status == 2
    assert "was trained on images of 32x32 pixels; digits has 16x16" in result.err
    models.save(models.build("resnet18", width=4), tmp_path / "g.pth")
    result = run_script("train_classifier.py", *H, *words)
    assert result.status == 2 and "holds a resnet18, not an encoder" in result.err


def test_nan_ends_the_run(tmp_path):
    """A learning rate of 1e20 makes the first weights overflow."""
    words = [*G, "--lr", "1e30", "--model-dir", tmp_path]
    result = run_script("train_worst_case_MI.py", *words)
    assert result.status == 3 and "is non-finite (NaN or infinite) in epoch 1" in result.err
    assert not (tmp_path / "best_model.pth").exists()


def test_warnings():
    assert warnings({"J1": 1.0, "J2": 0.5, "spread": 3.0}) == [] == warnings({})
    (found,) = warnings({"spread": 1e-4, "J2": 0.0})
    assert "constant critic" in found and "--epsilon-ramp" in found
    (found,) = warnings({"spread": 3.0, "J2": -0.5})
    assert "J on attacked held-out images is -0.500, below 0" in found


def test_help_does_not_import_torch():
    for script in ("train_worst_case_MI", "train_classifier", "analyze_MI"):
        ran = subprocess.run(
            [sys.executable, "-X", "importtime", f"{script}.py", "--help"],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 0 and "--" in ran.stdout
        assert not any(line.endswith(" torch") for line in ran.stderr.splitlines())


def test_a_ramp_begins_without_an_attack(tmp_path):
    """In the first batch of a ramp x' = x: J of the first step is that of --mi normal."""
    seen = []
    true = mutual_information.lower_mi

    def attack(encoder, critic, x, norm, epsilon, steps, step_size):
        seen.append((epsilon, step_size))
        return true(encoder, critic, x, norm, epsilon, steps, step_size)

    with mock.patch.object(mutual_information, "lower_mi", attack):
        words = [*G, "--epsilon-ramp", "1", "--holdout", "0", "--model-dir", tmp_path]
        succeed("train_worst_case_MI.py", *words)
    budgets = [epsilon for epsilon, _ in seen]
    assert budgets[:5] == pytest.approx([0.12 * k / 5 for k in range(5)])
    assert budgets[5:] == [0.12] * 5
    assert all(math.isclose(step, 0.31875 * budget) for budget, step in seen)
