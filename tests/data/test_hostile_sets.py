"""Data files that are well formed and wrong: sizes that are declared, labels out of range, paths
that lead out, FIFOs."""

import os
import struct

import numpy as np
import pytest
from test_sets import write_mnist, write_tiny_imagenet
from torchvision import datasets

import data
from common.errors import InputError


def refused(name, folder, *words):
    with pytest.raises(InputError) as caught:
        data.load(name, folder)
    message = str(caught.value)
    assert all(word in message for word in words) and "\n" not in message, message


@pytest.fixture
def arrays(tmp_path):
    for split in ("train", "test"):
        np.save(tmp_path / f"{split}_images.npy", np.zeros((6, 8, 8), np.uint8))
        np.save(tmp_path / f"{split}_labels.npy", np.arange(6) % 3)
    return tmp_path


def npy(shape, dtype="|u1", length=None) -> bytes:
    """A .npy file of 100 bytes of values, whose header declares `shape`, and its own `length`."""
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    declared = len(header) if length is None else length
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", declared) + header + bytes(100)


@pytest.mark.parametrize(
    "content",
    [
        npy("(6, 8, 8)", length=2**32 - 1),
        npy("(1000000000, 8, 8)"),
        npy("(-6, 8, 8)"),
        npy(f"({2**62}, {2**62}, 8)"),
        npy("(((" * 2000),
    ],
)
def test_sizes_that_the_file_does_not_have(content, arrays):
    (arrays / "test_images.npy").write_bytes(content)
    refused("arrays", arrays, "test_images.npy: is truncated or not an .npy file")


def test_a_fifo_in_place_of_an_array(arrays):
    (arrays / "train_labels.npy").unlink()
    os.mkfifo(arrays / "train_labels.npy")
    refused("arrays", arrays, "train_labels.npy: cannot be read")


@pytest.mark.parametrize("label", [6, 10**9, 2**63 - 1])
def test_labels_of_more_classes_than_images(label, arrays):
    np.save(arrays / "train_labels.npy", np.array([0, 1, 2, 0, 1, label]))
    refused("arrays", arrays, "train_labels.npy", f"label {label}", "6 images cannot")


def spoilt_mnist(root, file, change):
    path = root / "MNIST/raw" / f"{file}-ubyte"
    content = bytearray(path.read_bytes())
    path.write_bytes(change(content))


@pytest.mark.parametrize(
    "file, change, words",
    [
        ("train-labels-idx1", lambda b: b[:-1] + b"\x6d", ("train set", "label 109")),
        (
            "t10k-labels-idx1",  # three labels of four images
            lambda b: b[:4] + struct.pack(">i", 3) + b[8:-1],
            ("test set", "3 labels for 4 images"),
        ),
        (
            "train-images-idx3",
            lambda b: b[:8] + struct.pack(">ii", 14, 56) + b[16:],
            ("train set", "images are 14x56"),
        ),
    ],
)
def test_idx_files_that_do_not_fit(file, change, words, tmp_path):
    write_mnist(tmp_path, datasets.MNIST)
    spoilt_mnist(tmp_path, file, change)
    refused("mnist", tmp_path, f"--data-dir {tmp_path}", *words)


def test_a_fifo_among_the_idx_files(tmp_path):
    write_mnist(tmp_path, datasets.MNIST)
    path = tmp_path / "MNIST/raw/t10k-labels-idx1-ubyte"
    path.unlink()
    os.mkfifo(path)
    refused("mnist", tmp_path, f"{path.name} is no plain file")


@pytest.mark.parametrize("name", ["../../secret.JPEG", "/etc/passwd", "..", "a/b.JPEG"])
def test_annotations_that_lead_out_of_the_folder(name, tmp_path):
    write_tiny_imagenet(tmp_path)
    annotations = tmp_path / "val/val_annotations.txt"
    annotations.write_text(f"{annotations.read_text()}{name}\tn01\n")
    refused("tiny-imagenet", tmp_path, "line 4 does not name a file of val/images")


def test_wnids_that_are_no_text(tmp_path):
    write_tiny_imagenet(tmp_path)
    (tmp_path / "wnids.txt").write_bytes(b"n01\n\xff\xfe\n")
    refused("tiny-imagenet", tmp_path, "wnids.txt lists it")


def test_a_jpeg_that_declares_a_size_beyond_memory(tmp_path):
    write_tiny_imagenet(tmp_path)
    path = tmp_path / "val/images/val_1.JPEG"
    content = bytearray(path.read_bytes())
    frame = content.index(b"\xff\xc0") + 5  # height and width in the frame header
    content[frame : frame + 4] = struct.pack(">HH", 65500, 65500)
    path.write_bytes(content)
    refused("tiny-imagenet", tmp_path, "val_1.JPEG", "far larger than 64x64")
    path.unlink()
    os.mkfifo(path)
    refused("tiny-imagenet", tmp_path, "val_1.JPEG: is missing or not a readable JPEG")
