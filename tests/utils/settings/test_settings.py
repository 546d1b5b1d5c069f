"""The command line: fractions, checks, messages; read without importing torch."""

import dataclasses
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

import analyze_MI
import test_comparison
import train_MI_estimator
import train_MI_estimator_only_max
import train_MIAT
import train_standard
from common import memory
from common.errors import InputError
from utils.settings.command_line import check, flat, parse
from utils.settings.values import fraction

SCRIPTS = [
    "train_standard.py",
    "train_MI_estimator.py",
    "train_MI_estimator_only_max.py",
    "train_MIAT.py",
    "test_comparison.py",
    "analyze_MI.py",
    "reproduction/demo.py",
]


@given(st.integers(-1000, 1000), st.integers(1, 1000))
def test_fraction_is_the_quotient(above, below):
    assert fraction(f"{above}/{below}") == above / below
    assert fraction(str(above / below)) == above / below


@pytest.mark.parametrize(
    "text", ["8/0", "abc", "", "1/2/3", "8/", "/8", "nan", "inf", "1e999", "1/x"]
)
def test_fraction_refuses(text):
    with pytest.raises(ValueError, match="write a number or a fraction"):
        fraction(text)


def ask(words, kind=train_standard.Settings):
    return parse(kind, "", words)


def test_defaults_are_the_papers():
    found = flat(ask([]))
    paper = {
        "dataset": "cifar10",
        "arch": "resnet18",
        "norm": "linf",
        "epsilon": 8 / 255,
        "num_steps": 10,
        "step_size": 2 / 255,
        "epochs": 100,
        "batch_size": 1024,
        "lr": 0.1,
        "momentum": 0.9,
        "weight_decay": 2e-4,
        "seed": 1,
        "holdout": 1000,
    }
    assert {name: found[name] for name in paper} == paper
    assert flat(ask([], train_MIAT.Settings)) | {
        "alpha": 5.0,
        "lam": 0.1,
        "warmup_epochs": 2,
    } == flat(ask([], train_MIAT.Settings))


def test_the_step_is_a_quarter_of_the_budget_of_each_norm():
    attack = ask(["--norm", "l2"]).attack
    assert (attack.epsilon, attack.step_size) == (0.5, 0.125)
    attack = ask(["--epsilon", "4/255"]).attack
    assert (attack.epsilon, attack.step_size) == (4 / 255, 1 / 255)
    assert ask(["--epsilon", "0.1", "--step-size", "0.02"]).attack.step_size == 0.02


def test_both_spellings_of_a_name():
    assert ask(["--model_dir", "a"]) == ask(["--model-dir", "a"])


def test_a_stage_has_its_own_defaults():
    import train_MI_estimator
    import train_MI_estimator_only_max

    cosine, maximum = (
        flat(ask([], script.Settings))
        for script in (train_MI_estimator, train_MI_estimator_only_max)
    )
    assert (cosine["epochs"], cosine["batch_size"], cosine["lr"], cosine["num_steps"]) == (
        25,
        400,
        1e-2,
        20,
    )
    assert (maximum["epochs"], maximum["batch_size"], maximum["lr"], maximum["lr_factor"]) == (
        50,
        200,
        1e-2,
        0.5,
    )
    differ = {name for name in cosine if cosine[name] != maximum.get(name)}
    assert differ == {
        "epochs",
        "batch_size",
        "lr_milestones",
        "lr_factor",
        "model_dir",
        "objective",
    }


