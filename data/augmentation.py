"""Augment the images of a batch on its device, by random numbers that are drawn once per epoch.

crop        a window of the zero-padded image at random, and a flip (He et al. 2016)
cropshift   a flip, and a part of the image at a random place on black: `cropshift`
idbh-weak   the same, then one of eight changes of colour or shape, then with probability 1/2 a
            black rectangle

The last two are of Li and Spratling 2023 (Data Augmentation Alone Can Improve Adversarial
Training, ICLR), with the values of their code for CIFAR-10.
"""

import math

import torch

from data import colours

Draws = dict[str, torch.Tensor]  # for each image of an epoch, (N, ...)

LINES = 10  # CropShift removes 0 to 10 rows and columns of a 32x32 image
# The eight operations of IDBH, each with probability 1/8: the least and the largest strength.
STRENGTHS = {
    "saturation": (0.1, 1.9),
    "brightness": (0.5, 1.9),
    "contrast": (0.5, 1.9),
    "sharpness": (0.1, 1.9),
    "autocontrast": (1.0, 1.0),
    "equalize": (1.0, 1.0),
    "shear": (0.05, 0.15),  # radians
    "rotate": (1.0, 10.0),  # whole degrees
}
OPERATIONS = list(STRENGTHS)
WITH_FACTOR = {
    "saturation": colours.saturation,
    "brightness": colours.brightness,
    "contrast": colours.contrast,
    "sharpness": colours.sharpness,
}
WITHOUT_STRENGTH = {"autocontrast": colours.autocontrast, "equalize": colours.equalize}
# Random erasing (Zhong et al. 2020) with torchvision's values, which IDBH takes.
ERASE, ERASED_AREA, ERASED_RATIO, ATTEMPTS = 0.5, (0.02, 0.33), (0.3, 3.3), 10


def draw(
    name: str, n: int, size: tuple[int, int], padding: int, flip: bool, generator: torch.Generator
) -> Draws:
    """Draw what happens to each of `n` images of an epoch, on the CPU.

    Args:
        name: "crop", "cropshift" or "idbh-weak".
        size: height and width of an image.
        padding: of "crop", which the others do without; 0 there: no crop.
        flip: whether a mirrored image keeps its class.
        generator: on the CPU.

    Returns what `augmented` takes.
    """
    if name == "crop":
        corner = torch.randint(2 * padding + 1, (n, 2), generator=generator) - padding
        drawn = {"corner": corner}
    else:
        drawn = cropshift(n, size, generator)
    drawn["mirrored"] = torch.randint(2, (n,), generator=generator).bool() & flip
    if name == "idbh-weak":
        drawn |= colour_or_shape(n, generator) | erasing(n, size, generator)
    return drawn


def augmented(images: torch.Tensor, index: torch.Tensor, drawn: Draws) -> torch.Tensor:
    """Return the augmented images[index], uint8 (n,3,H,W), by the `n` draws of a batch.

    The draws are on the device of the images, except "operation", which stays on the CPU: a device
    need not be waited for to know which images an operation concerns.
    """
    x = crop_and_flip(images, index, drawn["corner"], drawn["mirrored"])
    if "box" in drawn:
        x = x * inside(drawn["box"], drawn["mirrored"], x.shape)
    if "operation" in drawn:
        x = _operated(x, drawn)
        x = x * ~inside(drawn["hole"], torch.zeros_like(drawn["mirrored"]), x.shape)
    return x


def crop_and_flip(
    images: torch.Tensor, index: torch.Tensor, corner: torch.Tensor, mirrored: torch.Tensor
):
    """Cut windows of the images' own size out of the zero-padded images[index], and mirror some of
    them.

    Args:
        images: (N,C,H,W).
        index: int64 (n,), which images.
        corner: int64 (n,2), row and column of the image at which its window begins; may be
            negative.
        mirrored: bool (n,), whose window is then mirrored left to right.

    Returns (n,C,H,W).
    """
    channels, height, width = images.shape[1:]
    row = torch.arange(height, device=images.device)
    column = torch.arange(width, device=images.device)
    row = row + corner[:, :1]  # (n,H)
    column = torch.where(mirrored[:, None], width - 1 - column, column) + corner[:, 1:]  # (n,W)
    inside = ((row >= 0) & (row < height))[:, None, :, None] & ((column >= 0) & (column < width))[
        :, None, None, :
    ]
    row, column = row.clamp(0, height - 1), column.clamp(0, width - 1)
    plane = index[:, None] * channels + torch.arange(channels, device=images.device)  # (n,C)
    # Flat positions: on a CPU `take` is twice as fast as indexing with four tensors.
    pixel = (
        plane[:, :, None, None] * (height * width)
        + (row * width)[:, None, :, None]
        + column[:, None, None, :]
    )
    return images.take(pixel) * inside


