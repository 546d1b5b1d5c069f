"""The MI networks' way through a file, released files, and files of something else."""

import pytest
import torch
from mi_parts import INPUTS, NETS, U

from common.errors import InputError
from models.mi import (
    load_net,
    save_net,
)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def trained(name):
    """A network whose batch norm has seen data."""
    net = NETS[name]()
    net(torch.randn(INPUTS[name]))
    return net.eval()


def same(net, other, name):
    x = torch.randn(INPUTS[name])
    return type(net) is type(other) and torch.equal(net(x), other(x))


@pytest.mark.parametrize("name", NETS)
class TestFiles:
    def test_round_trip(self, name, tmp_path):
        net = trained(name)
        save_net(net, tmp_path / "net.pth", norm="linf", epsilon=8 / 255)
        state = torch.get_rng_state()
        loaded = load_net(tmp_path / "net.pth")
        assert torch.equal(torch.get_rng_state(), state)
        assert same(net, loaded, name)
        assert loaded.about == {"norm": "linf", "epsilon": 8 / 255}
        assert loaded.options == net.options
        assert not loaded.training
        content = torch.load(tmp_path / "net.pth", weights_only=True)
        assert content["arch"] == f"mi-{name}"
        assert set(content) == {"arch", "options", "state_dict", "about"}

    @pytest.mark.parametrize("prefix", ["", "module."])
    def test_released_state_dict(self, name, prefix, tmp_path):
        net = trained(name)
        state = net.state_dict()
        if name == "local":
            state |= {
                f"layers.{key[5]}{key[6:]}": value
                for key, value in state.items()
                if key.startswith("layer")
            }
            assert "layers.1.0.weight" in state
        torch.save({prefix + key: value for key, value in state.items()}, tmp_path / "net.pth")
        loaded = load_net(tmp_path / "net.pth")
        assert same(net, loaded, name)
        assert loaded.about == {}

    def test_a_missing_or_misshapen_tensor(self, name, tmp_path):
        path = tmp_path / "net.pth"
        for wrong in ({}, {"block_ln.1.weight": torch.ones(U + 1)}):
            state = trained(name).state_dict()
            del state["block_ln.1.weight"]
            torch.save(state | wrong, path)
            with pytest.raises(InputError, match=r"net\.pth.*block_ln\.1\.weight"):
                load_net(path)

    def test_options_that_do_not_fit(self, name, tmp_path):
        path = tmp_path / "net.pth"
        net = trained(name)
        for options in (
            {"n_units": "many", "n_inputs": 3},
            {"n_units": -1, "n_inputs": 3},
            {"width": 3},
            None,
            [1, 2],
        ):
            torch.save({"arch": net.arch, "options": options, "state_dict": net.state_dict()}, path)
            with pytest.raises(InputError, match=r"net\.pth.*options"):
                load_net(path)
        torch.save(
            {
                "arch": net.arch,
                "options": net.options | {"n_units": 8},
                "state_dict": net.state_dict(),
            },
            path,
        )
        with pytest.raises(InputError, match=r"net\.pth.*shape"):
            load_net(path)


OTHER_FILES = {
    "target": {"arch": "resnet18", "options": {}, "state_dict": {"conv1.weight": torch.zeros(1)}},
    "plain target": {"conv1.weight": torch.zeros(64, 3, 3, 3)},
    "flat shortcut": {"linear_shortcut.weight": torch.zeros(3)},
    "half a shortcut": {"linear_shortcut.0.weight": torch.zeros(3, 3, 4, 4)},
    "no tensor": {"epoch": 3},
    "empty": {},
    "list": [1, 2],
}


@pytest.mark.parametrize("what", OTHER_FILES)
def test_files_of_something_else(what, tmp_path):
    path = tmp_path / "other.pth"
    torch.save(OTHER_FILES[what], path)
    with pytest.raises(InputError, match=r"other\.pth") as raised:
        load_net(path)
    assert "\n" not in str(raised.value)


def test_no_file(tmp_path):
    with pytest.raises(InputError, match=r"absent\.pth"):
        load_net(tmp_path / "absent.pth")
