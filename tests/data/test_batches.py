"""Batches against a reference that treats one image at a time, and what an epoch promises."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from data.batches import Batches, crop_and_flip, in_order, to_float


def numbered(n, height=5, width=4):
    """Random images with their own number as the label: which image a batch holds can be told."""
    images = torch.randint(
        0, 256, (n, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(n)
    )
    return images, torch.arange(n)


def windows(image, padding, flip):
    """Every crop of one image (C,H,W) surrounded by zeros, and its mirror images where `flip`."""
    channels, height, width = image.shape
    padded = torch.zeros(channels, height + 2 * padding, width + 2 * padding, dtype=image.dtype)
    padded[:, padding : padding + height, padding : padding + width] = image
    crops = [
        padded[:, top : top + height, left : left + width]
        for top in range(2 * padding + 1)
        for left in range(2 * padding + 1)
    ]
    return crops + [
        torch.stack([crop[:, :, width - 1 - i] for i in range(width)], 2) for crop in crops if flip
    ]


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 5),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    padding=st.integers(0, 7),
    seed=st.integers(0, 999),
)
def test_crop_and_flip_pixel_by_pixel(n, height, width, padding, seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(1, 256, (4, 3, height, width), dtype=torch.uint8, generator=generator)
    index = torch.randint(4, (n,), generator=generator)
    corner = torch.randint(-padding, padding + 1, (n, 2), generator=generator)
    mirrored = torch.randint(2, (n,), generator=generator).bool()
    got = crop_and_flip(images, index, corner, mirrored)
    want = torch.zeros(n, 3, height, width, dtype=torch.uint8)
    for i in range(n):
        for y in range(height):
            for x in range(width):
                row = y + int(corner[i, 0])
                column = (width - 1 - x if mirrored[i] else x) + int(corner[i, 1])
                if 0 <= row < height and 0 <= column < width:
                    want[i, :, y, x] = images[index[i], :, row, column]
    assert torch.equal(got, want)


@pytest.mark.parametrize(("padding", "flip"), [(0, False), (2, False), (0, True), (1, True)])
def test_a_batch_holds_crops_of_its_images(padding, flip):
    images, labels = numbered(40)
    batches = Batches(images, labels, 16, padding=padding, flip=flip)
    for x, y in batches.epoch(seed=1, epoch=0):
        assert x.dtype == torch.float32 and y.dtype == torch.int64 and x.is_contiguous()
        assert x.min() >= 0 and x.max() <= 1
        for image, label in zip((x * 255).round().to(torch.uint8), y):
            assert any(
                torch.equal(image, window) for window in windows(images[label], padding, flip)
            )


def test_crops_and_flips_are_equally_likely_and_independent():
    padding = 1
    image = torch.arange(1, 28, dtype=torch.uint8).view(1, 3, 3, 3)
    kinds = windows(image[0], padding, flip=True)  # 18, all different
    images, labels = image.expand(200, -1, -1, -1), torch.zeros(200, dtype=torch.int64)
    batches = Batches(images, labels, 200, padding=padding, flip=True)
    seen = torch.zeros(len(kinds))
    for epoch in range(18):
        x, _ = next(batches.epoch(seed=0, epoch=epoch))
        x = (x * 255).round().to(torch.uint8)
        seen += torch.stack([(x == kind).all(dim=(1, 2, 3)).sum() for kind in kinds])
    expected = 200 * 18 / 18
    assert seen.sum() == 200 * 18
    chi_squared = ((seen - expected) ** 2 / expected).sum()
    assert chi_squared < 40.8  # 17 degrees of freedom, one in a thousand


@pytest.mark.parametrize(
    ("n", "batch_size", "sizes"),
    [
        (12, 4, [4, 4, 4]),
        (14, 4, [4, 4, 4, 2]),
        (13, 4, [4, 4, 4]),
        (3, 2, [2]),
        (5, 100, [5]),
        (2, 2, [2]),
        (7, 7, [7]),
    ],
)
def test_every_image_once_an_epoch(n, batch_size, sizes):
    images, labels = numbered(n)
    batches = Batches(images, labels, batch_size)
    for epoch in range(3):
        ys = [y for _, y in batches.epoch(seed=0, epoch=epoch)]
        assert [len(y) for y in ys] == sizes and len(batches) == len(sizes)
        seen = torch.cat(ys).tolist()
        assert len(set(seen)) == len(seen) == sum(sizes) >= n - 1


def test_another_image_is_left_out_in_another_epoch():
    images, labels = numbered(9)
    batches = Batches(images, labels, 4)
    left_out = {
        36 - int(sum(y.sum() for _, y in batches.epoch(seed=0, epoch=epoch))) for epoch in range(40)
    }
    assert len(left_out) > 4


def epoch_of(seed, epoch, start=0, batches=None):
    images, labels = numbered(22)
    batches = batches or Batches(images, labels, 5, padding=2, flip=True)
    return list(batches.epoch(seed, epoch, start))


def equal(one, other):
    return len(one) == len(other) and all(
        torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(one, other)
    )


def test_an_epoch_is_fixed_by_seed_and_number():
    images, labels = numbered(22)
    used = Batches(images, labels, 5, padding=2, flip=True)
    list(used.epoch(7, 0))
    torch.manual_seed(123)
    assert equal(epoch_of(7, 3), epoch_of(7, 3, batches=used))


@pytest.mark.parametrize("start", range(6))
def test_start_gives_the_tail_of_the_epoch(start):
    assert equal(epoch_of(7, 3, start), epoch_of(7, 3)[start:])


def test_epochs_and_seeds_differ_in_order_and_in_crops():
    epochs = [
        epoch_of(seed, epoch) for seed, epoch in ((7, 3), (7, 4), (8, 3), (3, 7), (1, 11), (11, 1))
    ]
    orders = {tuple(torch.cat([y for _, y in epoch]).tolist()) for epoch in epochs}
    assert len(orders) == len(epochs)
    crops = {
        tuple(float(x[i].sum()) for x, y in epoch for i in (y == 0).nonzero()) for epoch in epochs
    }
    assert len(crops) > 1


def test_epochs_open_at_once_do_not_disturb_each_other():
    images, labels = numbered(22)
    batches = Batches(images, labels, 5, padding=2, flip=True)
    interleaved = list(zip(batches.epoch(1, 0), batches.epoch(1, 1)))
    assert equal([pair[0] for pair in interleaved], epoch_of(1, 0))
    assert equal([pair[1] for pair in interleaved], epoch_of(1, 1))


def test_global_random_numbers_are_left_alone_and_the_generator_can_be_saved():
    images, labels = numbered(8)
    batches = Batches(images, labels, 4, padding=1, flip=True)
    before = torch.get_rng_state()
    list(batches.epoch(0, 0))
    assert torch.equal(before, torch.get_rng_state())
    state = batches.generator.get_state()
    drawn = torch.rand(3, generator=batches.generator)
    batches.generator.set_state(state)
    assert torch.equal(drawn, torch.rand(3, generator=batches.generator))


@pytest.mark.parametrize("padding", [0, 2])
def test_channels_last_changes_strides_alone(padding):
    images, labels = numbered(8)
    first = Batches(images, labels, 4, padding=padding).epoch(0, 0)
    second = Batches(images, labels, 4, padding=padding, channels_last=True).epoch(0, 0)
    for (x, y), (x_last, y_last) in zip(first, second):
        assert (
            x_last.is_contiguous(memory_format=torch.channels_last) and not x_last.is_contiguous()
        )
        assert torch.equal(x, x_last) and torch.equal(y, y_last)


def test_images_stay_as_they_are():
    images, labels = numbered(8)
    copy = images.clone()
    batches = Batches(images, labels, 4, padding=1, flip=True)
    for x, _ in batches.epoch(0, 0):
        x.zero_()
    assert (
        torch.equal(images, copy) and batches.images.data_ptr() == images.data_ptr()
    )  # no second copy on the CPU


@pytest.mark.parametrize("start", [-1, 6])
def test_start_outside_the_epoch(start):
    with pytest.raises(ValueError, match="start"):
        epoch_of(0, 0, start)


def test_bad_input_to_batches():
    images, labels = numbered(4)
    with pytest.raises(InputError, match="--batch-size 1"):
        Batches(images, labels, 1)
    with pytest.raises(InputError, match="--limit-train"):
        Batches(images[:1], labels[:1], 4)
    with pytest.raises(ValueError, match="padding"):
        Batches(images, labels, 2, padding=-1)
    for wrong in (
        (images.float(), labels),
        (images[0], labels),
        (images, labels.int()),
        (images, labels[:3]),
    ):
        with pytest.raises(ValueError, match="must be"):
            Batches(*wrong, 2)


@settings(max_examples=200, deadline=None)
@given(n=st.integers(0, 60), batch_size=st.integers(1, 70))
def test_in_order(n, batch_size):
    images, labels = numbered(n, 2, 2)
    batches = list(in_order(images, labels, batch_size))
    sizes = [len(y) for _, y in batches]
    assert sum(sizes) == n and (n < 2 or min(sizes) >= 2)
    if n:
        assert torch.equal(torch.cat([x for x, _ in batches]), to_float(images))
        assert torch.equal(torch.cat([y for _, y in batches]), labels)
        assert max(sizes) - min(sizes) <= 1
        assert max(sizes) <= max(batch_size, 3)
        assert max(sizes) <= batch_size or batch_size < 3
        assert len(sizes) == -(-n // batch_size) or batch_size < 3


def test_in_order_layout_and_bad_input():
    images, labels = numbered(6)
    x, _ = next(in_order(images, labels, 4, channels_last=True))
    assert x.is_contiguous(memory_format=torch.channels_last)
    with pytest.raises(ValueError, match="batch_size"):
        next(in_order(images, labels, 0))
    with pytest.raises(ValueError, match="labels"):
        next(in_order(images, labels[:5], 4))


def test_to_float_is_the_correctly_rounded_quotient_and_comes_back():
    values = torch.arange(256, dtype=torch.uint8)
    got = to_float(values)
    assert got.dtype == torch.float32 and torch.equal(got, (values.double() / 255).float())
    assert torch.equal((got * 255).round().to(torch.uint8), values)
    with pytest.raises(ValueError, match="uint8"):
        to_float(values.float())
