"""Further training images: what a file must hold, and which part of each batch comes from it."""

import io
import zipfile

import numpy as np
import pytest
import torch

import data
from common.errors import InputError
from data.batches import Batches
from data.extra import read_extra


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def write(path, **arrays):
    np.savez(path, **arrays)
    return path


def valid(n=5):
    images = np.random.RandomState(0).randint(0, 256, (n, 16, 16, 3)).astype(np.uint8)
    return {"image": images, "label": np.arange(n, dtype=np.int32) % 10}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_file_is_read(save, digits, tmp_path):
    save(tmp_path / "more.npz", other=np.zeros(3), **valid())
    images, labels = read_extra(tmp_path / "more.npz", digits)
    assert images.dtype == torch.uint8 and labels.dtype == torch.int64
    assert torch.equal(images.permute(0, 2, 3, 1), torch.from_numpy(valid()["image"]))
    assert labels.tolist() == [0, 1, 2, 3, 4]


def pickled(path):
    np.savez(path, **valid() | {"label": np.array([print] * 5, dtype=object)})


def claims_more(path):
    """A header that states 2^40 images, before 5 of them."""
    header = io.BytesIO()
    shape = {"descr": "|u1", "fortran_order": False, "shape": (2**40, 16, 16, 3)}
    np.lib.format.write_array_header_1_0(header, shape)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("image.npy", header.getvalue() + valid()["image"].tobytes())
        archive.writestr("label.npy", b"")


WRONG = {
    "is no .npz file of arrays; write it": lambda path: path.write_bytes(b"PK\x03\x04 no archive"),
    "holds no array 'label'": lambda path: write(path, image=valid()["image"]),
    "holds pickled Python objects": pickled,
    "is no .npz file of arrays": claims_more,
    "needs uint8 (M,16,16,3)": lambda path: write(
        path, image=np.zeros((5, 32, 32, 3)), label=[0] * 5
    ),
    "label is int64 (4,)": lambda path: write(path, **valid() | {"label": np.zeros(4, np.int64)}),
    "label is float64": lambda path: write(path, **valid() | {"label": np.zeros(5)}),
    "holds labels from 0 to 10": lambda path: write(
        path, **valid() | {"label": np.arange(5) * 10 // 4}
    ),
    "holds no images": lambda path: write(path, **valid(0)),
}


@pytest.mark.parametrize("said", WRONG)
def test_a_wrong_file_is_refused_in_one_line(said, digits, tmp_path):
    path = tmp_path / "more.npz"
    WRONG[said](path)
    with pytest.raises(InputError) as error:
        read_extra(path, digits)
    text = str(error.value)
    assert said in text and text.startswith(f"--extra-data {path}: ") and "\n" not in text


def test_a_missing_file_is_refused(digits, tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_extra(tmp_path / "none.npz", digits)


def mixed(n=30, extra=200, fraction=0.7, batch_size=10, **more):
    """Batches whose labels tell the images apart: 1000 and more are extra."""
    images = torch.zeros(n, 3, 4, 4, dtype=torch.uint8)
    others = torch.zeros(extra, 3, 4, 4, dtype=torch.uint8)
    pair = (others, torch.arange(1000, 1000 + extra))
    return Batches(images, torch.arange(n), batch_size, extra=pair, extra_fraction=fraction, **more)


@pytest.mark.parametrize(
    "fraction, batch_size, extra", [(0.7, 10, 7), (0.5, 7, 3), (0.3, 10, 3), (0.9, 5, 4)]
)
def test_the_fraction_of_each_batch(fraction, batch_size, extra):
    batches = mixed(fraction=fraction, batch_size=batch_size, n=4 * batch_size)
    found = [y for _, y in batches.epoch(1, 0)]
    assert len(found) == len(batches) == 4
    for y in found:
        assert len(y) == batch_size and (y >= 1000).sum() == extra
    together = torch.cat(found)
    assert len(together.unique()) == len(together)  # no image twice in an epoch


def test_few_extra_images_are_all_seen_before_one_comes_again():
    y = torch.cat([y for _, y in mixed(n=30, extra=8).epoch(1, 0)])
    counts = torch.bincount(y[y >= 1000] - 1000, minlength=8)
    assert counts.sum() == 21 and counts.min() == 2 and counts.max() == 3


def test_every_image_has_its_turn_over_the_epochs():
    seen = {int(label) for epoch in range(120) for _, y in mixed().epoch(1, epoch) for label in y}
    assert seen == {*range(30), *range(1000, 1200)}


@pytest.mark.parametrize("augmentation", [None, "crop", "idbh-weak"])
def test_an_epoch_resumes_and_is_shared(augmentation):
    whole = list(mixed(augmentation=augmentation, padding=1).epoch(1, 2))
    rest = list(mixed(augmentation=augmentation, padding=1).epoch(1, 2, 1))
    assert len(rest) == len(whole) - 1
    assert all(torch.equal(a[1], b[1]) and torch.equal(a[0], b[0]) for a, b in zip(rest, whole[1:]))
    parts = [
        list(mixed(augmentation=augmentation, padding=1, share=(r, 2)).epoch(1, 2)) for r in (0, 1)
    ]
    for batch, (_, y) in enumerate(whole):
        shares = [part[batch][1] for part in parts]
        assert torch.equal(torch.cat(shares), y)
        counts = [int((share >= 1000).sum()) for share in shares]
        assert abs(counts[0] - counts[1]) <= 1


def test_without_extra_images_an_epoch_has_the_bits_it_had():
    images = torch.arange(48, dtype=torch.uint8).view(4, 3, 2, 2)
    labels = torch.arange(4)
    plain = list(Batches(images, labels, 2, padding=1, flip=True).epoch(5, 1))
    off = list(Batches(images, labels, 2, padding=1, flip=True, extra_fraction=0.7).epoch(5, 1))
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(plain, off))
