"""The named sets, each from files of its own format, and the held-out split."""

import hashlib
import pickle
import subprocess
import sys
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import datasets

import data
from common.errors import InputError
from data.sets import holdout_size, split_holdout

ROOT = Path(__file__).parents[2]
random = np.random.default_rng(0)


# digits


def upscaled(image):
    """8x8 -> 16x16 in float64: output pixel i lies at (i + 1/2) / 2 - 1/2 between input pixels, edges repeated."""
    at = np.clip((np.arange(16) + 0.5) / 2 - 0.5, 0, 7)
    low = np.floor(at).astype(int)
    high, weight = np.minimum(low + 1, 7), at - low
    weights = np.zeros((16, 8))
    np.add.at(weights, (np.arange(16), low), 1 - weight)
    np.add.at(weights, (np.arange(16), high), weight)
    return weights @ image @ weights.T


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def test_digits_are_scikit_learns_each_once(digits):
    from sklearn.datasets import load_digits

    source = load_digits()
    want = sorted(
        (np.rint(upscaled(image * 255 / 16)).astype(np.uint8).tobytes(), label)
        for image, label in zip(source.images, source.target)
    )
    images = torch.cat([digits.train_images, digits.test_images])
    labels = torch.cat([digits.train_labels, digits.test_labels])
    assert images.shape == (1797, 3, 16, 16)
    assert torch.equal(images[:, 0], images[:, 1]) and torch.equal(images[:, 0], images[:, 2])
    assert (
        sorted((image.numpy().tobytes(), int(label)) for image, label in zip(images[:, 0], labels))
        == want
    )
    assert images.max() == 255


def test_digits_split_is_balanced(digits):
    assert (len(digits.train_labels), len(digits.test_labels)) == (1400, 397)
    train, test = digits.train_labels.bincount(), digits.test_labels.bincount()
    assert ((test - (train + test) * 397 / 1797).abs() < 1).all()
    assert (digits.num_classes, digits.padding, digits.flip) == (10, 1, False)


def test_digits_are_the_same_on_every_machine(digits):
    assert digits.fingerprint == "d9a67ecb6ecac547"


@pytest.mark.parametrize("brightest", [16, 255])
def test_digits_from_arrays_are_upscaled_the_same_way(tmp_path, brightest):
    images = random.integers(0, brightest + 1, (12, 8, 8), dtype=np.uint8)
    images[0, 0, 0] = brightest
    for split in ("train", "test"):
        np.save(tmp_path / f"{split}_images.npy", images)
        np.save(tmp_path / f"{split}_labels.npy", np.arange(12) % 10)
    loaded = data.load("digits", tmp_path, limit_train=5)
    want = np.stack([np.rint(upscaled(image * 255.0 / brightest)) for image in images])
    np.testing.assert_array_equal(loaded.train_images[:, 2].numpy(), want[:5])
    np.testing.assert_array_equal(loaded.test_images[:, 0].numpy(), want)


# torchvision's formats, written here in small; only the checksums it compares with are replaced


def write_cifar(folder, kind, monkeypatch, label_key, n_classes):
    folder = folder / kind.base_folder
    folder.mkdir()
    rows = {
        "train": random.integers(0, 256, (6, 3072), dtype=np.uint8),
        "test": random.integers(0, 256, (4, 3072), dtype=np.uint8),
    }
    labels = {"train": [n_classes - 1, 0, 1, 2, 3, 4], "test": [3, 2, 1, 0]}

    def dump(name, content):
        raw = pickle.dumps(content)
        (folder / name).write_bytes(raw)
        return hashlib.md5(raw).hexdigest()

    for split in rows:
        md5 = dump(split, {"data": rows[split], label_key: labels[split]})
        monkeypatch.setattr(kind, f"{split}_list", [[split, md5]])
    meta = dump("meta", {kind.meta["key"]: [str(i) for i in range(n_classes)]})
    monkeypatch.setattr(kind, "meta", {**kind.meta, "filename": "meta", "md5": meta})
    return {split: rows[split].reshape(-1, 3, 32, 32) for split in rows}, labels


