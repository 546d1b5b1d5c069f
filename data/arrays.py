"""Read a data set from four NumPy files without running code, and check it before it is used."""

from pathlib import Path

import numpy as np

from common.array_files import open_array
from common.errors import InputError
from data.names import DATASETS

FILES = ("train_images.npy", "train_labels.npy", "test_images.npy", "test_labels.npy")
Split = tuple[np.ndarray, np.ndarray]  # images and labels


def are_in(folder: Path) -> bool:
    """Return whether `folder` holds the four files. Raises InputError where it holds only some of
    them.
    """
    missing = [name for name in FILES if not (folder / name).exists()]
    if 0 < len(missing) < len(FILES):
        raise InputError(
            f"{folder / missing[0]}: is missing; all of {', '.join(FILES)} are needed, or none"
        )
    return not missing


def read(folder: Path, name: str) -> tuple[Split, Split]:
    """Read the arrays in `folder` and check that they fit the data set `name`.

    Returns (train_images, train_labels), (test_images, test_labels): images uint8 (N,H,W,3) or
    (N,H,W), still on disk (memory-mapped); labels int64 (N,) in [0, num_classes).

    Raises InputError for a file that is damaged or would need unpickling, and for shapes, types,
    sizes or labels that do not fit.
    """
    num_classes = DATASETS[name].num_classes
    splits: list[Split] = []
    for split in ("train", "test"):
        images_file, labels_file = folder / f"{split}_images.npy", folder / f"{split}_labels.npy"
        images, labels = open_array(images_file), open_array(labels_file)
        check_images(images, images_file, name)
        if splits and images.shape[1:3] != splits[0][0].shape[1:3]:
            raise InputError(
                f"{images_file}: images are {_size(images)}, those of train_images.npy are "
                f"{_size(splits[0][0])}; both must have one size"
            )
        check_labels(labels, labels_file, len(images), num_classes, name)
        labels = labels.astype(np.int64)
        if num_classes is None:
            num_classes = 1 + int(labels.max())
            if num_classes == 1:
                raise InputError(
                    f"{labels_file}: every label is 0; at least two classes are needed"
                )
        splits.append((images, labels))
    return splits[0], splits[1]


def _size(images: np.ndarray) -> str:
    return f"{images.shape[1]}x{images.shape[2]}"


def check_images(images: np.ndarray, path, name: str) -> None:
    """Raise InputError unless `images` are uint8 images of a size that the data set `name` has."""
    if (
        images.ndim not in (3, 4)
        or (images.ndim == 4 and images.shape[3] != 3)
        or 0 in images.shape[1:]
    ):
        raise InputError(f"{path}: has shape {images.shape}; images must be (N,H,W,3) or (N,H,W)")
    if len(images) == 0:
        raise InputError(f"{path}: holds no images; at least one is needed")
    if images.dtype.kind == "f":
        raise InputError(
            f"{path}: holds {images.dtype} images; "
            "multiply values in [0,1] by 255 and save as uint8"
        )
    if images.dtype != np.uint8:
        raise InputError(f"{path}: holds {images.dtype} images; save values 0 to 255 as uint8")
    spec = DATASETS[name]
    sizes = {size for size in (spec.size, spec.source_size) if size is not None}
    if sizes and images.shape[1:3] not in {(s, s) for s in sizes}:
        fitting = " or ".join(f"{s}x{s}" for s in sorted(sizes))
        raise InputError(
            f"{path}: images are {_size(images)}, those of {name} are {fitting}; "
            "use --dataset arrays for other sizes"
        )


def check_labels(
    labels: np.ndarray, path, n_images: int, num_classes: int | None, name: str
) -> None:
    """Raise InputError unless `labels` are `n_images` integers from 0 to num_classes - 1.

    num_classes: None where the largest label gives it; it is then smaller than `n_images`.
    """
    if labels.ndim != 1:
        raise InputError(f"{path}: has shape {labels.shape}; labels must be (N,)")
    if labels.dtype.kind not in "iu":
        raise InputError(
            f"{path}: holds {labels.dtype} labels; save class numbers 0, 1, ... as integers"
        )
    if len(labels) != n_images:
        raise InputError(
            f"{path}: holds {len(labels)} labels for {n_images} images; each image needs one"
        )
    if labels.min() < 0:
        raise InputError(f"{path}: holds the label {labels.min()}; labels start at 0")
    if num_classes is None and labels.max() >= max(n_images, 2):
        raise InputError(
            f"{path}: holds the label {labels.max()}, and {n_images} images cannot have so many "
            "classes; number the classes 0, 1, ..."
        )
    if num_classes is not None and labels.max() >= num_classes:
        known = "the training labels" if name == "arrays" else name
        raise InputError(
            f"{path}: holds the label {labels.max()}; {known} end at {num_classes - 1}"
        )


def read_images(path: Path, name: str) -> np.ndarray:
    """Open the images of a .npy file, still on disk, and check that they fit the data set `name`.

    Raises InputError as `read` does.
    """
    images = open_array(path)
    check_images(images, path, name)
    return images


def read_labels(path: Path, n_images: int, name: str) -> np.ndarray:
    """Read the labels (N,) of a .npy file, int64, and check that they fit the data set `name`.

    Raises InputError as `read` does.
    """
    labels = open_array(path)
    check_labels(labels, path, n_images, DATASETS[name].num_classes, name)
    return labels.astype(np.int64)
