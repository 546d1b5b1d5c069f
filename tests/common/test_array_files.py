"""Archives of arrays: nothing larger than expected is put into memory, and each array is whole."""

import io
import os
import zipfile

import numpy as np
import pytest

from common.array_files import HEADER, read_archive
from common.errors import InputError


def refusal(path, largest=10**6) -> str:
    with pytest.raises(InputError) as caught:
        read_archive(path, largest, "give another")
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and message.endswith("; give another")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ").removesuffix("; give another")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_is_written_is_read(save, tmp_path):
    arrays = {
        "labels": np.arange(5),
        "images": np.asfortranarray(np.random.default_rng(0).random((4, 3, 2), np.float32)),
        "about": np.array("{}"),
        "none": np.zeros((0, 3)),
    }
    save(tmp_path / "a.npz", **arrays)
    read = read_archive(tmp_path / "a.npz", 1000, "give another")
    assert list(read) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array)
        assert read[name].dtype == array.dtype and read[name].flags.writeable
    assert list(read_archive(tmp_path / "a.npz", 1000, "", only=("about", "no"))) == ["about"]


def archive(path, name: str, content: bytes, kind=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", kind) as file:
        file.writestr(name, content)
    return path


def octets(array) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def test_a_bomb_is_not_unpacked(tmp_path):
    bomb = archive(tmp_path / "a.npz", "fgsm.npy", octets(np.zeros(2**24, np.uint8)))
    assert bomb.stat().st_size < 2**16
    said = refusal(bomb)
    assert said.startswith("'fgsm.npy' has 16777") and said.endswith("1000000 are expected")
    assert len(read_archive(bomb, 2**24 - HEADER + 128, "")["fgsm"]) == 2**24


@pytest.mark.parametrize(
    "content, why",
    [
        (b"text", "is no .npz file of arrays"),
        (octets(np.zeros(9))[:-8], "is no .npz file of arrays"),
        (octets(np.zeros(9)) + bytes(8), "is no .npz file of arrays"),
        (octets(np.array([{}])), "holds pickled Python objects"),
    ],
)
def test_a_member_that_is_no_plain_array(content, why, tmp_path):
    assert refusal(archive(tmp_path / "a.npz", "x.npy", content)).startswith(why)


@pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_flipped_bit_inside_a_member(kind, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, 5000).astype(np.uint8)
    path = archive(tmp_path / "a.npz", "x.npy", octets(noise), kind)
    whole = path.read_bytes()
    for place in range(300, 4000, 500):
        broken = bytearray(whole)
        broken[place] ^= 1
        path.write_bytes(broken)
        assert refusal(path) == "is no .npz file of arrays", place


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "nowhere", "."):
        assert refusal(tmp_path / name) == "is no .npz file of arrays"
