"""Networks that were trained on normalised images: options, files, budgets and the warning."""

import json

import pytest
import torch
from conftest import run_script, succeed
from torch import nn

import data
import models
from common.errors import InputError
from models.normalisation import NORMALISATIONS
from utils.attacks import attack
from utils.normalised import normalised, suspected
from utils.settings.command_line import parse
from utils.settings.normalisation import Elsewhere, Normalization

CIFAR10 = NORMALISATIONS["cifar10"]
MEAN, STD = (",".join(map(str, side)) for side in CIFAR10)
EVALUATE = "test_comparison.py --dataset digits --limit-test 80 --epsilon 0.1".split()


def shifted(x):
    return (x - torch.tensor(CIFAR10[0]).view(3, 1, 1)) / torch.tensor(CIFAR10[1]).view(3, 1, 1)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """A folder with a network trained on normalised digits: a plain state dict, and a module that
    loads it."""
    folder, digits = tmp_path_factory.mktemp("foreign"), data.load("digits", limit_train=1000)
    x = digits.train_images.float() / 255
    torch.manual_seed(0)
    net = models.build("resnet18", width=4, mean=CIFAR10[0], std=CIFAR10[1])
    optimizer, y = torch.optim.Adam(net.parameters(), 0.01), digits.train_labels
    for step in range(48):
        chosen = torch.arange(64 * step, 64 * step + 64) % 1000
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x[chosen]), y[chosen]).backward()
        optimizer.step()
    torch.save(net.state_dict(), folder / "plain.pth")
    (folder / "mine.py").write_text(
        f"import models, torch\ndef make():\n    return models.load({str(folder / 'plain.pth')!r},"
        " 'resnet18')\n"
        "class Other(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.net = make()\n    def forward(self, x):\n        return self.net(x)\n"
    )
    return folder


def accuracy(path, row="none"):
    return json.loads(path.read_text())["attacks"][row]["accuracy"]


def test_a_network_gets_its_own_accuracy_with_the_option_and_a_warning_without(foreign, tmp_path):
    known = ["--model", foreign / "plain.pth", "--arch", "resnet18", "--attacks", "none"]
    found = {}
    for name, words in {
        "plain": [],
        "none": ["--normalize", "none"],
        "named": ["--normalize", "cifar10"],
        "numbers": ["--mean", MEAN, "--std", STD],
    }.items():
        path = tmp_path / f"{name}.json"
        printed = succeed(*EVALUATE, *known, *words, "--output", path).out
        found[name] = accuracy(path)
        assert ("give --normalize cifar10 " in printed) == (name == "plain"), name
    assert found["named"] == found["numbers"] > found["plain"] + 20 == found["none"] + 20
    refused = run_script(*EVALUATE, *known, "--output", tmp_path / "named.json")
    assert refused.status == 2 and "normalisation" in refused.err  # another evaluation


@pytest.mark.parametrize("function", ["make", "Other"])
def test_a_factory_and_a_surrogate_factory(function, foreign, tmp_path):
    made = f"{foreign}/mine.py:{function}"
    succeed(
        *[*EVALUATE, "--attacks", "none,fgsm", "--factory", made, "--normalize", "cifar10"],
        *["--surrogate-factory", made, "--surrogate-normalize", "cifar10"],
        *["--output", tmp_path / "black.json"],
    )
    succeed(
        *[*EVALUATE, "--attacks", "none,fgsm", "--model", foreign / "plain.pth"],
        *["--arch", "resnet18", "--mean", MEAN, "--std", STD, "--output", tmp_path / "white.json"],
    )
    black, white = (json.loads((tmp_path / f"{n}.json").read_text()) for n in ("black", "white"))
    assert black["surrogate"] == made and black["surrogate_hash"] == black["model_hash"]
    for row in ("none", "fgsm"):  # the surrogate is the network itself
        assert black["attacks"][row]["outcomes"] == white["attacks"][row]["outcomes"]


