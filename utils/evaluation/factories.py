"""Networks that a user's function makes; whatever goes wrong in it is reported in one line."""

import hashlib
import importlib

import torch

from common.errors import InputError
from utils.attacks.projected_gradient import frozen


def from_factory(name: str) -> torch.nn.Module:
    """Call the function that --factory names, and return the network that it makes."""
    module, _, function = name.partition(":")
    try:
        make = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"--factory {name}: {error}; write package.module:function, on Python's path"
        ) from None
    except Exception as error:  # whatever the user's own code raises
        raised = f"{type(error).__name__}: {first_line(error)}"
        raise InputError(f"--factory {name}: importing {module} raised {raised}") from error
    try:
        network = make()
    except Exception as error:  # whatever the user's own code raises
        raised = f"{type(error).__name__}: {first_line(error)}"
        raise InputError(
            f"--factory {name}: called without arguments it raised {raised}"
        ) from error
    if not isinstance(network, torch.nn.Module):
        raise InputError(
            f"--factory {name}: returned a {type(network).__name__}; "
            "a torch.nn.Module on [0,1] images is needed"
        )
    return network


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


def first_line(error: Exception) -> str:
    """Return the first line of an error's message; "" where it has none."""
    return (str(error).splitlines() or [""])[0]


def try_out(model: torch.nn.Module, name: str, images: torch.Tensor, num_classes: int) -> None:
    """Refuse a network that does not give logits (N, num_classes) for [0,1] images.

    name: the value of --factory.
    """
    shape = tuple(images.shape)
    try:
        with frozen(model), torch.no_grad():
            logits = model(images)
    except Exception as error:  # whatever the user's own code raises
        raised = f"{type(error).__name__}: {first_line(error)}"
        raise InputError(
            f"--factory {name}: the network fails on images of shape {shape}: {raised}"
        ) from error
    wanted = (len(images), num_classes)
    given: str | tuple[int, ...] = f"a {type(logits).__name__}"
    if isinstance(logits, torch.Tensor):
        given = tuple(logits.shape)
    if given != wanted:
        raise InputError(
            f"--factory {name}: for images of shape {shape} the network returns {given}; "
            f"logits of shape {wanted} are needed"
        )
