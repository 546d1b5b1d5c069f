"""Read more training images, as generated ones are distributed: an .npz file of images and labels.

The files of Rebuffi et al. 2021, of Gowal et al. 2021 and of Wang et al. 2023 hold `image`, uint8
(M,H,W,3), and `label`, integers (M,). Reading them runs no code.
"""

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from common.errors import InputError
from data.sets import DataSet

OPTION = "--extra-data"


def read_extra(path: Path, dataset: DataSet) -> tuple[torch.Tensor, torch.Tensor]:
    """Read the images and labels of a file: uint8 (M,3,H,W) and int64 (M,).

    The header of an array is checked before its values are read. The images lie in memory twice for
    a moment: twice 3 GB for a million of 32x32.

    Raises InputError where the file is missing, damaged or of another format, and where its images
    or labels do not fit the data set.
    """
    if not path.is_file():
        raise InputError(f"{OPTION} {path}: no such file; give an .npz file with image and label")

    def refuse(wrong: str, right: str):
        raise InputError(f"{OPTION} {path}: {wrong}; {right}")

    try:
        with zipfile.ZipFile(path) as archive:
            images = _array(archive, "image", refuse)
            if images.dtype != np.uint8 or images.shape[1:] != (*dataset.size, 3):
                wrong = f"image is {images.dtype} {images.shape}"
                height, width = dataset.size
                refuse(wrong, f"{dataset.name} needs uint8 (M,{height},{width},3)")
            labels = _array(archive, "label", refuse)
    except InputError:
        raise
    except Exception as error:  # a damaged byte can raise almost any exception
        what = type(error).__name__
        refuse(f"is damaged or no .npz file ({what})", "write it with numpy.savez")
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


def _array(archive: zipfile.ZipFile, key: str, refuse: Callable) -> np.ndarray:
    """Read one array of an archive, without unpickling and not beyond the size that it states."""
    name = f"{key}.npy"
    if name not in archive.namelist():
        refuse(f"holds no array {key!r}", "give the arrays image and label")
    with archive.open(name) as file:
        version = np.lib.format.read_magic(file)
        readers = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        shape, _, dtype = readers[version](file)
        if dtype.hasobject:
            refuse(f"{key} holds Python objects, which are not loaded", "save plain numbers")
        stated = file.tell() + dtype.itemsize * int(np.prod([int(n) for n in shape], dtype=object))
        if stated != archive.getinfo(name).file_size:
            refuse(f"{key} is truncated", "copy the file again")
    with archive.open(name) as file:
        return np.lib.format.read_array(file, allow_pickle=False)
