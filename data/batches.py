"""Make batches of a data set that lives on the device.

The order and the augmentation are drawn once per epoch; one gather per batch crops and flips.
"""

import hashlib
import math
from collections.abc import Iterator

import torch

from common.errors import InputError
from data.augmentation import augmented, draw
from data.augmentation import crop_and_flip as crop_and_flip


class Batches:
    """Draw training batches in random order, augmented, of one data set or of two in a fixed ratio.

    Args:
        images: uint8 (N,3,H,W). They stay on `device` as uint8; a batch becomes float32 when it is
            made.
        labels: int64 (N,).
        batch_size: images in a batch, at least 2; above N, one batch holds all.
        padding: zero pixels around an image before an H x W window is cut out at random.
        flip: mirror horizontally with probability 1/2.
        augmentation: one of `data.names.AUGMENTATIONS`; None: the images stay as they are.
            Those but "crop" need no `padding`.
        device: where images, labels and batches are.
        channels_last: whether a batch has torch.channels_last strides.
        share: (rank, count): which part of each batch this process gets where `count` processes
            share it. All parts together are the batch of a single process; their sizes differ by
            one image at most.
        extra: more images and labels, uint8 (M,3,H,W) and int64 (M,); None: none.
        extra_fraction: how much of each batch is drawn from `extra`.

    With `extra` an epoch has as many batches as without: of any m images that follow each other
    from the beginning of a batch, floor(m extra_fraction) are extra ones. An epoch then sees that
    much less of the `images`, each at most once, and extra images without replacement until all
    have been seen.

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
        augmentation: str | None = "crop",
        extra: tuple[torch.Tensor, torch.Tensor] | None = None,
        extra_fraction: float = 0.0,
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
        self.count, self.extra_fraction = len(images), extra_fraction if extra else 0.0
        if extra:
            _check(*extra)
            images, labels = torch.cat([images, extra[0]]), torch.cat([labels, extra[1]])
        self.images, self.labels = images.to(device), labels.to(device)
        self.batch_size = min(batch_size, self.count)
        self.padding, self.flip, self.channels_last = padding, flip, channels_last
        changes = augmentation and (augmentation != "crop" or padding or flip)
        self.augmentation = augmentation if changes else None
        self.share = share
        self.generator = torch.Generator()

    def keep(self, index: slice) -> None:
        """Keep the images of a slice alone; there must be no extra ones."""
        self.images, self.labels = self.images[index], self.labels[index]
        self.count = len(self.images)
        self.batch_size = min(self.batch_size, self.count)

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        full, rest = divmod(self.count, self.batch_size)
        return full + (rest >= max(2, self.share[1]))

    def size(self, batch: int) -> int:
        """Return the number of images in a batch, over all processes."""
        return min(self.batch_size, self.count - batch * self.batch_size)

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
        n, device = self.count, self.images.device
        digest = hashlib.sha256(f"{seed} {epoch}".encode()).digest()
        self.generator.manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        # Drawn at once: one copy per epoch goes to the device, and a late start costs nothing.
        order = torch.randperm(n, generator=self.generator)
        drawn = {}
        if self.augmentation:
            sides = (self.images.shape[2], self.images.shape[3])
            how = (self.augmentation, n, sides, self.padding, self.flip)
            drawn = draw(*how, self.generator)
        order = self._mixed(order).to(device)
        drawn = {
            name: value if name == "operation" else value.to(device)
            for name, value in drawn.items()
        }
        for batch in range(start, len(self)):
            rank, count = self.share
            first, size = batch * self.batch_size, self.size(batch)
            part = slice(first + rank * size // count, first + (rank + 1) * size // count)
            index = order[part]
            if drawn:
                x = augmented(
                    self.images, index, {name: value[part] for name, value in drawn.items()}
                )
            else:
                x = self.images[index]
            yield to_float(x, self.channels_last), self.labels[index]

    def _mixed(self, order: torch.Tensor) -> torch.Tensor:
        """Replace a part of an epoch's `order`, int64 (count,), by places of extra images."""
        if not self.extra_fraction:
            return order
        place = (torch.arange(len(order)) % self.batch_size).double()
        # A little is added to the products, of which 10 times 0.7 is to be 7.
        seen = (torch.stack([place, place + 1]) * self.extra_fraction + 1e-9).floor()
        is_extra = seen[1] > seen[0]
        there, wanted = len(self.images) - self.count, int(is_extra.sum())
        rounds = [
            torch.randperm(there, generator=self.generator) for _ in range(-(-wanted // there))
        ]
        order[is_extra] = self.count + torch.cat(rounds)[:wanted]
        return order


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
