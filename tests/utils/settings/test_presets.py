"""Presets: what they set, that an option given wins, and where settings.json says that a value is from."""

import pytest

import train_classifier
import train_entropic
import train_MI_estimator
import train_MI_estimator_only_max
import train_MIAT
import train_standard
import train_VIB
import train_worst_case_MI
from utils.settings import presets
from utils.settings.command_line import flat, origin, parse

SCRIPTS = {
    script.__name__: script
    for script in (
        *(train_standard, train_MI_estimator, train_MI_estimator_only_max, train_MIAT),
        *(train_entropic, train_VIB),
        *(train_worst_case_MI, train_classifier),
    )
}
OTHERS = {"train_entropic", "train_VIB", "train_worst_case_MI", "train_classifier"}
NAMID = SCRIPTS.keys() - OTHERS  # the paper's stages
CASES = [(name, key) for name, stages in presets.PRESETS.items() for key in stages]


def ask(script, words):
    return flat(parse(SCRIPTS[script].Settings, "", words.split()))


@pytest.mark.parametrize("preset, key", CASES)
def test_each_value_reaches_its_option_and_differs_from_the_default(preset, key):
    script, norm = key if isinstance(key, tuple) else (key, "linf")
    paper, found = ask(script, f"--norm {norm}"), ask(script, f"--norm {norm} --preset {preset}")
    expected = presets.values(preset, script, norm)
    assert expected and {name for name in found if found[name] != paper[name]} == {
        *expected,
        "preset",
    }
    assert {name: found[name] for name in expected} == {
        name: list(value) if isinstance(value, tuple) else value for name, value in expected.items()
    }


def test_the_papers_preset_is_the_default():
    for script in SCRIPTS:
        assert ask(script, "--preset paper") == ask(script, "")


def test_what_the_presets_are():
    released, strong = (
        ask("train_MIAT", "--preset released"),
        ask("train_standard", "--preset strong"),
    )
    wanted = {
        "arch": "wrn34-10",
        "num_steps": 40,
        "step_size": 0.007,
        "batch_size": 256,
        "lam": 0.0,
        "alpha": 5.0,
        "warmup_epochs": 2,
        "selection": "released",
    }
    assert {name: released[name] for name in wanted} == wanted
    for script in NAMID:  # the released Linf step is 0.007 in every script
        assert ask(script, "--preset released")["step_size"] == 0.007
    for script in ("train_MI_estimator", "train_MI_estimator_only_max"):
        assert ask(script, "--preset released")["selection"] == "released"
    assert ask("train_MI_estimator", "--preset released")["bound"] == "dv-released"
    assert (
        ask("train_MIAT", "--preset stable")["alpha"] == 0.1
        and ask("train_MIAT", "--preset stable --alpha 2")["alpha"] == 2
    )
    assert (strong["weight_decay"], strong["batch_size"], strong["ema"], strong["lr"]) == (
        5e-4,
        128,
        0.999,
        0.1,
    )


@pytest.mark.parametrize(
    "words",
    ["--preset strong --batch-size 1024 --ema 0", "--batch_size=1024 --ema=0 --preset=strong"],
)
def test_an_option_given_wins_wherever_it_stands(words):
    found = ask("train_standard", words)
    assert (found["batch_size"], found["ema"], found["weight_decay"]) == (1024, 0.0, 5e-4)


def test_released_l2_steps_are_the_released_ones():
    """2 epsilon/steps, where the paper has epsilon/4."""
    for script in NAMID:
        found = ask(script, "--preset released --norm l2")
        assert found["step_size"] == pytest.approx(2 * found["epsilon"] / found["num_steps"])


def test_origin_says_where_each_value_is_from():
    words = "--preset strong --batch-size 128 --lr=0.1 --no-augment --model_dir a --norm l2".split()
    settings = parse(train_standard.Settings, "", words)
    said = origin(settings, words)
    assert said.keys() == flat(settings).keys()
    given = {"preset", "batch_size", "lr", "augment", "model_dir", "norm"}
    assert {name for name, text in said.items() if text == "command line"} == given
    assert {name for name, text in said.items() if text == "preset strong"} == {
        "weight_decay",
        "ema",
    }
    assert {text for name, text in said.items() if name not in given | {"weight_decay", "ema"}} == {
        "default"
    }


def test_help_shows_the_presets_values(capsys):
    for words, shown in (
        ("--help", "(default: 0.0002)"),
        ("--preset strong --help", "(default: 0.0005)"),
    ):
        with pytest.raises(SystemExit) as end:
            ask("train_standard", words)
        assert end.value.code == 0 and shown in capsys.readouterr().out
