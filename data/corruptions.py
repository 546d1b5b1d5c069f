"""Read folders of corrupted test images: CIFAR-10-C and the like (Hendrycks and Dietterich 2019).

A folder holds a file of uint8 images (N,H,W,3) for each corruption, and the labels (N,) of all.
Five severities follow each other in a file, each with the same N/5 test images: 10,000 of 50,000.
"""

from pathlib import Path

import numpy as np
import torch

from common.errors import InputError
from data import arrays
from data.names import DATASETS

SEVERITIES = 5
LABELS = "labels.npy"
# Those that the mean is taken over, in the order of the paper: noise, blur, weather, digital.
CORRUPTIONS = (
    *("gaussian_noise", "shot_noise", "impulse_noise"),
    *("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness"),
    *("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
)
EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")  # the folder has these as well
Corrupted = tuple[torch.Tensor, torch.Tensor]  # images uint8 (n,3,H,W) and labels int64 (n,)


class Corruptions:
    """Hold the files of a folder, memory-mapped.

    Args:
        folder: the value of --corruptions.
        name: the data set that the images and labels must fit.

    Raises InputError that names the files that are missing or do not fit.
    """

    def __init__(self, folder: Path, name: str):
        files = {each: folder / f"{each}.npy" for each in (*CORRUPTIONS, *EXTRA)}
        labels = folder / LABELS
        missing = [path.name for path in (*files.values(), labels) if not path.is_file()]
        if missing:
            raise InputError(
                f"--corruptions {folder}: lacks {', '.join(missing)}; give a folder such as "
                "CIFAR-10-C, with a file for each of 19 corruptions and labels.npy"
            )
        self.images = {each: arrays.read_images(path, name) for each, path in files.items()}
        first = self.images[CORRUPTIONS[0]]
        for each, images in self.images.items():
            if images.shape != first.shape or images.ndim != 4 or len(images) % SEVERITIES:
                raise InputError(
                    f"{files[each]}: has shape {images.shape}; images (N,H,W,3) are needed, as "
                    f"many as in {CORRUPTIONS[0]}.npy, {len(first)}, and a multiple of five"
                )
        self.labels = torch.from_numpy(arrays.read_labels(labels, len(first), name))
        self.name = name
        self.num_classes = DATASETS[name].num_classes or 1 + int(self.labels.max())
        self.size = len(first) // SEVERITIES

    def severity(self, corruption: str, severity: int, limit: int | None = None) -> Corrupted:
        """Read the images and labels of one corruption at a severity from 1 to 5, the first `limit`
        of them."""
        begin = (severity - 1) * self.size
        part = slice(begin, begin + (self.size if limit is None else min(limit, self.size)))
        images = np.ascontiguousarray(self.images[corruption][part].transpose(0, 3, 1, 2))
        return torch.from_numpy(images), self.labels[part]
