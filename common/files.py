"""Read and write model files: tensors and plain values, read without running code.

A file of ours is ``{"arch": str, "options": dict, "state_dict": dict, "about": dict}``; ``about``
holds plain facts about how the model was trained (norm, epsilon, data set, ...). `read_file` and
`state_dict_of` also read a plain state dict, as most published checkpoints are, and one wrapped as
``{"state_dict": ...}`` or ``{"net": ...}``.
"""

import hashlib
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from common.errors import InputError
from common.writing import atomic
from common.writing import make_folder as make_folder  # the other packages import these from here
from common.writing import write_csv as write_csv
from common.writing import write_text as write_text

Net = TypeVar("Net", bound=torch.nn.Module)


def read_file(path, device="cpu") -> dict:
    """Return the dict in a ``torch.save`` file, with its tensors on `device`.

    Raises InputError when the file is missing, truncated or in another format, or when reading it
    would run pickled code.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: is not a file; give a model file that a training stage wrote")
    torch.empty(
        0, device=device
    )  # a missing device raises here and is not mistaken for a damaged file
    try:
        with warnings.catch_warnings(
            action="ignore"
        ):  # about the pickle protocol; the errors below say what matters
            content = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # a damaged byte can raise almost any exception
        # GLOBAL is the pickle opcode that fetches a class or function by name.
        if isinstance(error, pickle.UnpicklingError) and "global" in str(error).lower():
            raise InputError(
                f"{path}: holds pickled code, which is not run; save tensors and plain values"
            ) from None
        what = type(error).__name__
        raise InputError(
            f"{path}: is truncated or not a torch.save file ({what}); copy it or train it again"
        ) from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}; give a dict of tensors")
    return content


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


def rebuilt(build: Callable[[], Net]) -> Net:
    """Call `build` without a change of the caller's random numbers: the initial values of the
    network that it returns are to be overwritten at once.
    """
    with torch.random.fork_rng(devices=[]):
        return build()


def load_strictly(net: torch.nn.Module, state: dict, path, what: str) -> None:
    """Load `state` into `net`.

    Raises InputError that names the first missing, unknown or misshapen entry.
    """
    own = net.state_dict()
    # BatchNorm has counted batches since PyTorch 0.4.1; older files lack the unused counter.
    missing = [
        name for name in own if name not in state and not name.endswith("num_batches_tracked")
    ]
    unknown = [name for name in state if name not in own]
    shapes = [name for name in own if name in state and own[name].shape != state[name].shape]
    if missing or unknown or shapes:
        if missing or unknown:
            why = f"{missing[0]} is missing" if missing else f"{unknown[0]} is unknown"
        else:
            found, right = (tuple(tensors[shapes[0]].shape) for tensors in (state, own))
            why = f"{shapes[0]} has shape {found}, not {right}"
        raise InputError(
            f"{path}: is not a checkpoint of {what}: {why}; "
            "name the architecture it was trained with"
        )
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
