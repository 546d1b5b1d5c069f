"""Model files that are well formed and wrong: flipped bits, sizes, types and values that would
pass unseen."""

import os
import zipfile

import pytest
import torch

import models
from common.errors import InputError
from common.files import read_file
from common.memory import total
from models import mi
from models.encoder import load_encoder


def refusal(path, read=read_file) -> str:
    with pytest.raises(InputError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message.removeprefix(f"{path}: ")


@pytest.fixture
def good(tmp_path):
    """The content of a small network's file, and its path."""
    path = tmp_path / "m.pth"
    models.save(models.build("vgg16", 10, width=1), path, epsilon=0.1, norm="linf", dataset="mnist")
    return torch.load(path, weights_only=True), path


def test_a_flipped_bit_of_any_member_is_seen(good):
    _, path = good
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        places = [
            (info.filename, info.header_offset + 30 + len(info.filename), info.file_size)
            for info in archive.infolist()
        ]
    for name, offset, size in places:
        extra = int.from_bytes(whole[offset - len(name) - 2 : offset - len(name)], "little")
        broken = bytearray(whole)
        broken[offset + extra + size // 2] ^= 4
        path.write_bytes(broken)
        assert "is damaged" in refusal(path) and name in refusal(path)
    zeros = bytearray(whole)
    zeros[len(whole) // 2 : len(whole) // 2 + 4096] = bytes(4096)
    path.write_bytes(zeros)
    assert "is damaged" in refusal(path)


def test_compressed_and_overlapping_members(good, tmp_path):
    _, path = good
    bomb = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path) as one, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as other:
        for info in one.infolist():
            other.writestr(info.filename, one.read(info))
    assert "compressed or overlapping" in refusal(bomb)


def test_what_is_no_file_that_ends(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert refusal(tmp_path / "pipe").startswith("is not a file")
    assert refusal(tmp_path / ("x" * 300)).startswith("cannot be read (File name too long)")
    sparse = tmp_path / "sparse.pth"
    with open(sparse, "wb") as file:
        file.truncate(2 * total())
    assert "bytes, and at most" in refusal(sparse)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64])
def test_weights_of_another_type(dtype, good):
    content, path = good
    state = {name: value.to(dtype) for name, value in content["state_dict"].items()}
    torch.save(content | {"state_dict": state}, path)
    assert "values, and weights are floating-point" in refusal(path, models.load)


def test_half_precision_and_double_weights_are_read(good):
    content, path = good
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        state = {
            name: value.to(dtype) if value.is_floating_point() else value
            for name, value in content["state_dict"].items()
        }
        torch.save(content | {"state_dict": state}, path)
        assert models.load(path).state_dict().keys() == state.keys()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e300])
def test_values_that_are_not_finite(value, good):
    content, path = good
    name = next(iter(content["state_dict"]))
    content["state_dict"][name] = content["state_dict"][name].double()
    content["state_dict"][name].view(-1)[3] = value  # 1e300 is infinite in float32
    torch.save(content, path)
    assert refusal(path, models.load).startswith(f"{name} holds NaN or infinite values")


def test_tensors_that_are_no_plain_ones(good):
    content, path = good
    name = next(iter(content["state_dict"]))
    weight = content["state_dict"][name]
    with torch.device("meta"):
        empty = torch.empty(weight.shape)
    for wrong, why in (
        (torch.zeros(()).expand(10**6, 10**6), "fewer values are stored"),
        (weight.to_sparse(), "sparse"),
        (empty, "without values"),
    ):
        torch.save(content | {"state_dict": content["state_dict"] | {name: wrong}}, path)
        assert why in refusal(path) and f"state_dict.{name} " in refusal(path)


@pytest.mark.parametrize(
    "options, why",
    [
        ({"width": 10**6}, "its option width is larger than its tensors"),
        ({"num_classes": 10**9}, "its option num_classes is larger"),
        ({"width": 700}, "has shape"),
        ({5: 8}, "options: it has the name 5, not a text"),
        ({"width": torch.ones(2)}, "its option width is no plain value"),
        ([1, 2], "options: it is a list, not a dict"),
    ],
)
def test_options_that_the_tensors_do_not_have(options, why, good):
    content, path = good
    torch.save(content | {"options": options}, path)
    assert why in refusal(path, models.load)


def test_options_that_build_for_ever(tmp_path):
    path = tmp_path / "m.pth"
    models.save(models.build("vib-mlp", 10, width=300), path)
    content = torch.load(path, weights_only=True)
    torch.save(content | {"options": content["options"] | {"layers": 100_000}}, path)
    assert "more than 10000 layers" in refusal(path, models.load)


@pytest.mark.parametrize(
    "fact, value",
    [("epsilon", float("nan")), ("epsilon", "8/255"), ("dataset", 3), ("held_out", [1]), (7, 1)],
)
def test_facts_of_another_type(fact, value, good):
    content, path = good
    torch.save(content | {"about": content["about"] | {fact: value}}, path)
    said = refusal(path, models.load)
    assert said.startswith("about: ") and str(fact) in said


def test_every_reader_of_models_asks_the_same_of_them(tmp_path):
    local, encoder = tmp_path / "local.pth", tmp_path / "encoder.pth"
    mi.save_net(mi.LocalNet(4), local)
    models.save(models.encoder.Encoder(2, (8, 8)), encoder)
    for path, read in ((local, mi.load_net), (encoder, load_encoder)):
        content = torch.load(path, weights_only=True)
        size = next(iter(content["options"]))
        torch.save(content | {"options": content["options"] | {size: 10**9}}, path)
        assert f"its option {size} is larger" in refusal(path, read)
        state = {name: value.long() for name, value in content["state_dict"].items()}
        torch.save(content | {"state_dict": state}, path)
        assert "weights are floating-point" in refusal(path, read)


def test_nested_for_ever(tmp_path):
    path, nested = tmp_path / "m.pth", []
    for _ in range(200):
        nested = [nested]
    torch.save({"w": torch.ones(1), "more": nested}, path)
    assert refusal(path).startswith("is nested too deep")
