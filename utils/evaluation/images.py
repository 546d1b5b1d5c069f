"""Images of an evaluation: which ones are attacked, and files of adversarial images.

A file of --save-adv is an .npz archive: `labels`, an array per attack, and `about`, which says as
JSON how the images were made. Until all rows are done, the images are kept in a folder beside it, a
file per attack and batch.
"""

import json
import re
import zipfile
from pathlib import Path

import numpy
import torch

import data
from common.array_files import open_array, read_archive
from common.errors import InputError
from common.files import file_hash, write_text
from common.json_files import parsed
from common.schema import ANYTHING, Each
from common.writing import atomic
from data.sets import DataSet, holdout_size, split_holdout
from utils.evaluation.networks import Network

HOW_MADE = Each(ANYTHING)  # names and values of an evaluation
LARGEST_ABOUT = 2**24  # bytes
ABOUT = "about"  # the array that says, as JSON, how the images were made


def load_images(
    network: Network, name: str | None, folder: Path | str | None, split: str, limit: int | None
) -> tuple[DataSet, torch.Tensor, torch.Tensor]:
    """Load a data set, and choose the images (uint8) and labels that are attacked.

    Args:
        network: what is evaluated; refused where it has other classes than the data set.
        name: the data set; None: the network's own.
        folder: where it is; None: where the network's run found it.
        split: "test", or "holdout" for the training images that the network's run held out.
        limit: the first images of the split are taken; None: all.
    """
    options, name = network.options, network.dataset(name)
    folder = folder or options.get("data_dir") or "datasets"
    limit_test = limit if split == "test" else None
    dataset = data.load(name, folder, options.get("limit_train"), limit_test)
    network.check(dataset)
    if split == "test":
        return dataset, dataset.test_images, dataset.test_labels
    size = holdout_size(options["holdout"], len(dataset.train_labels))
    _, chosen = split_holdout(dataset.train_labels, size, options["seed"])
    chosen = chosen[:limit]
    if len(chosen) == 0:
        run = Path(network.name).parent
        raise InputError(f"--split holdout: the run in {run} held no images out; use --split test")
    return dataset, dataset.train_images[chosen], dataset.train_labels[chosen]


def read_adversarial(
    path: Path, images: torch.Tensor, labels: torch.Tensor
) -> dict[str, numpy.ndarray]:
    """Read {attack: images (N,3,H,W), float32 in [0,1] or uint8} from a file of --save-adv.

    Refuses a file that was made from other images than `images` with `labels`.
    """
    # The labels are int64, and float32 takes four bytes.
    largest = max(8 * labels.numel(), 4 * images.numel(), LARGEST_ABOUT)
    content = _arrays(path, largest)
    content.pop(ABOUT, None)
    stored = content.pop("labels", None)
    if stored is None or not numpy.array_equal(stored, labels.numpy()):
        raise InputError(
            f"--adv {path}: was made from other images (its labels differ from those of the "
            f"{len(labels)} images chosen here); give the same data set, --split and --limit-test"
        )
    if not content:
        raise InputError(
            f"--adv {path}: holds labels alone; give a file with the images of at least one attack"
        )
    for name, array in content.items():
        _check_array(path, name, array, tuple(images.shape))
    return content


