"""Load a data set by name as four tensors, and hold out training images."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from common.errors import InputError
from common.locks import locked
from data import arrays
from data.names import DATASETS


@dataclass(frozen=True, eq=False)
class DataSet:
    """Hold training and test images, their labels and the augmentation.

    Images are uint8 (N,3,H,W), labels int64 (N,) in [0, num_classes). The augmentation keeps
    labels.
    """

    name: str
    num_classes: int
    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor
    padding: int
    flip: bool

    @property
    def size(self) -> tuple[int, int]:
        """Return the height and width of an image."""
        height, width = self.train_images.shape[2:]
        return height, width

    @cached_property
    def fingerprint(self) -> str:
        """Return 16 hex digits of the SHA-256 of the four tensors' shapes and values."""
        digest = hashlib.sha256()
        for tensor in (self.train_images, self.train_labels, self.test_images, self.test_labels):
            digest.update(str(tuple(tensor.shape)).encode())
            digest.update(tensor.numpy().data)
        return digest.hexdigest()[:16]


def load(
    name: str, data_dir=None, limit_train: int | None = None, limit_test: int | None = None
) -> DataSet:
    """Load a data set by name; `data.load` documents the arguments."""
    if name not in DATASETS:
        raise InputError(f"--dataset {name}: is unknown; choose one of {', '.join(DATASETS)}")
    spec = DATASETS[name]
    folder = Path("datasets" if data_dir is None else data_dir)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--data-dir {folder}: is a file; a folder is needed")

    train: tuple[np.ndarray | list[Path], np.ndarray]
    test: tuple[np.ndarray | list[Path], np.ndarray]
    if data_dir is not None and arrays.are_in(folder):
        train, test = arrays.read(folder, name)
    elif name == "arrays":
        given = "is not given" if data_dir is None else f"{folder}: lacks files"
        raise InputError(
            f"--data-dir {given}; --dataset arrays needs a folder with {', '.join(arrays.FILES)}"
        )
    elif name == "digits":
        train, test = _digits()
    elif name == "tiny-imagenet":
        from data import tiny_imagenet

        train, test = tiny_imagenet.read(folder)
    else:
        train, test = _torchvision(name, folder)

    num_classes = spec.num_classes or 1 + int(train[1].max())
    # scikit-learn's digits are 0 to 16; 8x8 digits in files have those values, or 0 to 255.
    images = train[0]
    dim = name == "digits" and not isinstance(images, list) and images.max() <= 16
    brightest = 16 if dim else 255
    train = _first(train[0], train[1], limit_train, "--limit-train", "training")
    test = _first(test[0], test[1], limit_test, "--limit-test", "test")
    return DataSet(
        name,
        num_classes,
        _tensor(train[0], name, brightest),
        torch.from_numpy(train[1]),
        _tensor(test[0], name, brightest),
        torch.from_numpy(test[1]),
        spec.padding,
        spec.flip,
    )


def _digits() -> tuple[arrays.Split, arrays.Split]:
    """Load scikit-learn's digits, (N,8,8) with values 0 to 16.

    1,400 train and 397 test images, each class in proportion.
    """
    # The file alone: importing scikit-learn takes as long as half an epoch of the demo.
    found = find_spec("sklearn")
    if found is None or found.origin is None:
        raise InputError("--dataset digits: comes with scikit-learn, which is missing; ./run setup")
    file = Path(found.origin).parent / "datasets/data/digits.csv.gz"
    table = np.loadtxt(file, delimiter=",", dtype=np.uint8)
    images, labels = table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(np.int64)
    train, test = (index.numpy() for index in split_holdout(torch.from_numpy(labels), 397, seed=0))
    return (images[train], labels[train]), (images[test], labels[test])


