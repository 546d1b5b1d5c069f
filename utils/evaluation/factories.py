"""Networks that a function of the user's makes: called, tried out and told apart, with one line for whatever goes wrong."""
import hashlib
import importlib

import torch

from common.errors import InputError
from utils.attacks.projected_gradient import frozen


def from_factory(name: str) -> torch.nn.Module:
    """What the user's own function returns."""
    module, _, function = name.partition(":")
    try:
        make = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"--factory {name}: {error}; write package.module:function, on Python's path") from None
    except Exception as error:  # whatever the user's own code raises
        raise InputError(f"--factory {name}: importing {module} raised {type(error).__name__}: {first_line(error)}") from error
    try:
        network = make()
    except Exception as error:  # whatever the user's own code raises
        raise InputError(f"--factory {name}: called without arguments it raised {type(error).__name__}: "
                         f"{first_line(error)}") from error
    if not isinstance(network, torch.nn.Module):
        raise InputError(f"--factory {name}: returned a {type(network).__name__}; a torch.nn.Module on [0,1] images is needed")
    return network


def state_hash(model: torch.nn.Module) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a network's parameters and buffers, with their names."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(f"{name} {getattr(value, 'dtype', '')} {tuple(getattr(value, 'shape', ()))}".encode())
        if isinstance(value, torch.Tensor):
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        else:
            digest.update(repr(value).encode())
    return digest.hexdigest()[:16]


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]


def try_out(model: torch.nn.Module, name: str, images: torch.Tensor, num_classes: int) -> None:
    """InputError unless a network of unknown making gives logits (N, num_classes) for [0,1] images."""
    shape = tuple(images.shape)
    try:
        with frozen(model), torch.no_grad():
            logits = model(images)
    except Exception as error:  # whatever the user's own code raises
        raise InputError(f"--factory {name}: the network fails on images of shape {shape}: {type(error).__name__}: "
                         f"{first_line(error)}") from error
    said = tuple(logits.shape) if isinstance(logits, torch.Tensor) else f"a {type(logits).__name__}"
    if said != (len(images), num_classes):
        raise InputError(f"--factory {name}: for images of shape {shape} the network returns {said}; logits of shape "
                         f"{(len(images), num_classes)} are needed")
