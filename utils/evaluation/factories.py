"""Networks that a user's function makes; whatever goes wrong in it is reported in one line."""

import hashlib
import importlib
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from common.errors import InputError
from utils.attacks.projected_gradient import frozen
from utils.evaluation import repositories

HOW = "write package.module:function, in this folder or on Python's path, or path/file.py:function"


def from_factory(name: str, option: str = "--factory") -> torch.nn.Module:
    """Call a user's function and return the network that it makes.

    name: package.module:function, in the current folder or on Python's path, or
    path/file.py:function. The user's modules are kept apart from ours
    (`utils.evaluation.repositories`). option: the option that names it.
    """
    module, _, function = name.partition(":")
    wrong = f"{option} {name}"
    if not (module and function):
        raise InputError(f"{wrong}: {HOW}")
    found = _imported(module, wrong)
    if not hasattr(found, function):
        raise InputError(f"{wrong}: {found.__file__} has no {function}; {HOW}")
    network = _call(getattr(found, function), f"{wrong}: called without arguments it")
    if not isinstance(network, torch.nn.Module):
        raise InputError(
            f"{wrong}: returned a {type(network).__name__}; "
            "a torch.nn.Module on [0,1] images is needed"
        )
    return network


def _imported(module: str, wrong: str) -> ModuleType:
    """Import the module of a factory. wrong: how the line of an error begins."""
    importlib.invalidate_caches()
    path = Path(module)
    repository: repositories.Repository | None
    if path.suffix == ".py":
        if not path.is_file():
            raise InputError(f"{wrong}: there is no file {module}; {HOW}")
        repository, module = repositories.at(path.parent), path.stem
    else:
        repository = repositories.of_module(module) if all(module.split(".")) else None
    load = repository.module if repository else importlib.import_module
    try:
        return _call(lambda: load(module), f"{wrong}: importing {module}")
    except InputError as error:
        cause = error.__cause__
        if isinstance(cause, ModuleNotFoundError) and f"{module}.".startswith(f"{cause.name}."):
            raise InputError(f"{wrong}: {first_line(cause)}; {HOW}") from None
        raise


def _call(function: Callable, what: str) -> Any:
    """Call the user's code. Raises InputError with what it raised, in which file and line."""
    try:
        return function()
    except (Exception, SystemExit) as error:  # whatever the user's own code raises
        raise InputError(f"{what} raised {raised(error)}") from error


def raised(error: BaseException) -> str:
    """Say in one line what an error is, and in which line of the user's it was raised."""
    words = ": ".join(word for word in (type(error).__name__, first_line(error)) if word)
    line = f"{words}{repositories.where_raised(error)}"
    return re.sub(r"_factory_\d+\.", "", line)  # the prefix of Repository


def state_hash(model: torch.nn.Module) -> str:
    """Hash the parameters and buffers of a network, with their names: 16 digits of SHA-256."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        dtype, shape = getattr(value, "dtype", ""), tuple(getattr(value, "shape", ()))
        digest.update(f"{name} {dtype} {shape}".encode())
        if isinstance(value, torch.Tensor):
            octets = value.detach().cpu().contiguous().flatten().view(torch.uint8)
            digest.update(octets.numpy().data)
        else:
            digest.update(repr(value).encode())
    return digest.hexdigest()[:16]


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message; "" where it has none."""
    return (str(error).splitlines() or [""])[0]


def try_out(model: torch.nn.Module, what: str, images: torch.Tensor, num_classes: int) -> None:
    """Refuse a network that does not give logits (N, num_classes) for [0,1] images.

    what: the option and its value, with which an error begins.
    """
    shape = tuple(images.shape)
    try:
        with frozen(model), torch.no_grad():
            logits = model(images)
    except Exception as error:  # whatever the user's own code raises
        raise InputError(
            f"{what}: the network fails on images of shape {shape}: {raised(error)}"
        ) from error
    wanted = (len(images), num_classes)
    given: str | tuple[int, ...] = f"a {type(logits).__name__}"
    if isinstance(logits, torch.Tensor):
        given = tuple(logits.shape)
    if given != wanted:
        raise InputError(
            f"{what}: for images of shape {shape} the network returns {given}; "
            f"logits of shape {wanted} are needed"
        )
