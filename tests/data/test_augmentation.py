"""The augmentations against their definitions: one image at a time, Pillow's operations, and the
distribution of what is drawn."""

import math

import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from data import augmentation, colours
from data.augmentation import OPERATIONS, STRENGTHS, augmented, draw
from data.batches import Batches


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(n, height=9, width=7, seed=1):
    """Images without a black pixel."""
    return torch.randint(
        1, 256, (n, 3, height, width), dtype=torch.uint8, generator=generator(seed)
    )


def pil(image):
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def tensor(image):
    return (
        torch.tensor(list(image.tobytes()), dtype=torch.uint8)
        .view(image.height, image.width, 3)
        .permute(2, 0, 1)
    )


def test_cropshift_pixel_by_pixel():
    """A part of the image, cut out and put elsewhere on black, then mirrored."""
    images = pictures(40, 32, 32)
    drawn = draw("cropshift", 40, (32, 32), 0, True, generator())
    found = augmented(images, torch.arange(40), drawn)
    assert 5 < drawn["mirrored"].sum() < 35
    for image, got, corner, box, mirrored in zip(
        images, found, *(drawn[name] for name in ("corner", "box", "mirrored"))
    ):
        top, left, rows, columns = box.tolist()
        row, column = (corner + box[:2]).tolist()  # of the source
        part = image[:, row : row + rows, column : column + columns]
        assert part.shape[1:] == (rows, columns)  # it lies within the image
        want = torch.zeros_like(image)
        want[:, top : top + rows, left : left + columns] = part
        assert torch.equal(got, want.flip(2) if mirrored else want)


def test_cropshift_has_the_published_geometry():
    """Lines lost in all: uniform in 0..10; columns: uniform in 0..lines; places: uniform."""
    n = 66_000
    drawn = augmentation.cropshift(n, (32, 32), generator(5))
    place, lost = drawn["box"][:, :2], 32 - drawn["box"][:, 2:]
    source = drawn["corner"] + place
    lines = lost.sum(1)
    counts = torch.bincount(lines, minlength=11)
    assert len(counts) == 11
    assert ((counts - n / 11) ** 2 / (n / 11)).sum() < 29.6  # 10 degrees of freedom, 1 in 1,000
    columns = torch.bincount(lost[lines == 6, 1], minlength=7).double()
    expected = columns.sum() / 7
    assert ((columns - expected) ** 2 / expected).sum() < 22.5  # 6 degrees of freedom
    for each in (source, place):
        assert (each >= 0).all() and (each <= lost).all()
        seen = torch.bincount(each[lost[:, 0] == 4, 0], minlength=5).double()
        expected = seen.sum() / 5
        assert ((seen - expected) ** 2 / expected).sum() < 18.5  # 4 degrees of freedom
    # The two places are independent of each other.
    chosen = lost[:, 1] == 3
    pairs = torch.bincount(4 * source[chosen, 1] + place[chosen, 1], minlength=16).double()
    assert ((pairs - pairs.mean()) ** 2 / pairs.mean()).sum() < 37.7  # 15 degrees of freedom


def test_cropshift_loses_lines_in_proportion_to_the_size():
    for size, most in ((16, 5), (64, 20), (8, 2)):
        box = augmentation.cropshift(4000, (size, size), generator())["box"]
        assert (2 * size - box[:, 2:].sum(1)).max() == most


@pytest.mark.parametrize("name", ["saturation", "brightness", "contrast", "sharpness"])
def test_an_operation_of_colour_is_pillows(name):
    """Up to one grey level: Pillow blends in float32."""
    kind = {"saturation": "Color"}.get(name, name.capitalize())
    images = pictures(12)
    low, high = STRENGTHS[name]
    factors = torch.linspace(low, high, 12).mul(colours.ONE).round().int()
    found = augmentation.WITH_FACTOR[name](images, factors)
    for image, factor, got in zip(images, factors, found):
        want = tensor(getattr(ImageEnhance, kind)(pil(image)).enhance(factor.item() / colours.ONE))
        assert (got.int() - want.int()).abs().max() <= 1
    assert not torch.equal(found, images)
    one = torch.full((12,), colours.ONE, dtype=torch.int32)
    assert torch.equal(augmentation.WITH_FACTOR[name](images, one), images)