def cropshift(n: int, size: tuple[int, int], generator: torch.Generator) -> Draws:
    """Draw for CropShift: cut a part out of an image and put it at a random place on black.

    The number of rows and columns that are lost, in all, is uniform in 0..LINES (in proportion for
    another size than 32), how many of them are columns is uniform, and so are both the place that
    the part is cut from and the place that it is put at.

    Returns "corner" as of `crop_and_flip`, and "box" (n,4) as of `inside`.
    """
    lines = torch.randint(LINES * min(size) // 32 + 1, (n,), generator=generator)
    columns = _up_to(lines, generator)
    lost = torch.stack([lines - columns, columns], 1)  # (n,2), rows and columns
    source, place = _up_to(lost, generator), _up_to(lost, generator)
    return {
        "corner": source - place,
        "box": torch.cat([place, torch.tensor(size) - lost], 1),
    }


def colour_or_shape(n: int, generator: torch.Generator) -> Draws:
    """Draw one of OPERATIONS for each image, with its strength.

    Returns "operation" (n,), the place in OPERATIONS; "factor" int32 (n,), of the operations of
    colour; "inverse" int64 (n,2,2), of shear and rotation (`data.colours`).
    """
    operation = torch.randint(len(OPERATIONS), (n,), generator=generator)
    sign = 2.0 * torch.randint(2, (n,), generator=generator) - 1
    vertical = torch.randint(2, (n,), generator=generator).bool()
    share = torch.rand(n, generator=generator, dtype=torch.float64)
    low, high = torch.tensor(list(STRENGTHS.values()), dtype=torch.float64)[operation].T
    factor = (colours.ONE * (low + share * (high - low))).round().int()
    degrees = (low + share * (high - low + 1)).floor().minimum(high)
    shear = sign * (low + share * (high - low)).tan()
    inverse = torch.eye(2, dtype=torch.float64).repeat(n, 1, 1)
    sheared = operation == OPERATIONS.index("shear")
    inverse[sheared & vertical, 0, 1] = shear[sheared & vertical]
    inverse[sheared & ~vertical, 1, 0] = shear[sheared & ~vertical]
    angle = sign * degrees * (math.pi / 180)
    turn = torch.stack([angle.cos(), angle.sin(), -angle.sin(), angle.cos()], 1).view(n, 2, 2)
    turned = operation == OPERATIONS.index("rotate")
    inverse[turned] = turn[turned]
    inverse = (inverse * (1 << colours.MAP_BITS)).round().long()
    return {"operation": operation, "factor": factor, "inverse": inverse}


def erasing(n: int, size: tuple[int, int], generator: torch.Generator) -> Draws:
    """Draw the black rectangle of random erasing, as torchvision does.

    Area and the logarithm of height/width are uniform; of ten attempts the first that fits counts.

    Returns "hole" (n,4) as of `inside`; height and width 0 where nothing is erased.
    """
    height, width = size
    area, ratio = torch.rand(2, n, ATTEMPTS, generator=generator, dtype=torch.float64)
    area = height * width * (ERASED_AREA[0] + area * (ERASED_AREA[1] - ERASED_AREA[0]))
    low, high = (math.log(end) for end in ERASED_RATIO)
    ratio = (low + ratio * (high - low)).exp()
    sides = torch.stack([(area * ratio).sqrt().round(), (area / ratio).sqrt().round()], 2).long()
    fits = (sides < torch.tensor(size)).all(2)
    first = fits.int().argmax(1)
    chosen = torch.rand(n, generator=generator) < ERASE
    sides = sides[torch.arange(n), first] * (chosen & fits.any(1))[:, None]
    return {"hole": torch.cat([_up_to(torch.tensor(size) - sides, generator), sides], 1)}


def inside(box: torch.Tensor, mirrored: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Return which pixels of images of `shape` (n,C,H,W) lie in their boxes: bool (n,1,H,W).

    box: int64 (n,4), top, left, height and width. mirrored: bool (n,), whose box is mirrored, too.
    """
    height, width = shape[2:]
    top, left, rows, columns = (each[:, None] for each in box.T)
    left = torch.where(mirrored[:, None], width - left - columns, left)
    row, column = torch.arange(height, device=box.device), torch.arange(width, device=box.device)
    row_in = (row >= top) & (row < top + rows)
    column_in = (column >= left) & (column < left + columns)
    return (row_in[:, :, None] & column_in[:, None])[:, None]


def _operated(x: torch.Tensor, drawn: Draws) -> torch.Tensor:
    """Apply to each image its operation of OPERATIONS."""
    result = x.clone()
    for number, name in enumerate(OPERATIONS):
        which = (drawn["operation"] == number).nonzero()[:, 0].to(x.device)
        if not len(which):
            continue
        if name in WITHOUT_STRENGTH:
            result[which] = WITHOUT_STRENGTH[name](x[which])
        elif name in WITH_FACTOR:
            result[which] = WITH_FACTOR[name](x[which], drawn["factor"][which])
        else:
            result[which] = colours.mapped(x[which], drawn["inverse"][which])
    return result


def _up_to(largest: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Draw whole numbers, uniform in 0..largest, of its shape."""
    share = torch.rand(largest.shape, generator=generator, dtype=torch.float64)
    return (share * (largest + 1)).floor().long().minimum(largest)
