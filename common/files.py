"""Read and write model files: tensors and plain values, read without running code.

A file is written beside its path and then renamed, so a killed process leaves the old file whole.

A file of ours is ``{"arch": str, "options": dict, "state_dict": dict, "about": dict}``; ``about``
holds plain facts about how the model was trained (norm, epsilon, data set, ...). `read_file` and
`state_dict_of` also read a plain state dict, as most published checkpoints are, and one wrapped as
``{"state_dict": ...}`` or ``{"net": ...}``.
"""

import csv
import hashlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from common.errors import InputError
from common.schema import ANYTHING, FLAG, TEXT, Each, OrNone, number, require, whole
from common.sketches import sketched
from common.tensor_files import load_tensors, wrong_values

Net = TypeVar("Net", bound=torch.nn.Module)
PLAIN = (type(None), bool, int, float, str)  # the values of options
# The facts of a model file that are used when it is read.
ABOUT = {
    **dict.fromkeys(("norm?", "dataset?", "bound?", "pattern?", "representation?"), OrNone(TEXT)),
    **{"epsilon?": OrNone(number(0)), "scaled?": OrNone(FLAG)},
    **dict.fromkeys(("held_out?", "held_out_of?", "held_out_seed?"), OrNone(whole())),
}


def read_file(path, device="cpu") -> dict:
    """Return the dict in a ``torch.save`` file, with its tensors on `device`.

    Raises InputError when the file is missing, truncated, damaged or in another format, or when
    reading it would run pickled code (`common.tensor_files`).
    """
    return load_tensors(path, device)


def state_dict_of(content: dict, path) -> dict:
    """Return the parameters in the content that `read_file` returned.

    They are in "state_dict" or "net" where the content has one. The prefixes ``module.``
    (DataParallel) and ``_orig_mod.`` (torch.compile) are removed from the names.

    Raises InputError where a value is not a tensor.
    """
    state = content.get("state_dict", content.get("net", content))
    if (
        not isinstance(state, dict)
        or not state
        or not all(
            isinstance(name, str) and isinstance(value, torch.Tensor)
            for name, value in state.items()
        )
    ):
        raise InputError(f"{path}: has no parameters; give a state dict (name -> tensor)")
    for prefix in (
        "_orig_mod.",
        "module.",
        "_orig_mod.",
    ):  # compiled before or after DataParallel
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def options_of(content: dict, state: dict, path) -> dict:
    """Return the options of a network in the content that `read_file` returned; {}: it has none.

    Raises InputError where they are no plain values, or where one is a number that is larger than
    the number of values in all tensors of `state`: no network of this file has such a size.
    """
    right = "copy it or train it again"
    options = content.get("options")
    if options is None:
        return {}
    require(options, Each(ANYTHING), f"{path}: options", right)
    values = sum(tensor.numel() for tensor in state.values())
    for name, value in options.items():
        numbers = value if isinstance(value, list | tuple) else [value]
        plain = all(type(each) in PLAIN for each in numbers) and len(numbers) <= 8
        if not plain:
            raise InputError(f"{path}: its option {name} is no plain value; {right}")
        if any(type(each) is int and abs(each) > values for each in numbers):
            raise InputError(
                f"{path}: its option {name} is larger than its tensors, which hold {values} values "
                f"in all; {right}"
            )
    return options


def about_of(content: dict, path) -> dict:
    """Return the facts about its training that a file of ours holds; {}: it has none.

    Raises InputError where a fact that is used has another type, or is NaN.
    """
    about = content.get("about")
    if not isinstance(about, dict):
        return {}
    for right in (Each(ANYTHING), ABOUT):
        require(about, right, f"{path}: about", "copy it or train it again")
    return about


def rebuilt(build: Callable[[], Net], state: dict) -> Net:
    """Call `build` without a change of the caller's random numbers: the initial values of the
    network that it returns are to be overwritten at once.

    A network that `state` does not fit is not built: it is returned without memory for its
    weights, and `load_strictly` refuses it.
    """
    sketch = sketched(build)
    if misfit(sketch, state):
        return sketch
    with torch.random.fork_rng(devices=[]):
        return build()


def misfit(net: torch.nn.Module, state: dict) -> str | None:
    """Name the first entry of `state` that is missing, unknown or misshapen; None: all fit."""
    own = net.state_dict()
    # BatchNorm has counted batches since PyTorch 0.4.1; older files lack the unused counter.
    missing = [
        name for name in own if name not in state and not name.endswith("num_batches_tracked")
    ]
    unknown = [name for name in state if name not in own]
    shapes = [name for name in own if name in state and own[name].shape != state[name].shape]
    if missing or unknown:
        return f"{missing[0]} is missing" if missing else f"{unknown[0]} is unknown"
    if shapes:
        found, right = (tuple(tensors[shapes[0]].shape) for tensors in (state, own))
        return f"{shapes[0]} has shape {found}, not {right}"
    return None


def load_strictly(net: torch.nn.Module, state: dict, path, what: str) -> None:
    """Load `state` into `net`.

    Raises InputError that names the first missing, unknown or misshapen entry, or the first whose
    values are no finite floating-point numbers.
    """
    if why := misfit(net, state):
        raise InputError(
            f"{path}: is not a checkpoint of {what}: {why}; "
            "name the architecture it was trained with"
        )
    own = net.state_dict()
    for name, tensor in state.items():
        if why := wrong_values(tensor, own[name]):
            raise InputError(f"{path}: {name} {why}; give the file that its training wrote")
    net.load_state_dict({name: state.get(name, own[name]) for name in own})


def write_file(content: dict, path) -> None:
    """Write `content` with ``torch.save`` beside `path`, then rename.

    A reader finds the old file or the new one.
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.part")
    with open(beside, "wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def to_cpu(state: dict) -> dict:
    """Copy a state dict to the CPU, detached, so that the file of a CUDA run opens without CUDA."""
    return {name: value.detach().cpu().clone() for name, value in state.items()}


def write_text(path: Path, text: str) -> None:
    """Write `text` beside `path`, then rename: a reader finds the old file or the new one."""
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(text)
    os.replace(beside, path)


def write_csv(path: Path, rows: list[dict]) -> None:
    """Write a CSV file with one column for each name that occurs in any row.

    A cell is empty where its row lacks the name or has None. Floats have 6 significant digits.
    """
    text = io.StringIO()
    table = csv.DictWriter(
        text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n"
    )
    table.writeheader()
    table.writerows(
        {
            name: f"{value:.6g}" if isinstance(value, float) else value
            for name, value in row.items()
            if value is not None
        }
        for row in rows
    )
    write_text(path, text.getvalue())


def file_hash(path) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def make_folder(path: Path, option: str) -> None:
    """Create the folder `path` and test that files can be written in it.

    Raises InputError that names `option` where they cannot.
    """
    probe = path / ".write-test"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink(missing_ok=True)  # another process may test at the same moment
    except OSError as error:
        raise InputError(
            f"{option} {path}: cannot be written ({error.strerror}); name a writable folder"
        ) from None