@pytest.mark.parametrize("name", ["autocontrast", "equalize"])
def test_an_operation_without_a_strength_is_pillows(name):
    images = torch.cat([pictures(6, 32, 32) // 2 + 20, pictures(2, 32, 32) * 0 + 7])
    found = augmentation.WITHOUT_STRENGTH[name](images)
    for image, got in zip(images, found):
        want = tensor(getattr(ImageOps, name)(pil(image)))
        assert (got.int() - want.int()).abs().max() <= (name == "autocontrast")
    assert not torch.equal(found[:6], images[:6]) and torch.equal(found[6:], images[6:])


def moved(image, matrix):
    """Each pixel from the nearest of the source, one at a time; matrix: (row, column), floats."""
    height, width = image.shape[1:]
    result = torch.zeros_like(image)
    for row in range(height):
        for column in range(width):
            down, right = row - (height - 1) / 2, column - (width - 1) / 2
            place = [
                math.floor(along[0] * down + along[1] * right + (side - 1) / 2 + 0.5)
                for along, side in zip(matrix, (height, width))
            ]
            if 0 <= place[0] < height and 0 <= place[1] < width:
                result[:, row, column] = image[:, place[0], place[1]]
    return result


def test_shear_and_rotation_take_the_nearest_pixel():
    images = pictures(40, 16, 16)
    drawn = augmentation.colour_or_shape(4000, generator(2))
    kinds = {}
    for name in ("shear", "rotate"):
        which = (drawn["operation"] == OPERATIONS.index(name)).nonzero()[:20, 0]
        inverse = drawn["inverse"][which]
        got = colours.mapped(images[:20], inverse)
        for image, matrix, result in zip(images, inverse.double() / 2**colours.MAP_BITS, got):
            assert torch.equal(result, moved(image, matrix.tolist()))
        kinds[name] = inverse.double() / 2**colours.MAP_BITS
    turn = kinds["rotate"]
    degrees = torch.atan2(turn[:, 0, 1], turn[:, 0, 0]) * 180 / math.pi
    assert (degrees - degrees.round()).abs().max() < 1e-2
    assert degrees.abs().round().min() >= 1 and degrees.abs().round().max() <= 10
    assert degrees.min() < 0 < degrees.max()
    for image, angle, result in zip(
        images, degrees.round(), colours.mapped(images[:20], (turn * 2**16).round().long())
    ):
        pillows = [tensor(pil(image).rotate(sign * angle.item())) for sign in (1, -1)]
        agree = [(result == each).double().mean() for each in pillows]
        assert max(agree) > 0.98  # ties are rounded otherwise
    slope = (kinds["shear"] - torch.eye(2, dtype=torch.float64)).abs().amax((1, 2)).atan()
    assert 0.0499 < slope.min() and slope.max() < 0.1501
    sheared = kinds["shear"]
    assert (sheared[:, 0, 1] != 0).any() and (sheared[:, 1, 0] != 0).any()
    assert not (sheared[:, 0, 1] * sheared[:, 1, 0]).any()


def test_each_operation_has_an_eighth_and_its_range():
    n = 40_000
    drawn = augmentation.colour_or_shape(n, generator(3))
    counts = torch.bincount(drawn["operation"], minlength=8).double()
    assert ((counts - n / 8) ** 2 / (n / 8)).sum() < 24.3  # 7 degrees of freedom, 1 in 1,000
    for name in augmentation.WITH_FACTOR:
        factor = drawn["factor"][drawn["operation"] == OPERATIONS.index(name)] / colours.ONE
        low, high = STRENGTHS[name]
        assert factor.min() < low + 0.01 and factor.max() > high - 0.01
        assert factor.min() > low - 1e-3 and factor.max() < high + 1e-3
        assert abs(factor.mean() - (low + high) / 2) < 0.03


def test_erasing_is_torchvisions_in_distribution():
    """Its area, ratio and place against a loop over single draws."""
    size, n = (32, 32), 20_000
    hole = augmentation.erasing(n, size, generator(4))["hole"]
    erased = hole[:, 2] > 0
    assert abs(erased.double().mean() - 0.5) < 0.015
    hole = hole[erased]
    assert (hole[:, :2] >= 0).all() and (hole[:, :2] + hole[:, 2:] <= 32).all()
    assert (hole[:, 2:] < 32).all()
    torch.manual_seed(0)
    from torchvision.transforms import RandomErasing

    image = torch.zeros(3, 32, 32)
    draws = [RandomErasing.get_params(image, (0.02, 0.33), (0.3, 3.3)) for _ in range(3000)]
    want = torch.tensor([each[:4] for each in draws]).double()
    for column in range(4):  # top, left, height, width: means within four standard errors
        ours, theirs = hole[:, column].double(), want[:, column]
        error = (ours.var() / len(ours) + theirs.var() / len(theirs)).sqrt()
        assert abs(ours.mean() - theirs.mean()) < 4 * error
        assert abs(ours.std() / theirs.std() - 1) < 0.06


def test_idbh_applies_its_parts_in_their_order():
    """A batch against single images: CropShift and flip, the operation, the black rectangle."""
    n, size = 64, (16, 16)
    images = pictures(n, *size)
    drawn = draw("idbh-weak", n, size, 0, True, generator(7))
    index = torch.randperm(n, generator=generator(8))
    found = augmented(images, index, drawn)
    for i in range(n):
        x = augmentation.crop_and_flip(
            images, index[i : i + 1], drawn["corner"][i : i + 1], drawn["mirrored"][i : i + 1]
        )
        mirrored = drawn["mirrored"][i : i + 1]
        x = x * augmentation.inside(drawn["box"][i : i + 1], mirrored, x.shape)
        name = OPERATIONS[drawn["operation"][i]]
        if name in augmentation.WITH_FACTOR:
            x = augmentation.WITH_FACTOR[name](x, drawn["factor"][i : i + 1])
        elif name in augmentation.WITHOUT_STRENGTH:
            x = augmentation.WITHOUT_STRENGTH[name](x)
        else:
            x = colours.mapped(x, drawn["inverse"][i : i + 1])
        top, left, rows, columns = drawn["hole"][i].tolist()
        x[:, :, top : top + rows, left : left + columns] = 0
        assert torch.equal(found[i], x[0])


@pytest.mark.parametrize("name", ["cropshift", "idbh-weak"])
def test_an_epoch_is_fixed_by_seed_and_number_and_resumes(name):
    images = pictures(22, 16, 16)
    labels = torch.arange(22)

    def epoch(seed, number, start=0, share=(0, 1)):
        batches = Batches(images, labels, 5, augmentation=name, flip=True, share=share)
        return list(batches.epoch(seed, number, start))

    def equal(one, other):
        return len(one) == len(other) and all(
            torch.equal(x, x2) and torch.equal(y, y2) for (x, y), (x2, y2) in zip(one, other)
        )

    whole = epoch(3, 1)
    assert (
        equal(whole, epoch(3, 1))
        and not equal(whole, epoch(3, 2))
        and not equal(whole, epoch(4, 1))
    )
    for start in range(6):
        assert equal(epoch(3, 1, start), whole[start:])
    parts = [epoch(3, 1, share=(rank, 2)) for rank in range(2)]
    joined = [(torch.cat([a[0], b[0]]), torch.cat([a[1], b[1]])) for a, b in zip(*parts)]
    assert equal(joined, whole)