@pytest.mark.parametrize(
    "words, named",
    [
        ("--epsilon 8/0", "--epsilon"),
        ("--epsilon -1", "--epsilon -1"),
        ("--epsilon abc", "--epsilon"),
        ("--epsilon 300", "--epsilon 300"),
        ("--norm l2 --epsilon 300", "--epsilon 300"),
        ("--norm l3", "--norm"),
        ("--arch resnet19", "resnet19"),
        ("--dataset cifar11", "cifar11"),
        ("--width 0", "--width 0"),
        ("--width x", "--width"),
        ("--batch-size 1", "--batch-size 1"),
        ("--epochs 0", "--epochs 0"),
        ("--epochs 1.5", "--epochs"),
        ("--lr 0", "--lr"),
        ("--momentum -1", "--momentum"),
        ("--weight-decay -1", "--weight-decay"),
        ("--seed -1", "--seed"),
        ("--lr-milestones 2", "--lr-milestones"),
        ("--lr-factor 0", "--lr-factor"),
        ("--num-steps 0", "--num-steps"),
        ("--step-size 0", "--step-size"),
        ("--eval-steps 0", "--eval-steps"),
        ("--limit-train 0", "--limit-train"),
        ("--limit-test -5", "--limit-test"),
        ("--holdout -1", "--holdout"),
        ("--beta -1", "--beta"),
        ("--defense pgd", "pgd"),
        ("--schedule linear", "linear"),
        ("--ema 1", "--ema 1"),
        ("--ema nan", "--ema"),
        ("--ema -0.5", "--ema -0.5"),
        ("--awp 1", "--awp 1"),
        ("--awp -0.1", "--awp -0.1"),
        ("--awp inf", "--awp"),
        ("--awp-warmup -1", "--awp-warmup -1"),
        ("--awp-warmup 0.5", "--awp-warmup"),
        ("--preset fast", "fast"),
        ("--preset", "--preset"),
        ("--defense natural --awp 0.01", "--awp 0.01"),
        ("--device tpu", "tpu"),
        ("--precision fp8", "fp8"),
        ("--lr inf", "--lr inf"),
        ("--momentum inf", "--momentum inf"),
        ("--weight-decay nan", "--weight-decay nan"),
        ("--beta inf", "--beta inf"),
        ("--lr-factor inf", "--lr-factor inf"),
        ("--lr-milestones 0.5 nan", "--lr-milestones nan"),
        ("--epsilon 1/inf", "--epsilon"),
        ("--checkpoint-every nan", "--checkpoint-every nan"),
        ("--checkpoint-every 0", "--checkpoint-every 0"),
        ("--width 1000000", "--width 1000000: needs 3.73e+03 GiB of memory"),
        (f"--epochs 1{400 * '0'}", "--epochs 1000"),
        (f"--seed 1{30 * '0'}", "--seed 1000"),
        ("--nosuch 3", "--nosuch"),
        ("stray", "stray"),
        ("--epochs", "--epochs"),
    ],
)
def test_a_wrong_option_is_named_in_one_line(words, named, capsys, kind=train_standard.Settings):
    with pytest.raises(SystemExit) as end:
        ask(words.split(), kind)
    said = capsys.readouterr()
    assert end.value.code == 2 and said.out == ""
    assert said.err.count("\n") == 1 and named in said.err and len(said.err) < 400, said.err


@pytest.mark.parametrize(
    "words, named",
    [
        ("--mi-loss mine", "mine"),
        ("--alpha -1", "--alpha -1"),
        ("--alpha inf", "--alpha"),
        ("--alpha-ramp inf", "--alpha-ramp inf"),
        ("--n-units 1000000000", "--n-units 1000000000: needs"),
        ("--alpha x", "--alpha"),
        ("--lam nan", "--lam"),
        ("--mi-loss wmim --alpha -1", "--alpha -1"),
        ("--mi-loss wmim --lam 0.1", "--lam 0.1"),
        ("--mi-loss wmim --without natural", "--without"),
        ("--mi-loss wmim --without adversarial", "--without"),
        ("--mi-loss wmim --pre-local-a a.pth", "--pre-local-a a.pth"),
        ("--mi-loss wmim --pre-global-a a.pth", "--pre-global-a a.pth"),
    ],
)
def test_a_wrong_option_of_stage_3_too(words, named, capsys):
    test_a_wrong_option_is_named_in_one_line(words, named, capsys, train_MIAT.Settings)


@pytest.mark.parametrize(
    "kind", [train_MI_estimator.Settings, train_MI_estimator_only_max.Settings]
)
@pytest.mark.parametrize(
    "words, named",
    [
        ("--momentum 0.8", "--momentum 0.8"),
        ("--weight-decay 0", "--weight-decay 0"),
        ("--n-units 0", "--n-units 0"),
        ("--n-units 1000000", "--n-units 1000000: needs"),
    ],
)
def test_stage_2_refuses_what_it_has_no_use_for(kind, words, named, capsys):
    test_a_wrong_option_is_named_in_one_line(words, named, capsys, kind)


