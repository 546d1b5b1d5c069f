"""Read the present files: their hashes, a command's options, the data's fingerprint."""

import functools
from pathlib import Path

from common.errors import InputError
from common.json_files import read_json
from common.schema import ANYTHING, Each
from data import arrays
from utils.mi.names import estimator_files

# The file or folder in which torchvision keeps a set; without it, reading would download the set.
DOWNLOADED = {
    "mnist": "MNIST",
    "fashion-mnist": "FashionMNIST",
    "cifar10": "cifar-10-batches-py",
    "cifar100": "cifar-100-python",
    "svhn": "train_32x32.mat",
}


def read(path: Path) -> dict:
    """Read the object in a JSON file; {} where there is none."""
    try:
        return read_json(path, Each(ANYTHING), "")
    except InputError:
        return {}


def options(words: list[str]) -> dict[str, str]:
    """Return a command's options and values; each option of these commands but a flag has one."""
    return {word: value for word, value in zip(words, [*words[1:], ""]) if word.startswith("--")}


def file_hash(path: Path) -> str | None:
    """Return the hash of a file; None where it is missing."""
    try:
        status = path.stat()
    except OSError:
        return None
    return _hash(path.absolute(), status.st_mtime_ns, status.st_size, status.st_ino)


@functools.lru_cache(maxsize=4096)
def _hash(path: Path, *status) -> str | None:
    # Imported here, as it imports torch: a first plan, where nothing is finished, does without.
    from utils.training import run_folder

    return run_folder.file_hash(path) if path.is_file() else None


def data_of(experiment, limit_train=None, limit_test=None) -> tuple[str, int] | None:
    """Return the fingerprint of the data at --data-dir and the number of test images.

    None where the data cannot be read without a download, or not at all.
    """
    if not is_here(experiment):
        return None
    folder = _folder(experiment)
    status = tuple(
        (file.stat().st_mtime_ns, file.stat().st_size)
        for name in arrays.FILES
        if (file := folder / name).is_file()
    )
    limits = [None if limit is None else int(limit) for limit in (limit_train, limit_test)]
    try:
        return _data_of(experiment.dataset, folder.absolute(), *limits, status)
    except (InputError, OSError):
        return None


def is_here(experiment) -> bool:
    """Return whether the data of an experiment can be read without a download."""
    dataset, folder = experiment.dataset, _folder(experiment)
    try:
        if dataset == "digits" or arrays.are_in(folder):
            return True
    except InputError:
        return False
    return (folder / DOWNLOADED[dataset]).exists() if dataset in DOWNLOADED else folder.is_dir()


def _folder(experiment) -> Path:
    return experiment.data_dir or Path("datasets")


@functools.lru_cache(maxsize=64)
def _data_of(dataset: str, folder: Path, limit_train, limit_test, status) -> tuple[str, int]:
    import data

    found = data.load(dataset, folder, limit_train, limit_test)
    return found.fingerprint, len(found.test_labels)


def inputs(node) -> dict[str, Path]:
    """Return the files that a training reads, by their names in settings.json."""
    given = options(node.words)
    names = ("pre_target", "init", "encoder", "profile")
    found = {name: f"--{name.replace('_', '-')}" for name in names}
    found = {name: Path(given[option]) for name, option in found.items() if option in given}
    if "--estimator-dir" in given:
        found |= estimator_files(Path(given["--estimator-dir"]))
    return found
