"""Read and write model files: tensors and plain values, read without running code.

A file of ours is ``{"arch": str, "options": dict, "state_dict": dict, "about": dict}``; ``about``
holds plain facts about how the model was trained (norm, epsilon, data set, ...). `read_file` and
`state_dict_of` also read a plain state dict, as most published checkpoints are, and one wrapped as
``{"state_dict": ...}`` or ``{"net": ...}``.
"""

import hashlib
from collections.abc import Callable
from typing import TypeVar

import torch

from common.errors import InputError
from common.schema import ANYTHING, FLAG, TEXT, Each, OrNone, number, require, whole
from common.sketches import sketched
from common.tensor_files import load_tensors, wrong_values
from common.writing import atomic
from common.writing import make_folder as make_folder  # the other packages import these from here
from common.writing import write_csv as write_csv
from common.writing import write_text as write_text

Net = TypeVar("Net", bound=torch.nn.Module)
# What modules around a network put before its names: DataParallel, torch.compile, a wrapper, and
# the second part of nn.Sequential(normalisation, network).
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "1.")
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

    They are in "state_dict" or "net" where the content has one. PREFIXES that all names share are
    removed, in any order.

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
    while prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in state)), ""):
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
    """Write `content` with ``torch.save`` (`common.writing.atomic`)."""
    with atomic(path) as file:
        torch.save(content, file)


def to_cpu(state: dict) -> dict:
    """Copy a state dict to the CPU, detached, so that the file of a CUDA run opens without CUDA."""
    return {name: value.detach().cpu().clone() for name, value in state.items()}


def file_hash(path) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
