"""The four .npy files: what fits is read exactly, what does not is refused with one line that names the file."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import data
from common.errors import InputError

random = np.random.default_rng(0)
NAMES = ("train_images", "train_labels", "test_images", "test_labels")


def write(folder, **changes):
    """Four valid files (6 training and 4 test images of 8x8, classes 0..2) but for `changes`; None leaves one out."""
    content = {
        "train_images": random.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8),
        "train_labels": np.arange(6) % 3,
        "test_images": random.integers(0, 256, (4, 8, 8, 3), dtype=np.uint8),
        "test_labels": np.arange(4) % 3,
        **changes,
    }
    for name, array in content.items():
        if array is not None:
            np.save(folder / f"{name}.npy", array)
    return content


def refused(folder, *words, name="arrays"):
    """Loading fails with one line that holds each of `words`."""
    with pytest.raises(InputError) as caught:
        data.load(name, folder)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_colour_images_arrive_pixel_for_pixel(tmp_path):
    content = write(tmp_path)
    loaded = data.load("arrays", tmp_path)
    assert (loaded.name, loaded.num_classes, loaded.padding, loaded.flip) == ("arrays", 3, 4, True)
    for split in ("train", "test"):
        images, labels = getattr(loaded, f"{split}_images"), getattr(loaded, f"{split}_labels")
        assert (
            images.dtype == torch.uint8 and labels.dtype == torch.int64 and images.is_contiguous()
        )
        np.testing.assert_array_equal(
            images.numpy(), content[f"{split}_images"].transpose(0, 3, 1, 2)
        )
        np.testing.assert_array_equal(labels.numpy(), content[f"{split}_labels"])


def test_grey_images_get_three_equal_channels(tmp_path):
    content = write(
        tmp_path,
        train_images=random.integers(0, 256, (6, 9, 7), dtype=np.uint8),
        test_images=random.integers(0, 256, (4, 9, 7), dtype=np.uint8),
    )
    images = data.load("arrays", tmp_path).train_images
    assert images.shape == (6, 3, 9, 7)
    for channel in range(3):
        np.testing.assert_array_equal(images[:, channel].numpy(), content["train_images"])


@pytest.mark.parametrize("dtype", ["uint8", "int32", ">i8", "uint64"])
def test_every_integer_type_of_labels(tmp_path, dtype):
    write(tmp_path, train_labels=np.array([0, 1, 2, 0, 1, 2], dtype))
    assert data.load("arrays", tmp_path).train_labels.tolist() == [0, 1, 2, 0, 1, 2]


def test_fortran_order_is_read_as_numpy_means_it(tmp_path):
    images = random.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    write(tmp_path, train_images=np.asfortranarray(images))
    np.testing.assert_array_equal(
        data.load("arrays", tmp_path).train_images.numpy(), images.transpose(0, 3, 1, 2)
    )


def test_tensors_outlive_the_files(tmp_path):
    content = write(tmp_path)
    loaded = data.load("arrays", tmp_path)
    with open(tmp_path / "train_images.npy", "r+b") as file:
        file.truncate(0)
    np.testing.assert_array_equal(
        loaded.train_images.numpy(), content["train_images"].transpose(0, 3, 1, 2)
    )
    loaded.train_images[0] = 0  # writable: a read-only map would end the process


def test_limits_keep_the_first_images_and_the_number_of_classes(tmp_path):
    whole = write(tmp_path)
    loaded = data.load("arrays", tmp_path, limit_train=2, limit_test=1)
    assert loaded.num_classes == 3
    np.testing.assert_array_equal(
        loaded.train_images.numpy(), whole["train_images"][:2].transpose(0, 3, 1, 2)
    )
    assert loaded.train_labels.tolist() == [0, 1] and loaded.test_labels.tolist() == [0]
    assert len(data.load("arrays", tmp_path, limit_train=6, limit_test=4).train_images) == 6


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"limit_train": 0}, ("--limit-train 0", "6 training")),
        ({"limit_train": 7}, ("--limit-train 7", "6 training")),
        ({"limit_test": -1}, ("--limit-test -1", "4 test")),
        ({"limit_test": 5}, ("--limit-test 5", "4 test")),
    ],
)
def test_limits_that_cannot_be_met(tmp_path, limits, words):
    write(tmp_path)
    with pytest.raises(InputError) as caught:
        data.load("arrays", tmp_path, **limits)
    assert all(word in str(caught.value) for word in words)


def test_fingerprint_follows_values_shapes_and_limits(tmp_path):
    content = write(tmp_path)
    first = data.load("arrays", tmp_path).fingerprint
    assert first == data.load("arrays", str(tmp_path)).fingerprint
    assert len(first) == 16 and int(first, 16) >= 0
    others = [data.load("arrays", tmp_path, limit_test=3).fingerprint]
    for name in NAMES:
        changed = content[name].copy()
        changed.flat[0] ^= 1
        write(tmp_path, **{**content, name: changed})
        others.append(data.load("arrays", tmp_path).fingerprint)
    reshaped = {
        f"{split}_images": content[f"{split}_images"].reshape(-1, 4, 16, 3)
        for split in ("train", "test")
    }
    write(tmp_path, **{**content, **reshaped})
    others.append(data.load("arrays", tmp_path).fingerprint)
    assert len({first, *others}) == 1 + len(others)


@pytest.mark.parametrize("missing", NAMES)
def test_one_file_missing(tmp_path, missing):
    write(tmp_path, **{missing: None})
    refused(tmp_path, f"{missing}.npy", "missing")
    refused(
        tmp_path, f"{missing}.npy", "missing", name="digits"
    )  # and not the embedded digits in silence


def test_no_files_at_all(tmp_path):
    refused(tmp_path, "--data-dir", *(f"{name}.npy" for name in NAMES))
    refused(None, "--data-dir", "train_images.npy")


def test_data_dir_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", "--data-dir", "is a file")


def test_unknown_name():
    with pytest.raises(
        InputError, match=r"--dataset imagenet: is unknown; choose one of digits, mnist, "
    ):
        data.load("imagenet")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("left", [0, 5, 60, -1])
def test_truncated(tmp_path, name, left):
    write(tmp_path)
    file = tmp_path / f"{name}.npy"
    os.truncate(file, left if left >= 0 else file.stat().st_size - 1)
    refused(tmp_path, file.name, "truncated")


def test_no_npy_file(tmp_path):
    write(tmp_path)
    np.savez(tmp_path / "archive.npz", images=np.zeros(3))
    os.replace(tmp_path / "archive.npz", tmp_path / "train_images.npy")
    refused(tmp_path, "train_images.npy", "not an .npy file")


def test_a_folder_in_place_of_a_file(tmp_path):
    write(tmp_path, test_images=None)
    (tmp_path / "test_images.npy").mkdir()
    refused(tmp_path, "test_images.npy", "cannot be read")


class Trap:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", NAMES)
def test_pickled_objects_are_refused_and_not_run(tmp_path, name):
    trap = np.empty(6, dtype=object)
    trap[:] = [Trap(tmp_path / "sprung")] * 6
    write(tmp_path, **{name: trap})
    refused(tmp_path, f"{name}.npy", "pickled")
    assert not (tmp_path / "sprung").exists()
    np.load(tmp_path / f"{name}.npy", allow_pickle=True)  # the trap does work
    assert (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "shape", [(6, 3, 8, 8), (6, 8, 8, 1), (6, 8, 8, 4), (6, 64), (6, 1, 8, 8, 3), (6, 0, 8, 3), ()]
)
def test_wrong_shape_of_images(tmp_path, shape):
    write(tmp_path, train_images=np.zeros(shape, np.uint8))
    refused(tmp_path, "train_images.npy", str(shape), "(N,H,W,3) or (N,H,W)")


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_float_images(tmp_path, dtype):
    write(tmp_path, test_images=np.zeros((4, 8, 8, 3), dtype))
    refused(tmp_path, "test_images.npy", "by 255", "uint8")


def test_images_of_other_integers(tmp_path):
    write(tmp_path, train_images=np.zeros((6, 8, 8, 3), np.int64))
    refused(tmp_path, "train_images.npy", "int64", "uint8")


@pytest.mark.parametrize("split", ["train", "test"])
def test_no_images(tmp_path, split):
    write(
        tmp_path,
        **{
            f"{split}_images": np.zeros((0, 8, 8, 3), np.uint8),
            f"{split}_labels": np.zeros(0, np.int64),
        },
    )
    refused(tmp_path, f"{split}_images.npy", "no images")


def test_training_and_test_images_of_two_sizes(tmp_path):
    write(tmp_path, test_images=np.zeros((4, 8, 10, 3), np.uint8))
    refused(tmp_path, "test_images.npy", "8x10", "8x8")


@pytest.mark.parametrize("split", ["train", "test"])
def test_number_of_labels(tmp_path, split):
    write(tmp_path, **{f"{split}_labels": np.arange(5) % 3})
    refused(tmp_path, f"{split}_labels.npy", "5 labels", "images")


@pytest.mark.parametrize("labels", [np.zeros((6, 1), np.int64), np.eye(6, 3, dtype=np.int64)])
def test_wrong_shape_of_labels(tmp_path, labels):
    write(tmp_path, train_labels=labels)
    refused(tmp_path, "train_labels.npy", str(labels.shape), "(N,)")


@pytest.mark.parametrize("dtype", [np.float32, np.bool_, "U1"])
def test_labels_that_are_no_integers(tmp_path, dtype):
    write(tmp_path, train_labels=np.array([0, 1, 0, 1, 0, 1]).astype(dtype))
    refused(tmp_path, "train_labels.npy", "integers")


def test_negative_label(tmp_path):
    write(tmp_path, test_labels=np.array([0, 1, -2, 1]))
    refused(tmp_path, "test_labels.npy", "-2", "start at 0")


def test_test_label_that_training_does_not_have(tmp_path):
    write(tmp_path, test_labels=np.array([0, 1, 3, 1]))
    refused(tmp_path, "test_labels.npy", "label 3", "end at 2")


def test_one_class_only(tmp_path):
    write(tmp_path, train_labels=np.zeros(6, np.int64))
    refused(tmp_path, "train_labels.npy", "two classes")


@pytest.mark.parametrize("split", ["train", "test"])
def test_label_beyond_a_named_set(tmp_path, split):
    zeros = {
        f"{s}_images": np.zeros((n, 32, 32, 3), np.uint8) for s, n in (("train", 6), ("test", 4))
    }
    write(tmp_path, **zeros)
    assert data.load("cifar10", tmp_path).num_classes == 10  # not the three that occur
    write(
        tmp_path,
        **zeros,
        **{f"{split}_labels": np.array([0, 10, 1, 1, 1, 1][: 6 if split == "train" else 4])},
    )
    refused(tmp_path, f"{split}_labels.npy", "label 10", "cifar10 end at 9", name="cifar10")
    assert data.load("cifar100", tmp_path).num_classes == 100


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("cifar10", "32x32"),
        ("tiny-imagenet", "64x64"),
        ("mnist", "28x28 or 32x32"),
        ("digits", "8x8 or 16x16"),
    ],
)
def test_size_that_a_named_set_has_not(tmp_path, name, right):
    write(
        tmp_path,
        train_images=np.zeros((6, 20, 20), np.uint8),
        test_images=np.zeros((4, 20, 20), np.uint8),
    )
    refused(tmp_path, "train_images.npy", "20x20", right, name=name)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_28x28_is_surrounded_by_zeros(tmp_path, name):
    grey = {
        f"{s}_images": random.integers(1, 256, (n, 28, 28), dtype=np.uint8)
        for s, n in (("train", 6), ("test", 4))
    }
    write(tmp_path, **grey)
    images = data.load(name, tmp_path).train_images.numpy()
    assert images.shape == (6, 3, 32, 32)
    np.testing.assert_array_equal(images[:, 1, 2:30, 2:30], grey["train_images"])
    assert np.count_nonzero(images) == 3 * 6 * 28 * 28


def test_28x28_stays_as_it_is_under_the_name_arrays(tmp_path):
    write(
        tmp_path,
        train_images=np.zeros((6, 28, 28), np.uint8),
        test_images=np.zeros((4, 28, 28), np.uint8),
    )
    assert data.load("arrays", tmp_path).test_images.shape == (4, 3, 28, 28)


def test_the_package_imports_no_array_library():
    code = "import sys, data; assert not {'torch', 'numpy', 'torchvision', 'sklearn', 'PIL'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
