"""Make batches of a data set that lives on the device.

The order is drawn once per epoch; one gather per batch crops and flips.
"""

import hashlib
import math
from collections.abc import Iterator

import torch

from common.errors import InputError


class Batches:
    """Draw training batches in random order, with random crops and flips.

    Args:
        images: uint8 (N,3,H,W). They stay on `device` as uint8; a batch becomes float32 when it is
            made.
        labels: int64 (N,).
        batch_size: images in a batch, at least 2; above N, one batch holds all.
        padding: zero pixels around an image before an H x W window is cut out at random.
        flip: mirror horizontally with probability 1/2.
        device: where images, labels and batches are.
        channels_last: whether a batch has torch.channels_last strides.
        share: (rank, count): which part of each batch this process gets where `count` processes
            share it. All parts together are the batch of a single process; their sizes differ by
            one image at most.

    The last batch may be smaller. It is left out where it would hold a single image, since batch
    normalisation and the MI bounds need two, or fewer images than there are processes. Another
    epoch leaves out other images.

    All random numbers of an epoch come from `generator`, on the CPU, which (seed, epoch) seeds: an
    epoch has the same bits on every device, however often training was interrupted.

    Raises InputError for fewer than two images or a batch size below 2, ValueError for tensors of
    another shape or type.
    """

    def __init__(  # noqa: PLR0913
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        batch_size: int,
        *,
        padding: int = 0,
        flip: bool = False,
        device="cpu",
        channels_last: bool = False,
        share: tuple[int, int] = (0, 1),
    ):
        _check(images, labels)
        if batch_size < 2:
            raise InputError(
                f"--batch-size {batch_size}: must be 2 or more, for batch norm and the MI bounds"
            )
        if len(images) < 2:
            raise InputError(
                f"--limit-train: {len(images)} training images are left; at least 2 are needed"
            )
        if min(batch_size, len(images)) < share[1]:
            raise InputError(
                f"--batch-size {batch_size}: {share[1]} processes share a batch; "
                f"give {share[1]} or more images"
            )
        if padding < 0:
            raise ValueError(f"padding must be 0 or more, not {padding}")
        self.images, self.labels = images.to(device), labels.to(device)
        self.batch_size = min(batch_size, len(images))
        self.padding, self.flip, self.channels_last = padding, flip, channels_last
        self.share = share
        self.generator = torch.Generator()

    def keep(self, index: slice) -> None:
        """Keep the images of a slice alone."""
        self.images, self.labels = self.images[index], self.labels[index]
        self.batch_size = min(self.batch_size, len(self.images))

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        full, rest = divmod(len(self.images), self.batch_size)
        return full + (rest >= max(2, self.share[1]))

    def size(self, batch: int) -> int:
        """Return the number of images in a batch, over all processes."""
        return min(self.batch_size, len(self.images) - batch * self.batch_size)

    def epoch(
        self, seed: int, epoch: int, start: int = 0
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield this process's part (x, y) of each batch from `start` on: float32 (n,3,H,W) in
        [0,1], int64 (n,).

        Batches before `start` are not computed; the others have the same bits as in the whole
        epoch.
        """
        if not 0 <= start <= len(self):
            raise ValueError(f"start must lie in 0..{len(self)}, not {start}")
        n, device = len(self.images), self.images.device
        digest = hashlib.sha256(f"{seed} {epoch}".encode()).digest()
        self.generator.manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        # Drawn at once: one copy per epoch goes to the device, and a late start costs nothing.
        order = torch.randperm(n, generator=self.generator).to(device)
        corner = torch.randint(2 * self.padding + 1, (n, 2), generator=self.generator).to(device)
        mirrored = torch.randint(2, (n,), generator=self.generator).bool().to(device) & self.flip
        for batch in range(start, len(self)):
            rank, count = self.share
            first, size = batch * self.batch_size, self.size(batch)
            part = slice(first + rank * size // count, first + (rank + 1) * size // count)
            index = order[part]
            if self.padding or self.flip:
                x = crop_and_flip(self.images, index, corner[part] - self.padding, mirrored[part])
            else:
                x = self.images[index]
            yield to_float(x, self.channels_last), self.labels[index]


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


def in_order(
    images: torch.Tensor,
    labels: torch.Tensor,
    batch_size: int,
    device="cpu",
    channels_last: bool = False,
):
    """Yield every image once, in order and without augmentation: float32 (n,3,H,W) in [0,1] and
    int64 (n,).

    Batch sizes differ by one image at most. A batch holds at least two images unless there is one
    in all, because a model in train mode and the MI bounds need two. For that reason alone a batch
    can exceed `batch_size`, as with 3 images and batch size 2.
    """
    _check(images, labels)
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, not {batch_size}")
    n = len(images)
    if n == 0:
        return
    parts = max(min(math.ceil(n / batch_size), n // 2), 1)
    for x, y in zip(images.tensor_split(parts), labels.tensor_split(parts)):
        yield to_float(x.to(device), channels_last), y.to(device)


def to_float(images: torch.Tensor, channels_last: bool = False) -> torch.Tensor:
    """Convert uint8 values 0..255 to float32 in [0,1]; (255 x).round() inverts it exactly.

    channels_last needs (N,3,H,W).
    """
    if images.dtype != torch.uint8:
        raise ValueError(f"uint8 images are needed, not {images.dtype}")
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return images.to(torch.float32, memory_format=layout).div_(255)


def _check(images: torch.Tensor, labels: torch.Tensor) -> None:
    """Raise ValueError unless `images` and `labels` have the right types and shapes."""
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise ValueError(
            f"images must be uint8 (N,3,H,W), not {images.dtype} {tuple(images.shape)}"
        )
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        raise ValueError(
            f"labels must be int64 ({len(images)},), not {labels.dtype} {tuple(labels.shape)}"
        )
