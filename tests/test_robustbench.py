"""docs/robustbench.md: its code with a stub of RobustBench's interface, its commands, its JSON
file."""

import re
import shlex
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from conftest import ROOT, results, run_script, succeed

import models
from data.corruptions import CORRUPTIONS, EXTRA
from utils.attacks import auto
from utils.evaluation.networks import Network
from utils.evaluation.results import Results
from utils.evaluation.robustbench import architecture, model_info, radius

PAGE = (ROOT / "docs/robustbench.md").read_text()
# What RobustBench's dataclass ModelInfo has, and what its files have besides.
FIELDS = "link name authors additional_data number_forward_passes dataset venue architecture eps"
FIELDS += " clean_acc reported autoattack_acc footnote unreliable"


def code(beginning: str) -> str:
    """The Python code of the page that begins so."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    return next(block for block in blocks if block.startswith(beginning))


def commands() -> list[list[str]]:
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.replace("\\\n", " "), re.S)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


@pytest.fixture
def stub(monkeypatch):
    """The parts of the package that the page uses, with the signatures of version 1.1.1."""
    calls = {}

    def benchmark(
        model,
        n_examples=10000,
        dataset="cifar10",
        threat_model="Linf",
        to_disk=False,
        model_name=None,
        data_dir="./data",
        corruptions_data_dir=None,
        device=None,
        batch_size=32,
        eps=None,
        log_path=None,
        preprocessing=None,
        aa_state_path=None,
    ):
        loaded = getattr(sys.modules["robustbench.eval"], "load_clean_dataset", None)
        x = loaded(dataset, n_examples, data_dir, None)[0] if loaded else torch.rand(2, 3, 32, 32)
        calls["benchmark"] = (model.training, model(x).shape, threat_model, eps, aa_state_path)

    def load_model(
        model_name,
        model_dir="./models",
        dataset="cifar10",
        threat_model="Linf",
        custom_checkpoint="",
        norm=None,
    ):
        calls["zoo"] = (model_name, model_dir, dataset, threat_model)
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10)).eval()

    parts = {"": {"benchmark": benchmark}, ".eval": {"benchmark": benchmark}}
    parts[".utils"] = {"load_model": load_model}
    for name, content in parts.items():
        module = ModuleType(f"robustbench{name}")
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    sys.modules["robustbench"].eval = sys.modules["robustbench.eval"]
    return calls


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with networks in runs/ and images shaped as CIFAR-10 and CIFAR-10-C in datasets/."""
    random = np.random.RandomState(0)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "datasets/CIFAR-10-C"
    folder.mkdir(parents=True)
    for split, n in (("train", 20), ("test", 6)):
        images = random.randint(0, 256, (n, 32, 32, 3)).astype(np.uint8)
        np.save(tmp_path / f"datasets/{split}_images.npy", images)
        np.save(tmp_path / f"datasets/{split}_labels.npy", np.arange(n) % 10)
    for name in (*CORRUPTIONS, *EXTRA):
        np.save(folder / f"{name}.npy", images[:5])
    np.save(folder / "labels.npy", np.arange(5))
    words = "--width 4 --epochs 1 --batch-size 10 --num-steps 1 --eval-steps 1 --holdout 0"
    succeed("train_standard.py", *words.split(), "--model-dir", "runs/standard")
    return tmp_path


def test_the_code_and_commands_of_the_page(place, stub, monkeypatch):
    """AutoAttack on one image; compare.py up to RobustBench's own work."""
    exec(code("import models"), {})
    assert stub["benchmark"] == (False, (2, 10), "Linf", 8 / 255, None)
    (place / "zoo.py").write_text(code("# zoo.py"))
    monkeypatch.syspath_prepend(place)
    for words in commands():
        assert words[0] == "python"
        if words[1] == "train_standard.py":  # on digits, from here on
            given = words[2:]
            for path in (place / "datasets").glob("*.npy"):
                path.unlink()
            for option, value in (("--limit-train", "60"), ("--epochs", "1"), ("--holdout", "0")):
                given[given.index(option) + 1] = value
        elif "--corruptions" in words:
            given = words[2:]
        else:
            given = [*words[2:], "--limit-test", "1"]
            given = [{"none,aa": "none,apgd-ce"}.get(word, word) for word in given]
            at = given.index("--robustbench-json") if "--robustbench-json" in given else len(given)
            del given[at : at + 2]  # the next test
        succeed(words[1], *given)
    assert stub["zoo"] == ("Wong2020Fast", "runs/zoo", "cifar10", "Linf")
    assert results(place / "runs/wong.json")["factory"] == "zoo:wong"
    assert len(results(place / "runs/standard/corruptions.json")["corruptions"]) == 19
    for name in ("autoattack", "autoattack.state"):
        monkeypatch.setitem(sys.modules, name, None)
    import pyautoattack

    monkeypatch.setattr(pyautoattack, "AutoAttack", pyautoattack.AutoAttack)
    exec(code("# compare.py"), {})
    training, shape, *_, state = stub["benchmark"]
    assert (training, shape, state.name) == (False, (32, 10), "state.json")