def _torchvision(name: str, folder: Path) -> tuple[arrays.Split, arrays.Split]:
    """Load a set that torchvision knows; download it into `folder` where it is missing."""
    from torchvision import datasets

    kind = {
        "mnist": datasets.MNIST,
        "fashion-mnist": datasets.FashionMNIST,
        "cifar10": datasets.CIFAR10,
        "cifar100": datasets.CIFAR100,
        "svhn": datasets.SVHN,
    }[name]
    _check_regular(folder, name)
    splits = []
    for split in ("train", "test"):
        which = {"split": split} if name == "svhn" else {"train": split == "train"}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with locked(folder):  # only one of several processes downloads
                part = kind(folder, download=True, **which)
        except (
            Exception
        ) as error:  # urllib, pickle, tarfile and scipy raise theirs; also AssertionError
            reason = f"{type(error).__name__}: {error}".splitlines()[0].rstrip(".: ")
            raise InputError(
                f"--data-dir {folder}: {name} is damaged there or cannot be downloaded ({reason}); "
                f"repair it, or name a folder with {', '.join(arrays.FILES)}"
            ) from None
        if name == "svhn":  # (N,3,H,W)
            splits.append((np.moveaxis(part.data, 1, -1), np.asarray(part.labels, np.int64)))
        else:
            splits.append((np.asarray(part.data), np.asarray(part.targets, np.int64)))
        images, labels = splits[-1]
        where = f"--data-dir {folder}: the {split} set of {name}"
        arrays.check_images(images, where, name)
        arrays.check_labels(labels, where, len(images), DATASETS[name].num_classes, name)
    return splits[0], splits[1]


def _check_regular(folder: Path, name: str) -> None:
    """Raise InputError where something in the folder of a set is neither a file nor a folder.

    torchvision would wait for ever for a FIFO.
    """
    for path in [*folder.glob("*"), *folder.glob("*/*"), *folder.glob("*/raw/*")]:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise InputError(
                f"--data-dir {folder}: {path.name} is no plain file; remove it, so that {name} can "
                "be read"
            )


def _first(images, labels: np.ndarray, limit: int | None, option: str, what: str):
    """Return the first `limit` images, an array or a list of files, and their labels."""
    if limit is None:
        return images, labels
    if not 1 <= limit <= len(labels):
        raise InputError(
            f"{option} {limit}: there are {len(labels)} {what} images; "
            f"ask for 1 to {len(labels)} of them"
        )
    return images[:limit], labels[:limit]


def _tensor(images, name: str, brightest: int) -> torch.Tensor:
    """Convert images to uint8 (N,3,H,W) of the size that the set has here.

    images: uint8 (N,H,W,3) or (N,H,W), or a list of JPEG files.
    """
    if isinstance(images, list):
        from data import tiny_imagenet

        images = tiny_imagenet.decode(images)
    if images.ndim == 4:
        images = torch.from_numpy(np.array(np.moveaxis(images, -1, 1), order="C"))
    else:
        images = torch.from_numpy(np.repeat(images[:, None], 3, axis=1))
    size, source_size = DATASETS[name].size, images.shape[-1]
    if size is None or size == source_size:
        return images
    if name == "digits":
        # Exact on every machine: the weights are sixteenths, so each product and sum fits float32.
        bright = F.interpolate(
            images.float() * (255 / brightest), (size, size), mode="bilinear", align_corners=False
        )
        return bright.round().to(torch.uint8)
    border = (size - source_size) // 2
    return F.pad(images, (border,) * 4)  # 28x28 -> 32x32, which survives five halvings


def holdout_size(asked: int, n_train: int) -> int:
    """Return how many of `n_train` images to hold out when `asked` are wanted: at most a fifth of
    them.
    """
    if asked < 0:
        raise InputError(f"--holdout {asked}: must be 0 (none) or a number of training images")
    return min(asked, n_train // 5)


def split_holdout(
    labels: torch.Tensor, holdout: int, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Split the indices of `labels`, int64 (N,), at random into N - `holdout` and `holdout`, each
    class in proportion.

    A class with c of the N labels gives holdout c / N of its images, rounded by largest remainders
    (ties go to the smaller label).

    Returns sorted int64 index tensors (train_index, holdout_index), which `seed` determines.
    """
    if not 0 <= holdout <= len(labels):
        raise ValueError(f"cannot hold out {holdout} of {len(labels)} images")
    classes = labels.cpu().numpy()
    counts = np.bincount(classes)
    share, remainder = np.divmod(holdout * counts, len(classes))
    share[np.argsort(-remainder, kind="stable")[: holdout - share.sum()]] += 1
    # RandomState instead of default_rng: NumPy froze its streams (NEP 19), so a split is the same
    # in every version.
    random = np.random.RandomState(seed % 2**32)
    chosen = [
        random.permutation(np.flatnonzero(classes == label))[:n] for label, n in enumerate(share)
    ]
    held_out = np.zeros(len(classes), dtype=bool)
    held_out[np.concatenate(chosen)] = True
    return torch.from_numpy(np.flatnonzero(~held_out)), torch.from_numpy(np.flatnonzero(held_out))
