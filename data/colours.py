"""Change the colours and the shape of the images of a batch, in whole numbers.

These are the eight operations of IDBH (Li and Spratling 2023), each as Pillow defines it, on uint8
(n,3,H,W). Integer arithmetic gives the same bits on every device. A factor is a whole number of
1/1024, an entry of an inverse map one of 1/65536.
"""

import torch

ONE = 1024  # a factor of 1, which leaves an image as it is
MAP_BITS = 16  # an entry of an inverse map is a multiple of 2 ** -MAP_BITS


def saturation(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Move the colours away from grey: factor int32 (n,), 0 for a grey image."""
    return _blend(x, _grey(x), factor)


def brightness(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Multiply by the factor, int32 (n,), and clip."""
    return _blend(x, torch.zeros_like(x, dtype=torch.int32), factor)


def contrast(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Move the pixels away from the mean of the grey image: factor int32 (n,)."""
    pixels = x.shape[2] * x.shape[3]
    mean = (2 * _grey(x).sum((1, 2, 3), keepdim=True) + pixels) // (2 * pixels)  # rounded
    return _blend(x, mean.int(), factor)


def sharpness(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Move the pixels away from those of the smoothed image, whose border is the image's own."""
    wide, (height, width) = x.int(), x.shape[2:]
    smooth = wide.clone()
    inner = 4 * wide[:, :, 1:-1, 1:-1]
    for row in range(3):
        for column in range(3):
            inner = inner + wide[:, :, row : height - 2 + row, column : width - 2 + column]
    smooth[:, :, 1:-1, 1:-1] = (2 * inner + 13) // 26  # a thirteenth, rounded
    return _blend(x, smooth, factor)


def autocontrast(x: torch.Tensor) -> torch.Tensor:
    """Stretch each channel to 0..255; a channel of one value stays."""
    low, high = x.amin((2, 3), keepdim=True).int(), x.amax((2, 3), keepdim=True).int()
    stretched = (x.int() - low) * 255 // (high - low).clamp_min(1)
    return torch.where(high > low, stretched, x.int()).to(torch.uint8)


def equalize(x: torch.Tensor) -> torch.Tensor:
    """Equalise the histogram of each channel."""
    flat = x.flatten(2).long()  # (n,3,HW)
    counts = torch.zeros(*flat.shape[:2], 256, dtype=torch.int64, device=x.device)
    counts.scatter_add_(2, flat, torch.ones_like(flat))
    last = counts.gather(2, flat.amax(2, keepdim=True))  # pixels of the brightest value
    step = (flat.shape[2] - last) // 255
    below = counts.cumsum(2) - counts
    table = ((step // 2 + below) // step.clamp_min(1)).clamp_max(255)
    table = torch.where(step > 0, table, torch.arange(256, device=x.device))
    return table.gather(2, flat).view_as(x).to(torch.uint8)


def mapped(x: torch.Tensor, inverse: torch.Tensor) -> torch.Tensor:
    """Move the pixels: each takes the value of the nearest pixel of the source, black outside.

    inverse: int64 (n,2,2), the map from (row, column) of the result to those of the source, both
    measured from the centre of the image, in 2 ** -MAP_BITS.
    """
    height, width = x.shape[2:]
    # Twice the distance from the centre is whole.
    row = 2 * torch.arange(height, device=x.device)[:, None] - (height - 1)
    column = 2 * torch.arange(width, device=x.device) - (width - 1)
    source = inverse[:, :, :1, None] * row + inverse[:, :, 1:, None] * column  # (n,2,H,W)
    extent = torch.tensor([height, width], device=x.device).view(2, 1, 1)
    place = (source + (extent << MAP_BITS)) >> (MAP_BITS + 1)  # of the nearest pixel
    inside = ((place >= 0) & (place < extent)).all(1, keepdim=True)
    place = place.clamp_min(0).minimum(extent - 1)
    flat = (place[:, 0] * width + place[:, 1]).flatten(1)[:, None].expand(-1, x.shape[1], -1)
    return x.flatten(2).gather(2, flat).view_as(x) * inside


def _grey(x: torch.Tensor) -> torch.Tensor:
    """Return the luminance (ITU-R 601-2) of uint8 (n,3,H,W) as int32 (n,1,H,W), as Pillow rounds
    it.
    """
    red, green, blue = x.int().split(1, dim=1)
    return (19595 * red + 38470 * green + 7471 * blue + (1 << 15)) >> 16


def _blend(x: torch.Tensor, other: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Return other + factor (x - other), clipped and rounded down, as uint8."""
    blended = ONE * other + factor[:, None, None, None] * (x.int() - other)
    return (blended.clamp(0, 255 * ONE) // ONE).to(torch.uint8)