def test_the_budget_stays_in_pixel_units():
    net = models.build("resnet18", width=2, mean=CIFAR10[0], std=CIFAR10[1]).eval()
    other = normalised(nn.Sequential(models.build("resnet18", width=2)), CIFAR10, "it").eval()
    other[0].load_state_dict(net.state_dict())
    x, y = torch.rand(4, 3, 16, 16), torch.arange(4)
    for each in (net, other):
        x_adv = attack("bim-5", each, x, y, norm="linf", epsilon=8 / 255)
        assert (x_adv - x).abs().max() == pytest.approx(8 / 255, rel=1e-4)
        torch.testing.assert_close(each(x), other[0](shifted(x)))
    assert normalised(other, CIFAR10, "it")(x).equal(other(x))  # not twice


def test_a_written_file_keeps_it(foreign, tmp_path):
    words = "--dataset digits --limit-train 100 --holdout 20 --epochs 1 --num-steps 1".split()
    words += ["--eval-steps", 1, "--batch-size", 50, "--epsilon", 0.1, "--width", 4]
    start = ["--init", foreign / "plain.pth", "--normalize", "cifar10", "--lr", 1e-8]
    ended = succeed("train_standard.py", *words, *start, "--model-dir", tmp_path)
    assert "give --normalize" not in ended.out
    ended = succeed("train_standard.py", *words, *start[:2], "--model-dir", tmp_path / "plain")
    assert "give --normalize cifar10 " in ended.out
    written = models.load(tmp_path / "best_model.pth")
    assert (tuple(written.options["mean"]), tuple(written.options["std"])) == CIFAR10
    refused = run_script(
        "test_comparison.py", "--model-dir", tmp_path, "--normalize", "cifar10", "--attacks", "none"
    )
    assert refused.status == 2 and "leave --normalize, --mean and --std out" in refused.err


class Linear(nn.Module):
    """Class 1 where the mean of the images (N,3,1,1), as the network takes them, is above `at`."""

    def __init__(self, at):
        super().__init__()
        self.at = nn.Parameter(torch.tensor(at))

    def forward(self, x):
        return torch.stack([self.at.expand(len(x)), x.mean((1, 2, 3))], 1)


@pytest.mark.parametrize(
    ("at", "n", "warned"), [(0.0, 64, True), (0.5, 64, False), (0.0, 8, False)]
)
def test_the_warning_needs_a_clear_gain(at, n, warned):
    """Images of 0.1 and 0.9: normalised ones straddle 0, and those in [0,1] are all above it."""
    y = torch.arange(n) % 2
    x = (0.1 + 0.8 * y).view(n, 1, 1, 1).expand(n, 3, 1, 1)
    found = suspected(Linear(at), x, y, "--normalize")
    assert bool(found) == warned
    if warned:
        assert "gets 32 of the first 64 images right as they are, and 64 when" in found[0]
        assert "give --normalize cifar10 " in found[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--mean 0.5", "--mean : give --mean and --std together"),
        ("--std 0.5", "--std : give --mean and --std together"),
        ("--mean 0.5 --std 0", "--mean and --std: std (0.0,): give numbers above 0"),
        ("--mean 0.5 --std 1 --normalize svhn", "--normalize svhn: leave it out, or --mean"),
        ("--mean 1,2 --std 1", "one for each of 3 channels"),
        ("--mean nan --std 1", "is not a finite number"),
        ("--mean black --std 1", "write numbers such as"),
        ("--normalize cifar", "cifar100"),
    ],
)
def test_wrong_options(words, message, capsys):
    with pytest.raises(SystemExit) as end:
        parse(Normalization, "", words.split())
    error = capsys.readouterr().err
    assert end.value.code == 2 and message in error and error.count("\n") == 1


def test_wrong_options_of_a_surrogate(chain, tmp_path, capsys):
    with pytest.raises(InputError, match="--surrogate-normalize : give --surrogate or"):
        parse(Elsewhere, "", ["--surrogate-normalize", "svhn"]).check_surrogate(None)
    with pytest.raises(InputError, match="--surrogate-factory a:b: leave it out"):
        parse(Elsewhere, "", ["--surrogate-factory", "a:b"]).check_surrogate(tmp_path)
    refused = run_script(
        *[*EVALUATE, "--model-dir", chain / "standard", "--output", tmp_path / "r.json"],
        *["--surrogate", chain / "namid/target_model.pth", "--surrogate-normalize", "svhn"],
    )
    assert refused.status == 2 and "--surrogate-normalize out" in refused.err
