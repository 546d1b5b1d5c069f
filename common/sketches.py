"""Build a network without memory for its weights, to compare it with a file before it is built."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from common.errors import InputError

Net = TypeVar("Net", bound=torch.nn.Module)
MOST = 10_000  # tensors; a file that asks for more layers than that is not one of a network here


class _NoValues(TorchFunctionMode):
    """Leave out the initial values, which a tensor without memory cannot have: PyTorch would take a
    second to find that out.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init" or func in DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


DRAWS = (torch.Tensor.normal_, torch.Tensor.uniform_)


@contextmanager
def _few_tensors() -> Iterator[None]:
    """Raise InputError as soon as more than `MOST` parameters are made."""
    count = 0

    def counted(module, name, parameter) -> None:
        nonlocal count
        count += 1
        if count > MOST:
            raise InputError(f"the options build more than {MOST} layers")

    hook = register_module_parameter_registration_hook(counted)
    try:
        yield
    finally:
        hook.remove()


def sketched(build: Callable[[], Net]) -> Net:
    """Call `build` so that the tensors of the network that it returns have shapes alone.

    Raises InputError for a network of more than 10,000 parameters.
    """
    with torch.device("meta"), _NoValues(), _few_tensors():
        return build()
