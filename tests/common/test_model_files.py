"""Model files: what cannot be read is refused in one line, no code is run, and a kill leaves the old file whole."""

import os
import pickle
from pathlib import Path

import pytest
import torch

import models
from common.errors import InputError
from common.files import load_strictly, read_file, state_dict_of, to_cpu, write_file


def refusal(path):
    with pytest.raises(InputError) as caught:
        read_file(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message.removeprefix(f"{path}: ")


def test_what_is_written_is_read(tmp_path):
    content = {
        "arch": "a",
        "options": {"width": 3, "n": [1, 2.5, None]},
        "state_dict": {"w": torch.randn(3, 4)},
    }
    write_file(content, tmp_path / "m.pth")
    read = read_file(tmp_path / "m.pth")
    assert torch.equal(read["state_dict"].pop("w"), content["state_dict"].pop("w"))
    assert read == content


def test_a_missing_file_and_a_folder(tmp_path):
    assert refusal(tmp_path / "m.pth").startswith("is not a file; give a model file")
    assert refusal(tmp_path).startswith("is not a file; give a model file")


@pytest.mark.parametrize("new", [True, False])
def test_truncated_anywhere(new, tmp_path):
    path = tmp_path / "m.pth"
    torch.save(
        {"w": torch.randn(50), "b": torch.randn(3)}, path, _use_new_zipfile_serialization=new
    )
    whole = path.read_bytes()
    assert list(read_file(path)) == ["w", "b"]
    for length in [*range(40), *range(40, len(whole) - 1, 37), len(whole) - 1]:
        path.write_bytes(whole[:length])
        # The old format is one long pickle: cut within the name of a class, it seems to ask for an unknown one.
        answers = (
            "is truncated or not a torch.save file"
            if new
            else ("is truncated", "holds pickled code")
        )
        assert refusal(path).startswith(answers), length


@pytest.mark.parametrize(
    "content",
    [
        b"a line of text",
        b"<!DOCTYPE html><html>not found</html>",
        b'{"arch": "resnet18"}',
        b"\x89PNG\r\n\x1a\n\x00\x00",
        b"\0" * 300,
        bytes(range(256)),
        pickle.dumps({"arch": 1}, protocol=2),
        pickle.dumps({"arch": 1}, protocol=4),
    ],
)
def test_other_files(content, tmp_path):
    (tmp_path / "m.pth").write_bytes(content)
    assert refusal(tmp_path / "m.pth").startswith("is truncated or not a torch.save file")


def test_other_contents(tmp_path):
    torch.save(torch.ones(2), tmp_path / "m.pth")
    assert refusal(tmp_path / "m.pth") == "holds a Tensor; give a dict of tensors"
    torch.save(torch.nn.Linear(2, 2), tmp_path / "m.pth")
    assert (
        refusal(tmp_path / "m.pth")
        == "holds pickled code, which is not run; save tensors and plain values"
    )


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


class ShellPayload(Payload):
    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("kind", [Payload, ShellPayload])
@pytest.mark.parametrize("new", [True, False])
def test_pickled_code_is_not_run(kind, new, tmp_path):
    proof = tmp_path / "ran"
    torch.save({"state_dict": kind(proof)}, tmp_path / "m.pth", _use_new_zipfile_serialization=new)
    assert (
        refusal(tmp_path / "m.pth")
        == "holds pickled code, which is not run; save tensors and plain values"
    )
    assert not proof.exists()
    torch.load(tmp_path / "m.pth", weights_only=False)
    assert proof.exists(), "the payload is harmless, so this test proves nothing"


def test_a_device_that_is_not_there_is_no_fault_of_the_file(tmp_path):
    torch.save({"w": torch.ones(1)}, tmp_path / "m.pth")
    with pytest.raises((RuntimeError, AssertionError)):
        read_file(tmp_path / "m.pth", device="cuda:99")


def test_state_dict_of():
    state = {"conv.weight": torch.ones(2), "module.bias": torch.ones(1)}
    assert state_dict_of(state, "m.pth") == state  # not every name has the prefix
    assert list(state_dict_of({"state_dict": {"module.w": torch.ones(1)}}, "m.pth")) == ["w"]
    for wrong in (
        {},
        {"state_dict": {}},
        {"state_dict": [torch.ones(1)]},
        {"w": torch.ones(1), "epoch": 3},
        {0: torch.ones(1)},
    ):
        with pytest.raises(InputError, match=r"^m\.pth: has no parameters"):
            state_dict_of(wrong, "m.pth")


def test_load_strictly():
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2))
    full = {name: torch.full_like(value, 3) for name, value in net.state_dict().items()}
    load_strictly(net, full, "m.pth", "it")
    assert all((value == 3).all() for value in net.state_dict().values())

    def why(state):
        before = {name: value.clone() for name, value in net.state_dict().items()}
        with pytest.raises(InputError) as caught:
            load_strictly(net, state, "m.pth", "it")
        assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items()), (
            "half loaded"
        )
        return str(caught.value)

    fours = {name: torch.full_like(value, 4) for name, value in full.items()}
    assert "m.pth: is not a checkpoint of it: 0.bias is missing" in why(
        {name: value for name, value in fours.items() if name != "0.bias"}
    )
    assert "0.gain is unknown" in why(fours | {"0.gain": torch.ones(1)})
    assert "0.bias has shape (3,), not (2,)" in why(fours | {"0.bias": torch.ones(3)})
    del fours["1.num_batches_tracked"]
    load_strictly(net, fours, "m.pth", "it")
    assert net[1].num_batches_tracked == 3
    assert (net[0].weight == 4).all()


@pytest.mark.parametrize("fails", ["torch.save", "os.fsync", "os.replace"])
def test_a_kill_while_writing_leaves_the_old_file(fails, tmp_path, monkeypatch):
    path = tmp_path / "m.pth"
    write_file({"w": torch.zeros(3)}, path)

    def killed(*arguments):
        if fails == "torch.save":
            arguments[1].write(b"PK half a file")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fails, killed)
        with pytest.raises(KeyboardInterrupt):
            write_file({"w": torch.ones(3)}, path)
    assert torch.equal(read_file(path)["w"], torch.zeros(3))
    write_file({"w": torch.ones(3)}, path)  # what the kill left beside it is in nobody's way
    assert torch.equal(read_file(path)["w"], torch.ones(3))
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.pth"]


def test_to_cpu_copies():
    weight = torch.nn.Parameter(torch.ones(2))
    copy = to_cpu({"w": weight})["w"]
    weight.data.zero_()
    assert torch.equal(copy, torch.ones(2))
    assert not copy.requires_grad


def test_a_file_written_on_cuda_opens_on_a_cpu(tmp_path, monkeypatch):
    """PyTorch tags each storage with where it was; a file tagged cuda:0 opens here all the same, in `load` and in `read_file`."""
    net = models.build("resnet18", width=4)
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        torch.save(
            {"arch": net.arch, "options": net.options, "state_dict": net.state_dict(), "about": {}},
            tmp_path / "cuda.pth",
        )
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="CUDA"):
            torch.load(tmp_path / "cuda.pth", weights_only=True)  # the tag is there
    loaded = models.load(tmp_path / "cuda.pth").state_dict()
    assert all(
        value.device.type == "cpu" and torch.equal(value, net.state_dict()[name])
        for name, value in loaded.items()
    )
    state = read_file(tmp_path / "cuda.pth")["state_dict"]
    assert all(value.device.type == "cpu" for value in state.values())