def check(loaded, images, labels):
    for split in ("train", "test"):
        np.testing.assert_array_equal(getattr(loaded, f"{split}_images").numpy(), images[split])
        np.testing.assert_array_equal(getattr(loaded, f"{split}_labels").numpy(), labels[split])


@pytest.mark.parametrize(
    ("name", "kind", "label_key", "n_classes"),
    [
        ("cifar10", datasets.CIFAR10, "labels", 10),
        ("cifar100", datasets.CIFAR100, "fine_labels", 100),
    ],
)
def test_cifar(tmp_path, monkeypatch, name, kind, label_key, n_classes):
    images, labels = write_cifar(tmp_path, kind, monkeypatch, label_key, n_classes)
    loaded = data.load(name, tmp_path)
    check(loaded, images, labels)
    assert (loaded.num_classes, loaded.padding, loaded.flip) == (n_classes, 4, True)


def write_mnist(folder, kind):
    folder = folder / kind.__name__ / "raw"
    folder.mkdir(parents=True)
    images, labels = {}, {}
    for split, prefix, n in (("train", "train", 6), ("test", "t10k", 4)):
        images[split] = random.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        labels[split] = random.integers(0, 10, n, dtype=np.uint8)
        for array, what in ((images[split], "images-idx3"), (labels[split], "labels-idx1")):
            header = np.array([0x800 + array.ndim, *array.shape], ">i4")
            (folder / f"{prefix}-{what}-ubyte").write_bytes(header.tobytes() + array.tobytes())
    return images, labels


@pytest.mark.parametrize(
    ("name", "kind", "padding", "flip"),
    [("mnist", datasets.MNIST, 2, False), ("fashion-mnist", datasets.FashionMNIST, 4, True)],
)
def test_mnist(tmp_path, name, kind, padding, flip):
    images, labels = write_mnist(tmp_path, kind)
    loaded = data.load(name, tmp_path)
    framed = {split: np.pad(grey, ((0, 0), (2, 2), (2, 2))) for split, grey in images.items()}
    check(loaded, {split: np.stack([grey] * 3, axis=1) for split, grey in framed.items()}, labels)
    assert (loaded.num_classes, loaded.padding, loaded.flip) == (10, padding, flip)


def test_svhn(tmp_path, monkeypatch):
    from scipy.io import savemat

    images, labels, listed = {}, {}, {}
    for split, n in (("train", 6), ("test", 4)):
        images[split] = random.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8)
        labels[split] = random.integers(1, 11, n)
        file = tmp_path / f"{split}_32x32.mat"
        savemat(file, {"X": images[split].transpose(2, 3, 1, 0), "y": labels[split][:, None]})
        listed[split] = ["", file.name, hashlib.md5(file.read_bytes()).hexdigest()]
    monkeypatch.setattr(datasets.SVHN, "split_list", listed)
    loaded = data.load("svhn", tmp_path)
    check(
        loaded, images, {split: label % 10 for split, label in labels.items()}
    )  # the digit 0 is stored as 10
    assert (loaded.num_classes, loaded.padding, loaded.flip) == (10, 4, False)


def test_damaged_torchvision_files(tmp_path):
    write_mnist(tmp_path, datasets.MNIST)
    file = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(InputError) as caught:
        data.load("mnist", tmp_path)
    assert f"--data-dir {tmp_path}" in str(caught.value) and "test_labels.npy" in str(caught.value)


def test_failed_download(tmp_path, monkeypatch):
    def no_network(*args, **settings):
        raise URLError("no route to host")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", no_network)
    with pytest.raises(InputError) as caught:
        data.load("cifar10", tmp_path)
    message = str(caught.value)
    assert (
        "\n" not in message
        and f"--data-dir {tmp_path}" in message
        and "no route to host" in message
    )
    assert all(
        f"{split}_{what}.npy" in message
        for split in ("train", "test")
        for what in ("images", "labels")
    )


