"""Read more training images, as generated ones are distributed: an .npz file of images and labels.

The files of Rebuffi et al. 2021, of Gowal et al. 2021 and of Wang et al. 2023 hold `image`, uint8
(M,H,W,3), and `label`, integers (M,). Reading them runs no code.
"""

from pathlib import Path

import numpy as np
import torch

from common import memory
from common.array_files import read_archive
from common.errors import InputError
from data.sets import DataSet

OPTION = "--extra-data"


def read_extra(path: Path, dataset: DataSet) -> tuple[torch.Tensor, torch.Tensor]:
    """Read the images and labels of a file: uint8 (M,3,H,W) and int64 (M,).

    No array larger than the memory is read. The images lie in memory twice for a moment: twice 3 GB
    for a million of 32x32.

    Raises InputError where the file is missing, damaged or of another format, and where its images
    or labels do not fit the data set.
    """
    if not path.is_file():
        raise InputError(f"{OPTION} {path}: no such file; give an .npz file with image and label")

    def refuse(wrong: str, right: str):
        raise InputError(f"{OPTION} {path}: {wrong}; {right}")

    try:
        found = read_archive(path, memory.total(), "write it with numpy.savez", ("image", "label"))
    except InputError as error:
        raise InputError(f"{OPTION} {error}") from None
    for key in ("image", "label"):
        if key not in found:
            refuse(f"holds no array {key!r}", "give the arrays image and label")
    images, labels = found["image"], found["label"]
    if images.dtype != np.uint8 or images.shape[1:] != (*dataset.size, 3):
        height, width = dataset.size
        wrong = f"image is {images.dtype} {images.shape}"
        refuse(wrong, f"{dataset.name} needs uint8 (M,{height},{width},3)")
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        wrong = f"label is {labels.dtype} {labels.shape}"
        refuse(wrong, f"save integers ({len(images)},), one for each image")
    if not len(labels):
        refuse("holds no images", "at least one is needed")
    if labels.min() < 0 or labels.max() >= dataset.num_classes:
        wrong = f"holds labels from {labels.min()} to {labels.max()}"
        refuse(wrong, f"those of {dataset.name} are 0 to {dataset.num_classes - 1}")
    planes = np.ascontiguousarray(np.moveaxis(images, -1, 1))
    return torch.from_numpy(planes), torch.from_numpy(labels.astype(np.int64))