def test_the_file_for_the_leaderboard(place, monkeypatch):
    """AutoAttack is replaced by one that finds nothing; the next test counts."""
    monkeypatch.setattr(auto, "_run", lambda parts, model, x, *rest: x.clone())
    words = ("--model-dir", "runs/standard", "--attacks", "none,aa", "--output", "aa.json")
    said = succeed("test_comparison.py", *words, "--robustbench-json", "entry.json").out
    assert "for RobustBench: entry.json" in said
    entry, rows = results(place / "entry.json"), results(place / "aa.json")["attacks"]
    assert set(entry) == set(FIELDS.split())
    assert entry["autoattack_acc"] == entry["clean_acc"] == f"{rows['aa']['accuracy']:.2f}"
    assert (entry["dataset"], entry["eps"], entry["architecture"]) == (
        "cifar10",
        "8/255",
        "ResNet-18",
    )
    assert entry["footnote"] == "Evaluated on 6 test images instead of 10000."


def test_its_accuracies_are_texts_in_percent():
    """Of 10,000 images 100 are wrong without an attack and 4,567 robust; one was fooled beyond the
    budget."""
    outcomes = "w" * 100 + "r" * 4566 + "o" + "f" * 5333
    results = Results()
    results.identity = {"dataset": "cifar100", "norm": "l2", "epsilon": 0.5, "samples": None}
    results.identity["arch"] = "wrn-34-10"
    results.content["attacks"] = {"aa": {"outcomes": outcomes}}
    entry = model_info(results, Network(torch.nn.Identity(), "file", {}))
    assert (entry["clean_acc"], entry["autoattack_acc"]) == ("99.00", "45.67")
    assert (entry["eps"], entry["architecture"]) == ("0.5", "WideResNet-34-10")
    assert entry["footnote"] is None and entry["number_forward_passes"] == 1
    assert entry["additional_data"] is False and entry["unreliable"] is False


@pytest.mark.parametrize(
    "words, says",
    [
        (("--attacks", "none,pgd-2"), "add aa to --attacks"),
        (("--attacks", "aa", "--dataset", "svhn"), "not of svhn"),
        (("--attacks", "aa", "--surrogate", "x.pth"), "leave --surrogate out"),
    ],
)
def test_what_the_leaderboard_has_not_is_refused_before_anything_is_computed(
    words, says, place, monkeypatch
):
    asked = ("--model-dir", "runs/standard", "--robustbench-json", "entry.json")
    ended = run_script("test_comparison.py", *asked, *words, "--output", "r.json")
    assert ended.status == 2 and says in ended.err and ended.err.count("\n") == 1
    assert not (place / "entry.json").exists() and not (place / "r.json").exists()


def test_names_and_budgets_are_written_as_the_leaderboard_does():
    assert (
        architecture("resnet18") == "ResNet-18" and architecture("wrn-34-10") == "WideResNet-34-10"
    )
    assert (
        architecture("preactresnet18") == "PreActResNet-18"
        and architecture("wrn34-10") == "WideResNet-34-10"
        and architecture("vgg19") == "vgg19"
    )
    assert radius("linf", 8 / 255) == "8/255" and radius("linf", 0.12) == "0.12"
    assert radius("l2", 0.5) == "0.5"
    assert {architecture(name) for name in models.ARCHITECTURES} >= {
        "ResNet-18",
        "ResNet-50",
        "WideResNet-28-10",
    }
