"""A factory in a repository whose `models`, `utils` and `data` have the names of ours."""

import sys
from pathlib import Path

import pytest
import torch
from conftest import run_script, succeed

import data
import models
import utils
from common.errors import InputError
from utils.evaluation.factories import from_factory

REPOSITORY = {
    "mynet.py": """
import torch
from models import *
import models.blocks
import models.resnet as by_name
import utils
from utils import halve
import data

def make():
    net = Net(halve(data.CLASSES * 2))
    assert isinstance(net, by_name.Net) and models.resnet is by_name
    return net
""",
    "models/__init__.py": """
from .resnet import Net
__all__ = ["Net", "resnet"]
""",
    "models/resnet.py": """
import importlib, importlib.util, sys
from importlib import import_module
import torch
from models.blocks import scale

class Net(torch.nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.linear = torch.nn.Linear(3, classes)
        self.late = importlib.import_module("models.blocks").LATE
        assert importlib.util.find_spec("json") and import_module(".blocks", "models").LATE == 7

    def forward(self, x):
        from data import CLASSES
        from . import blocks
        import utils, models.lazy
        assert getattr(sys.modules[__name__], "Net") is type(self)
        assert models.lazy.NUMBER == blocks.LATE == self.late == import_module("models.lazy").NUMBER
        return scale(self.linear(x.mean((2, 3))))[:, :CLASSES] + utils.offset()
""",
    "models/blocks.py": "from utils import halve\nLATE = 7\ndef scale(x):\n    return halve(2 * x)\n",
    "models/lazy.py": "from .blocks import LATE as NUMBER\n",
    "utils.py": "def halve(x):\n    return x / 2 if not isinstance(x, int) else x // 2\n"
    "def offset():\n    from data import CLASSES\n    return 0 * CLASSES\n",
    "data.py": "CLASSES = 10\n",
}


def written(folder: Path, files: dict) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_names_of_ours_are_the_users_in_the_users_code(tmp_path, monkeypatch):
    root = written(tmp_path / "repository", REPOSITORY)
    monkeypatch.chdir(root)
    path, ours = list(sys.path), {"models": models, "utils": utils, "data": data}
    net = from_factory("mynet:make")
    x = torch.rand(4, 3, 8, 8)
    expected = net.linear(x.mean((2, 3)))
    assert torch.equal(net(x), expected) and net(x).shape == (4, 10)  # forward imports
    assert sys.path == path and all(sys.modules[name] is ours[name] for name in ours)
    assert models.build("resnet18", width=2)(torch.rand(1, 3, 16, 16)).shape == (1, 10)
    assert "halve" not in vars(utils)
    monkeypatch.chdir(tmp_path)
    assert type(from_factory("repository/mynet.py:make")) is type(net)  # the same modules


def test_two_repositories_keep_their_own_modules(tmp_path):
    nets = []
    for number in (1, 2):
        own = {"data.py": "CLASSES = 10\nLIST = []\n", "models/blocks.py": REPOSITORY[
            "models/blocks.py"].replace("LATE = 7", f"LATE = {number}")}  # fmt: skip
        root = written(tmp_path / f"r{number}", REPOSITORY | own)
        text = (root / "models/resnet.py").read_text().replace(".LATE == 7", f".LATE == {number}")
        (root / "models/resnet.py").write_text(text)
        nets.append(from_factory(f"{root}/mynet.py:make"))
    assert [net.late for net in nets] == [1, 2] and type(nets[0]) is not type(nets[1])
    for net in nets:
        net(torch.rand(2, 3, 8, 8))


def test_folders_without_init_and_paths_that_the_user_adds(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    other = written(tmp_path / "other", {"models/wide.py": "WIDTH = 3\n", "utils/x.py": "Y = 1\n"})
    root = written(
        tmp_path / "mine",
        {
            "data/images.txt": "a folder of images is no package where an installed one has its name",
            "numpy/images.txt": "",
            "net.py": f"import sys, numpy, torch\nsys.path.insert(0, {str(other)!r})\n"
            "from models.wide import WIDTH\nimport utils.x as x, common\n"
            "def make():\n    assert numpy.ones(1) and x.Y and common.errors.InputError\n"
            "    return torch.nn.Linear(WIDTH, 1)\n",
        },
    )
    assert from_factory(f"{root}/net.py:make").in_features == 3


def test_the_script_evaluates_such_a_network(tmp_path, monkeypatch):
    root = written(tmp_path / "evaluated", REPOSITORY)
    monkeypatch.setattr(sys, "path", [*sys.path, str(root)])
    words = "test_comparison.py --factory mynet:make --dataset digits --limit-test 20".split()
    assert "mynet:make" in succeed(*words, "--attacks", "none,fgsm").out


@pytest.mark.parametrize(
    ("edit", "message", "line"),
    [
        ({"models/blocks.py": "import torch\nraise KeyError('w')\n"}, "KeyError: 'w'", "blocks.py, line 2"),
        ({"utils.py": "\n\ndef halve(:\n"}, "SyntaxError: invalid syntax", "utils.py, line 3"),
        ({"data.py": "CLASSES = 'ten'\n"}, "TypeError: ", "utils.py, line 2"),
        ({"utils.py": "half = 2\n"}, "cannot import name 'halve' from 'utils'", "blocks.py, line 1"),
        ({"models/__init__.py": "import argparse\nargparse.ArgumentParser().parse_args(['-x'])\n"},
         "SystemExit: 2", "models/__init__.py, line 2"),
        ({"data.py": "import models.absent\n"}, "No module named 'models.absent'", "data.py, line 1"),
    ],
)  # fmt: skip
def test_an_error_names_the_users_file_and_line(edit, message, line, tmp_path, capsys):
    root = written(tmp_path / "faulty", REPOSITORY | edit)
    with pytest.raises(InputError) as raised:
        from_factory(f"{root}/mynet.py:make")
    text = str(raised.value)
    assert message in text and line in text and "\n" not in text and "_factory_" not in text
    assert text.startswith(f"--factory {root}/mynet.py:make: ")


def test_an_error_in_forward_names_the_users_line(tmp_path):
    edit = {"models/lazy.py": "NUMBER = 8\n"}
    root = written(tmp_path / "failing", REPOSITORY | edit)
    refused = run_script(
        "test_comparison.py", "--factory", f"{root}/mynet.py:make", "--dataset", "digits"
    )
    assert refused.status == 2 and "AssertionError (" in refused.err
    assert "models/resnet.py, line 19)" in refused.err and refused.err.count("\n") == 1


@pytest.mark.parametrize("name", ["absent.py:make", "json:absent", "mynet:", ":make", "..:make"])
def test_a_factory_that_is_not_there(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"path/file\.py:function|TypeError|ValueError"):
        from_factory(name)
