"""The window around each pixel: the places to which a transport plan may send its value."""

import math

import torch
import torch.nn.functional as F


class Windows:
    """Read and write images (N,C,H,W) by windows of kernel x kernel pixels.

    The K = kernel^2 places of a window are numbered row by row. Where kernel is even, a window has
    one place more below and to the right of its pixel than above and to the left.
    """

    def __init__(self, x: torch.Tensor, kernel: int):
        before, after = (kernel - 1) // 2, kernel // 2
        self.kernel, self.size = kernel, x.shape[2:]
        self.pads = (before, after, before, after)
        self.centre = before * kernel + before
        span, padded_width = range(-before, after + 1), x.shape[3] + kernel - 1
        self.costs = [math.hypot(row, column) for row in span for column in span]
        self.cost = torch.tensor(self.costs, device=x.device, dtype=x.dtype)
        # How far behind the window's corner each place is in a flattened padded image.
        steps = torch.arange(kernel)
        self.places = (steps[:, None] * padded_width + steps).flatten().tolist()
        self.offsets = torch.tensor(self.places, device=x.device)[:, None]

    def pull(self, image: torch.Tensor, outside: float = 0.0) -> torch.Tensor:
        """Read an image at each place of each pixel's window, `outside` where there is none.

        Returns (N,C,kernel,kernel,H,W), a view that repeats the values of one padded image. With
        outside = 0 this is the adjoint of `push`.
        """
        return self.windows(F.pad(image, self.pads, value=outside))

    def push(self, plan: torch.Tensor) -> torch.Tensor:
        """Sum what each pixel receives under a plan (N,C,K,H,W): (N,C,H,W)."""
        height, width = plan.shape[3:]
        left, right, top, bottom = self.pads
        across = plan.new_zeros(*plan.shape[:2], self.kernel, height, width + left + right)
        padded = plan.new_zeros(*plan.shape[:2], height + top + bottom, width + left + right)
        by_column = plan.unflatten(2, (self.kernel, self.kernel)).unbind(3)
        for column, sent in enumerate(by_column):
            across[..., column : column + width] += sent
        for row, sent in enumerate(across.unbind(2)):
            padded[:, :, row : row + height] += sent
        return self.inner(padded)

    def inner(self, padded: torch.Tensor) -> torch.Tensor:
        """Cut the padding off, (N,C,H,W)."""
        (left, _, top, _), (height, width) = self.pads, self.size
        return padded[:, :, top : top + height, left : left + width]

    def windows(self, padded: torch.Tensor) -> torch.Tensor:
        """View each pixel's window in a padded image, (N,C,kernel,kernel,H,W)."""
        images, channels, height, width = padded.shape
        planes, channel, row, column = padded.stride()
        inner = height - self.kernel + 1, width - self.kernel + 1
        return padded.as_strided(
            (images, channels, self.kernel, self.kernel, *inner),
            (planes, channel, row, column, row, column),
        )

    def read(self, padded: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        """Read the windows of pixels (N,R) in a padded image: (N,K,R).

        pixels: their numbers in the flattened image.
        """
        reached = (self.corner(pixels)[:, None] + self.offsets).flatten(1)
        return padded.flatten(1).gather(1, reached).unflatten(1, (-1, pixels.shape[1]))

    def corner(self, pixels: torch.Tensor) -> torch.Tensor:
        """Find where the windows of pixels begin in the flattened padded image.

        pixels: their numbers in the flattened image.
        """
        height, width = self.size
        lines, wider = pixels // width, self.kernel - 1
        return pixels + lines * wider + lines // height * wider * (width + wider)
