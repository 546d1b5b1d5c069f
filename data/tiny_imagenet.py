"""Read Tiny-ImageNet from the folders of its archive, tiny-imagenet-200.zip."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from common.errors import InputError
from common.reading import open_regular
from data.names import DATASETS

LARGEST_TEXT = 2**24  # bytes; val_annotations.txt has 0.5 MB
LARGEST_IMAGE = 2**24  # bytes; an image has 2 kB
FileSplit = tuple[list[Path], np.ndarray]  # images and labels


def read(folder: Path) -> tuple[FileSplit, FileSplit]:
    """List the JPEG files and labels below `folder`, which is tiny-imagenet-200 or holds it.

    Labels number the sorted WordNet ids. The validation images serve as the test set, because the
    labels of the real one were never published. Training images alternate between the classes, so
    that the first N are a fair sample.

    Returns (train_files, train_labels), (test_files, test_labels): lists of paths, and int64 (N,)
    labels. Raises InputError for missing folders or annotations and for unknown classes.
    """
    root = folder / "tiny-imagenet-200" if (folder / "tiny-imagenet-200").is_dir() else folder
    annotations = root / "val" / "val_annotations.txt"
    if not (root / "train").is_dir() or not annotations.is_file():
        raise InputError(
            f"--data-dir {folder}: does not hold Tiny-ImageNet; unpack tiny-imagenet-200.zip there "
            "(train/<wnid>/images and val/val_annotations.txt are needed), or the four .npy arrays"
        )
    wnids = _wnids(root)

    turns = []
    for label, wnid in enumerate(wnids):
        images_folder = root / "train" / wnid / "images"
        images = sorted(images_folder.glob("*.JPEG"))
        if not images:
            raise InputError(
                f"{images_folder}: holds no .JPEG image; unpack tiny-imagenet-200.zip again"
            )
        turns += [(turn, label, image) for turn, image in enumerate(images)]
    turns.sort()
    train = [image for _, _, image in turns], np.array([label for _, label, _ in turns], np.int64)

    files, labels = [], []
    for number, line in enumerate(_lines(annotations), start=1):
        columns = line.split("\t")
        if len(columns) < 2 or columns[1] not in wnids:
            raise InputError(
                f"{annotations}: line {number} does not name a class of train/; "
                "give image name and WordNet id, tab-separated"
            )
        name = columns[0]
        if Path(name).name != name or name in ("", ".."):  # a path would lead out of the folder
            raise InputError(
                f"{annotations}: line {number} does not name a file of val/images; "
                "give its name without a folder"
            )
        files.append(root / "val" / "images" / name)
        labels.append(wnids[columns[1]])
    if not files:
        raise InputError(f"{annotations}: is empty; unpack tiny-imagenet-200.zip again")
    return train, (files, np.array(labels, np.int64))


def _lines(path: Path) -> list[str]:
    """Return the lines of a text file; what is no UTF-8 names nothing that exists."""
    with open_regular(path, "unpack tiny-imagenet-200.zip again", LARGEST_TEXT) as file:
        return file.read().decode(errors="replace").splitlines()


def _wnids(root: Path) -> dict[str, int]:
    """Map WordNet ids to labels, checked against wnids.txt where it exists: a missing folder would
    shift the labels.
    """
    found = sorted(path.name for path in (root / "train").iterdir() if path.is_dir())
    listed = root / "wnids.txt"
    if listed.is_file():
        missing = sorted(set(_lines(listed)) - set(found))
        if missing:
            raise InputError(
                f"{root / 'train' / missing[0]}: is missing; "
                "wnids.txt lists it, unpack the archive again"
            )
    most = DATASETS["tiny-imagenet"].num_classes
    assert most is not None  # only "arrays" has no number of classes
    if not 2 <= len(found) <= most:
        raise InputError(
            f"{root / 'train'}: holds {len(found)} class folders; Tiny-ImageNet has {most}"
        )
    return {wnid: label for label, wnid in enumerate(found)}


def decode(files: list[Path]) -> np.ndarray:
    """Decode the images in `files` to uint8 (N,64,64,3); greyscale ones get three equal channels.

    Raises InputError for a file that is missing, damaged or of another size.
    """
    with ThreadPoolExecutor() as pool:  # Pillow releases the GIL while it decodes
        return np.stack(list(pool.map(_decode, files)))


def _decode(file: Path) -> np.ndarray:
    """Decode one JPEG file to uint8 (64,64,3)."""
    size, again = DATASETS["tiny-imagenet"].size, "unpack tiny-imagenet-200.zip again"
    with open_regular(file, again, LARGEST_IMAGE, "is missing or not a readable JPEG") as octets:
        try:
            # Opening reads the header; the pixels are decoded only where the size is right.
            with Image.open(octets, formats=["JPEG"]) as image:
                if image.size != (size, size):
                    raise InputError(
                        f"{file}: is {image.height}x{image.width}; "
                        f"Tiny-ImageNet has {size}x{size} images"
                    )
                return np.asarray(image.convert("RGB"))
        except InputError:
            raise
        except Image.DecompressionBombError:
            raise InputError(
                f"{file}: is far larger than {size}x{size}, the size of Tiny-ImageNet; {again}"
            ) from None
        except Exception:  # a damaged byte can raise almost any exception
            raise InputError(f"{file}: is missing or not a readable JPEG; {again}") from None