@pytest.mark.parametrize(
    "words, named",
    [
        ("theorem1 --dim 10000000", "--dim 10000000: needs"),
        ("gaussians --samples 10000000", "--samples 10000000: needs"),
        ("gaussians --mi inf", "--mi inf"),
        ("mixture --shift nan", "--shift nan"),
        ("mixture --batch-size 10000000", "--batch-size 10000000: needs"),
        ("vulnerability --model m.pth --n-units 1000000", "--n-units 1000000: needs"),
        ("vulnerability --model m.pth --lr inf", "--lr inf"),
    ],
)
def test_a_wrong_option_of_an_analysis_too(words, named, capsys):
    test_a_wrong_option_is_named_in_one_line(words, named, capsys, analyze_MI.Settings)


@pytest.mark.parametrize(
    "words, named",
    [
        (f"--attacks pgd-{5000 * '9'}", "'pgd-999"),
        ("--samples 1000000000000", "--samples 1000000000000: needs"),
        ("--surrogate-arch resnet18", "--surrogate-arch resnet18"),
        ("--arch resnet18 --factory a:b", "--arch resnet18"),
        ("--sweep 0,inf", "--sweep"),
    ],
)
def test_a_wrong_option_of_the_evaluation_too(words, named, capsys):
    words += "" if "--factory" in words else " --model m.pth"
    with pytest.raises(SystemExit) as end:
        ask(words.split(), test_comparison.Settings)
    said = capsys.readouterr().err
    assert end.value.code == 2 and said.count("\n") == 1 and named in said and len(said) < 800


def test_a_size_is_compared_with_the_memory_that_there_is(monkeypatch):
    """A layer of n channels has n * n weights of 4 bytes at the least."""
    monkeypatch.setattr(memory, "total", lambda: 4 * 300**2)
    assert ask(["--width", "300"]).network.width == 300
    with pytest.raises(SystemExit):
        ask(["--width", "301"])


def test_weight_of_each_mi_loss():
    """The paper's 5 and 0.1 for NAMID; a weight of ours and no third term for WMIM, the released preset's lambda of 0 included."""
    for words, expected in (
        ("", (5.0, 0.1)),
        ("--mi-loss wmim", (0.1, 0.0)),
        ("--mi-loss wmim --alpha 2 --preset released", (2.0, 0.0)),
        ("--alpha 1/2 --lam 0", (0.5, 0.0)),
    ):
        found = ask(words.split(), train_MIAT.Settings)
        assert (found.alpha, found.lam) == expected
    assert list(ask(["--mi-loss", "wmim"], train_MIAT.Settings).files()) == [
        "pre_local_n",
        "pre_global_n",
    ]


def test_check_reaches_every_group():
    good = ask([])
    for group, option, bad in (
        ("data", "holdout", -1),
        ("network", "width", 0),
        ("attack", "num_steps", 0),
        ("training", "epochs", 0),
        ("weights", "ema", 1.0),
    ):
        spoilt = dataclasses.replace(
            good, **{group: dataclasses.replace(getattr(good, group), **{option: bad})}
        )
        with pytest.raises(InputError, match=option.replace("_", "-")):
            check(spoilt)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_comes_without_importing_torch(script, tmp_path):
    """A torch that cannot be imported stands in the way: --help and a wrong option never meet it."""
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')")
    for words, status in ((["--help"], 0), (["--nosuch", "1"], 2)):
        ended = subprocess.run(
            [
                sys.executable,
                "-c",
                f"import sys, runpy; sys.path[:0] = [{str(tmp_path)!r}]; "
                f"sys.argv = {[script, *words]!r}; runpy.run_path({script!r}, run_name='__main__')",
            ],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert ended.returncode == status, ended.stderr
        assert "torch was imported" not in ended.stdout + ended.stderr
        assert status == 2 or "--restart" in ended.stdout or "--model-dir" in ended.stdout
