"""Edited checkpoints are refused, field by field, before anything is restored from them."""

import copy
import shutil

import pytest
import torch
from conftest import SMALL, run_script, same_bits, succeed
from torch import nn

from common.errors import InputError
from utils.training.checkpoint import checked


def run_of(kind: str):
    """A network with channels-last weights after two steps, its optimizer, and its checkpoint."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    net = net.to(memory_format=torch.channels_last)
    if kind == "sgd":
        optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, fused=True)
    else:
        optimizer = torch.optim.Adam(net.parameters(), 0.1, fused=True)
    for _ in range(2):
        net(torch.randn(5, 3, 4, 4)).square().mean().backward()
        optimizer.step()
    rows = [
        {"epoch": n, "lr": 0.1, "score": s, "seconds": 1.0 * n} for n, s in ((1, 30.0), (2, 20.0))
    ]
    saved = {
        "identity": {"seed": 1, "lr_milestones": [0.5, 0.75]},
        **{"epoch": 2, "index": 1, "rows": rows, "best": 30.0},
        "means": {"loss": (torch.tensor(3.0, dtype=torch.float64), 5)},
        "optimizer": optimizer.state_dict(),
        "nets": {"target": net.state_dict()},
    }
    return net, optimizer, copy.deepcopy(saved)


def check(net, optimizer, saved):
    return checked(saved, "last.ckpt", {"target": net}, optimizer, (4, 3))


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_a_good_checkpoint_passes_with_the_same_values(kind):
    net, optimizer, saved = run_of(kind)
    state = check(net, optimizer, saved)["optimizer"]
    assert state["param_groups"] == saved["optimizer"]["param_groups"]
    for number, buffers in saved["optimizer"]["state"].items():
        for name, buffer in buffers.items():
            assert torch.equal(state["state"][number][name], buffer)


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_buffers_in_another_order_of_memory_resume_with_the_same_bits(kind):
    """Contiguous buffers of channels-last weights: a fused step would mix up their elements."""
    net, optimizer, saved = run_of(kind)
    for buffers in saved["optimizer"]["state"].values():
        for name in buffers:
            buffers[name] = buffers[name].contiguous()
    gradients = [torch.randn_like(weight) for weight in net.parameters()]
    ends = []
    for state in (None, check(net, optimizer, saved)["optimizer"]):
        other = copy.deepcopy(net)
        stepped = type(optimizer)(other.parameters(), 0.1, fused=True)
        stepped.load_state_dict(state or optimizer.state_dict())
        for weight, gradient in zip(other.parameters(), gradients):
            weight.grad = gradient.clone()
        stepped.step()
        ends.append([weight.detach() for weight in other.parameters()])
    assert all(torch.equal(one, two) for one, two in zip(*ends))


def buffer(name, value):
    def edit(saved):
        saved["optimizer"]["state"][0][name] = value

    return edit


def field(*names_and_value):
    *names, last, value = names_and_value

    def edit(saved):
        for name in names:
            saved = saved[name]
        saved[last] = value

    return edit


def without(name):
    return lambda saved: saved.pop(name)


def exchanged(saved):
    state = saved["optimizer"]["state"]
    state[0], state[1] = state[1], state[0]


EDITS = {
    "a buffer of one element": (buffer("momentum_buffer", torch.zeros(1)), "has shape (1,)"),
    "a buffer of none": (buffer("momentum_buffer", torch.zeros(0)), "has shape (0,)"),
    "integers": (buffer("momentum_buffer", torch.zeros(4, 3, 3, 3).long()), "torch.int64"),
    "a number": (buffer("momentum_buffer", 0.0), "is no tensor"),
    "NaN": (buffer("momentum_buffer", torch.full((4, 3, 3, 3), torch.nan)), "NaN or infinite"),
    "another optimizer's": (field("optimizer", "state", 0, {"exp_avg": None}), "momentum_buffer"),
    "exchanged": (exchanged, "has shape (4,), not (4, 3, 3, 3)"),
    "a weight too many": (field("optimizer", "state", 9, {}), "belongs to no weight"),
    "a state of another type": (field("optimizer", "state", []), "optimizer.state is no dict"),
    "no state": (field("optimizer", "state", {}), "has no momentum"),
    "no momentum": (field("optimizer", "param_groups", 0, "momentum", 0), "momentum does not"),
    "a boolean": (field("optimizer", "param_groups", 0, "nesterov", 0), "nesterov does not"),
    "no groups": (field("optimizer", "param_groups", []), "0 groups of weights"),
    "lr": (field("optimizer", "param_groups", 0, "lr", "x"), "param_groups.lr is 'x'"),
    "an epoch of another run": (field("epoch", 10**9), "epoch is 1000000000, not a whole number"),
    "a later epoch": (field("epoch", 3), "epoch is 3, but its 2 rows"),
    "a negative epoch": (field("epoch", -1), "epoch is -1"),
    "an epoch that is true": (field("epoch", True), "epoch is True"),
    "a batch too many": (field("index", 4), "index is 4"),
    "best": (field("best", float("inf")), "best is inf"),
    "a best that no row has": (field("best", 99.0), "best is 99.0, but the best score"),
    "rows": (field("rows", 0, "seconds", None), "rows[0].seconds is None"),
    "a row with a tensor": (field("rows", 0, "loss", torch.ones(2)), "rows[0].loss is a Tensor"),
    "means": (field("means", "loss", 3.0), "means.loss is no sum"),
    "a mean of none": (field("means", "loss", (torch.tensor(1.0).double(), 0)), "means.loss is no"),
    "nets": (field("nets", {}), "nets has none, not target"),
    "a missing tensor": (field("nets", "target", "0.weight", None), "0.weight is no tensor"),
    "a misshapen tensor": (field("nets", "target", "0.bias", torch.ones(3)), "0.bias has shape"),
    "an integer tensor": (field("nets", "target", "0.bias", torch.ones(4).long()), "torch.int64"),
    "an infinite tensor": (field("nets", "target", "0.bias", torch.ones(4) / 0), "infinite"),
    **{
        f"without {name}": (without(name), f"{name} is missing")
        for name in ("epoch", "index", "rows", "best", "means", "nets", "optimizer")
    },
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_field(edit):
    net, optimizer, saved = run_of("sgd")
    change, said = EDITS[edit]
    change(saved)
    with pytest.raises(InputError) as caught:
        check(net, optimizer, saved)
    message = str(caught.value)
    assert message.startswith("last.ckpt: ") and said in message and "\n" not in message


@pytest.mark.parametrize(
    "name, value, said",
    [
        ("exp_avg_sq", torch.full((4, 3, 3, 3), -1.0), "negative"),
        ("step", torch.ones(2), "has shape (2,), not ()"),
        ("step", 3, "is no tensor"),
    ],
)
def test_an_edited_buffer_of_adam(name, value, said):
    net, optimizer, saved = run_of("adam")
    buffer(name, value)(saved)
    with pytest.raises(InputError, match=f"optimizer.state.0..{name} ") as caught:
        check(net, optimizer, saved)
    assert said in str(caught.value)


def test_the_script_refuses_it_in_one_line_and_changes_nothing(chain, tmp_path):
    folder = shutil.copytree(chain / "standard", tmp_path / "run")
    words = ["train_standard.py", *SMALL, "--epochs", 4, "--model-dir", folder]
    good = torch.load(folder / "last.ckpt", weights_only=True)
    (folder / "previous.ckpt").unlink()  # or the run would go on from it
    for edit in (field("epoch", 10**9), field("identity", {"seed": torch.ones(2)})):
        saved = copy.deepcopy(good)
        edit(saved)
        torch.save(saved, folder / "last.ckpt")
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        refused = run_script(*words)
        assert refused.status == 2 and refused.err.count("\n") == 1, refused.err
        assert f"{folder / 'last.ckpt'}: " in refused.err
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    torch.save(good, folder / "last.ckpt")
    succeed(*words)
    assert same_bits(folder / "last_model.pth", chain / "standard/last_model.pth")