# Tiny-ImageNet


def write_tiny_imagenet(root):
    """Two classes of 2 and 3 training images, 3 validation images, each of one colour that tells which it is."""
    colours = {}

    def save(file, mode, colour):
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new(mode, (64, 64), colour).save(file, quality=95)
        colours[file.name] = colour if mode == "RGB" else (colour,) * 3

    for i, (wnid, turn) in enumerate([("n02", 0), ("n02", 1), ("n02", 2), ("n01", 0), ("n01", 1)]):
        save(root / "train" / wnid / "images" / f"{wnid}_{turn}.JPEG", "RGB", (40 * i, 200, 10 * i))
    (root / "train" / "n01" / "n01_boxes.txt").write_text("n01_0.JPEG\t0\t0\t9\t9\n")
    for i in range(3):
        save(root / "val" / "images" / f"val_{i}.JPEG", "L", 60 * i + 20)
    (root / "val" / "val_annotations.txt").write_text(
        "val_2.JPEG\tn01\t0\t0\t9\t9\nval_0.JPEG\tn02\t0\t0\t9\t9\nval_1.JPEG\tn02\t0\t0\t9\t9\n"
    )
    (root / "wnids.txt").write_text("n02\nn01\n")
    return colours


@pytest.mark.parametrize("inside", ["", "tiny-imagenet-200"])
def test_tiny_imagenet(tmp_path, inside):
    colours = write_tiny_imagenet(tmp_path / inside)
    loaded = data.load("tiny-imagenet", tmp_path)
    assert (loaded.num_classes, loaded.padding, loaded.flip) == (200, 4, True)
    assert loaded.train_images.shape == (5, 3, 64, 64) and loaded.test_images.shape == (
        3,
        3,
        64,
        64,
    )
    assert loaded.train_labels.tolist() == [0, 1, 0, 1, 1] and loaded.test_labels.tolist() == [
        0,
        1,
        1,
    ]
    train = [
        colours[name]
        for name in ("n01_0.JPEG", "n02_0.JPEG", "n01_1.JPEG", "n02_1.JPEG", "n02_2.JPEG")
    ]
    test = [colours[name] for name in ("val_2.JPEG", "val_0.JPEG", "val_1.JPEG")]
    for images, want in ((loaded.train_images, train), (loaded.test_images, test)):
        off = images.int() - torch.tensor(want)[:, :, None, None]
        assert off.abs().max() <= 3  # JPEG rounds
    limited = data.load("tiny-imagenet", tmp_path, limit_train=2, limit_test=1)
    assert torch.equal(
        limited.train_images, loaded.train_images[:2]
    ) and limited.train_labels.tolist() == [0, 1]


def spoil_image(root):
    file = root / "train" / "n01" / "images" / "n01_0.JPEG"
    file.write_bytes(file.read_bytes()[:300])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_image, ("n01_0.JPEG", "not a readable JPEG")),
        (lambda root: (root / "val" / "images" / "val_1.JPEG").unlink(), ("val_1.JPEG", "missing")),
        (
            lambda root: Image.new("RGB", (32, 64)).save(root / "val" / "images" / "val_0.JPEG"),
            ("val_0.JPEG", "64x32", "64x64"),
        ),
        (
            lambda root: (root / "val" / "val_annotations.txt").unlink(),
            ("--data-dir", "val_annotations.txt"),
        ),
        (
            lambda root: (root / "val" / "val_annotations.txt").write_text(""),
            ("val_annotations.txt", "empty"),
        ),
        (
            lambda root: (root / "val" / "val_annotations.txt").write_text(
                "val_0.JPEG\tn01\nval_1.JPEG\tn09\n"
            ),
            ("val_annotations.txt", "line 2"),
        ),
        (lambda root: (root / "train" / "n02").rename(root / "n02"), ("n02", "wnids.txt")),
        (lambda root: (root / "train" / "n00" / "images").mkdir(parents=True), ("n00", "no .JPEG")),
    ],
)
def test_tiny_imagenet_that_is_incomplete(tmp_path, spoil, words):
    write_tiny_imagenet(tmp_path)
    spoil(tmp_path)
    with pytest.raises(InputError) as caught:
        data.load("tiny-imagenet", tmp_path)
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)