def _check_array(path: Path, name: str, array: numpy.ndarray, shape: tuple[int, ...]) -> None:
    """Refuse an array that holds no images of this shape."""
    if array.shape != shape or array.dtype not in (numpy.float32, numpy.uint8):
        raise InputError(
            f"--adv {path}: {name} has shape {array.shape} and type {array.dtype}; {shape} and "
            "float32 or uint8 are needed"
        )
    if array.dtype == numpy.uint8:
        return
    if not (numpy.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
        raise InputError(
            f"--adv {path}: {name} has values outside [0,1]; adversarial images must be images"
        )


def read_about(path: Path) -> dict:
    """Read how the images of a file were made: threat model, hashes, {attack: its settings}.

    Returns {} where the file does not say it.
    """
    about = _arrays(path, LARGEST_ABOUT, only=(ABOUT,)).get(ABOUT)
    try:
        return parsed(str(about), HOW_MADE) if about is not None else {}
    except InputError as error:
        raise InputError(
            f"--adv {path}: its array {ABOUT!r} is not what --save-adv writes ({error}); make the "
            "file again"
        ) from None


def _arrays(
    path: Path, largest: int, only: tuple[str, ...] | None = None
) -> dict[str, numpy.ndarray]:
    """Read the arrays of an .npz file, each of at most `largest` bytes."""
    try:
        return read_archive(path, largest, "give one that --save-adv wrote", only)
    except InputError as error:
        raise InputError(f"--adv {error}") from None


def as_images(array: numpy.ndarray) -> torch.Tensor:
    """Convert images of a file, uint8 or float32, to float32 in [0,1]."""
    images = torch.from_numpy(array)
    return images.float() / 255 if images.dtype == torch.uint8 else images


def kept_folder(path: Path) -> Path:
    """Name the folder that keeps the images of --save-adv until all of them are made."""
    return path.with_name(f"{path.name}.parts")


def kept_file(kept: Path, attack: str, batch: int) -> Path:
    """Name the file that keeps the adversarial images of a batch."""
    return kept / f"{attack}.{batch:06}.npy"


def all_kept(kept: Path, attack: str, batches: int) -> bool:
    """Decide whether the images of the first `batches` batches are kept."""
    return all(kept_file(kept, attack, batch).is_file() for batch in range(batches))


def keep_images(kept: Path, attack: str, batch: int, x_adv: torch.Tensor) -> None:
    """Write the adversarial images of a batch, float32 (N,3,H,W)."""
    with atomic(kept_file(kept, attack, batch)) as file:
        numpy.save(file, x_adv.cpu().contiguous().numpy())


def open_kept(
    path: Path | None,
    identity: dict,
    saved: dict | None,
    attacks: dict[str, dict],
    restart: bool = False,
) -> Path | None:
    """Open the folder that keeps the images of --save-adv until all of them are made.

    The folder is emptied, unless a stopped run of the same evaluation left it. Returns None where
    no file is asked for, and where the file has the images already. Raises InputError where file
    or folder hold something else.

    Args:
        path: the file; None: no images are kept.
        identity: what fixes the evaluation.
        saved: the results file's entry of that name, which describes the file it wrote last.
        attacks: {name: its settings}.
        restart: whether to replace the images of another evaluation, and those of a stopped run.
    """
    if path is None:
        return None
    _check_replaceable(path, identity, restart)
    if _saved_before(path, saved, attacks):
        return None
    kept = kept_folder(path)
    question = kept / "question.json"
    asked = json.dumps(identity | {"all_steps": True}, default=str)
    known = question.is_file() and question.read_text() == asked
    if kept.is_dir() and (restart or not known):
        _remove(kept)
    kept.mkdir(exist_ok=True)
    write_text(question, asked)
    return kept


OURS = re.compile(r"question\.json|.+\.\d{6}\.npy|\..+\.part")  # names in the folder of kept images


def _check_replaceable(path: Path, identity: dict, restart: bool) -> None:
    """Refuse a file and a folder beside it that --save-adv did not write."""
    kept = kept_folder(path)
    strange = [each.name for each in kept.glob("*") if not OURS.fullmatch(each.name)]
    if kept.is_symlink() or (kept.exists() and not kept.is_dir()) or strange:
        what = f"the folder of {strange[0]}" if strange else "no folder of ours"
        raise InputError(
            f"--save-adv {path}: {kept.name} beside it is {what}; move it away, or name another "
            "file"
        )
    if not path.exists():
        return
    try:
        with numpy.load(path, allow_pickle=False) as file:
            about = dict(json.loads(str(file[ABOUT])))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, zipfile.BadZipFile):
        raise InputError(
            f"--save-adv {path}: holds something else; move it away, or name another file"
        ) from None
    asked = json.loads(json.dumps(identity, default=str))
    other = [key for key, value in asked.items() if about.get(key, value) != value]
    if other and not restart:
        raise InputError(
            f"--save-adv {path}: holds images of another evaluation: {other[0]} {about[other[0]]} "
            f"(now {asked[other[0]]}); name another file, or --restart to replace it"
        )


def _remove(kept: Path) -> None:
    """Remove the folder of kept images."""
    for each in kept.iterdir():
        each.unlink()
    kept.rmdir()


def _saved_before(path: Path, saved: dict | None, attacks: dict[str, dict]) -> bool:
    """Decide whether a file holds the images that this evaluation made of all `attacks`."""
    if not saved or not path.is_file() or not saved.get("all_steps"):
        return False
    has_all = set(attacks) <= set(saved.get("attacks", ()))
    return has_all and saved.get("file_hash") == file_hash(path)


def save_adversarial(kept: Path, path: Path, labels: torch.Tensor, about: dict) -> dict:
    """Join the kept images to one .npz file, and remove their folder.

    about: how the images were made, {attack: its settings} among it. Returns the entry `saved` of
    the results file, by which a later command knows the file.
    """
    arrays: dict[str, numpy.ndarray] = {}
    for name in about["attacks"]:
        batches = [open_array(file) for file in sorted(kept.glob(f"{name}.??????.npy"))]
        arrays[name] = numpy.concatenate(batches)
        if about["rounded"]:
            arrays[name] = (arrays[name] * 255).round().astype(numpy.uint8)
    arrays = {"labels": labels.numpy(), ABOUT: numpy.array(json.dumps(about, default=str))} | arrays
    with atomic(path) as file:
        numpy.savez_compressed(file, allow_pickle=False, **arrays)
    _remove(kept)
    return {"attacks": list(about["attacks"]), "file_hash": file_hash(path), "all_steps": True}