def test_no_tiny_imagenet(tmp_path):
    with pytest.raises(InputError, match=r"--data-dir .*tiny-imagenet-200\.zip"):
        data.load("tiny-imagenet", tmp_path / "nowhere")


# real photographs


def test_cifar10_photographs(tmp_path):
    unpack = ROOT.parent / "shared" / "data" / "unpack.py"
    if not unpack.is_file():
        pytest.skip("needs ../shared/data, real images of CIFAR-10")
    subprocess.run(
        [sys.executable, unpack, "cifar10", tmp_path, "--train", "100", "--test", "50"],
        check=True,
        capture_output=True,
    )
    loaded = data.load("cifar10", tmp_path, limit_train=80)
    assert loaded.train_images.shape == (80, 3, 32, 32) and loaded.test_images.shape == (
        50,
        3,
        32,
        32,
    )
    assert len(loaded.train_labels.unique()) == 10
    # Neighbouring pixels of a photograph are alike in both directions; those of misread rows are not.
    images = loaded.train_images.float()
    for axis in (2, 3):
        assert (images - images.roll(1, axis)).abs().mean() < 0.35 * (
            images - images.roll(1, 0)
        ).abs().mean()


# the held-out split


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(0, 30), min_size=1, max_size=6).filter(any),
    part=st.floats(0, 1),
    seed=st.integers(-5, 2**40),
)
def test_holdout_is_balanced_and_disjoint(counts, part, seed):
    n = sum(counts)
    holdout = round(part * n)
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(n, generator=torch.Generator().manual_seed(0))]
    train, held_out = split_holdout(labels, holdout, seed)
    assert train.dtype == held_out.dtype == torch.int64
    assert len(held_out) == holdout and (train.diff() > 0).all() and (held_out.diff() > 0).all()
    assert torch.equal(torch.cat([train, held_out]).sort().values, torch.arange(n))
    got = labels[held_out].bincount(minlength=len(counts)).tolist()
    quota = [holdout * count / n for count in counts]
    assert all(abs(g - q) < 1 for g, q in zip(got, quota))
    # The largest remainders are rounded up.
    up = [holdout * count % n for count, g, q in zip(counts, got, quota) if g > q]
    down = [holdout * count % n for count, g, q in zip(counts, got, quota) if g < q]
    assert not up or not down or min(up) >= max(down)
    again = split_holdout(labels, holdout, seed)
    assert torch.equal(again[0], train) and torch.equal(again[1], held_out)


def test_holdout_differs_with_the_seed_and_takes_each_image_equally_often():
    labels = torch.arange(10) % 2
    taken = torch.zeros(10)
    for seed in range(300):
        taken[split_holdout(labels, 4, seed)[1]] += 1
    assert (taken - 120).abs().max() < 5 * (300 * 0.4 * 0.6) ** 0.5


def test_no_holdout():
    train, held_out = split_holdout(torch.tensor([1, 0, 1]), 0, seed=3)
    assert train.tolist() == [0, 1, 2] and held_out.shape == (0,) and held_out.dtype == torch.int64


@pytest.mark.parametrize("holdout", [-1, 4])
def test_holdout_beyond_the_images(holdout):
    with pytest.raises(ValueError, match="of 3 images"):
        split_holdout(torch.tensor([1, 0, 1]), holdout, seed=3)


def test_at_most_a_fifth_is_held_out():
    assert holdout_size(1000, 50000) == 1000
    assert holdout_size(1000, 1400) == 280
    assert holdout_size(0, 1400) == 0
    assert holdout_size(1, 4) == 0
    with pytest.raises(InputError, match="--holdout -1"):
        holdout_size(-1, 100)
