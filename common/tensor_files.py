"""Read the dict in a ``torch.save`` file without running code, and check the file and its tensors.

PyTorch compares neither the file's checksums nor the sizes of what it reads, so that a flipped bit
would go unnoticed and a small file could ask for terabytes.
"""

import pickle
import warnings
import zipfile
from typing import BinaryIO

import torch

from common.errors import InputError
from common.reading import open_regular
from common.schema import too_deep

RIGHT = "give a model file that a training stage wrote"
CHUNK = 2**20  # bytes that are checked at a time


def load_tensors(path, device="cpu") -> dict:
    """Return the dict in a ``torch.save`` file, with its tensors on `device`.

    Raises InputError for what is no regular file, larger than the memory, truncated, of another
    format or damaged (a checksum does not agree), for pickled code, which is not run, and for
    tensors that are no plain ones: sparse, quantized, without values, or with fewer values in the
    file than their shape has.
    """
    torch.empty(0, device=device)  # a missing device is not mistaken for a damaged file
    with open_regular(path, RIGHT) as file:
        try:
            check_members(file, path)
            with warnings.catch_warnings(action="ignore"):  # the errors below say what matters
                content = torch.load(file, map_location=device, weights_only=True)
        except InputError:
            raise
        except Exception as error:  # a damaged byte can raise almost any exception
            raise _refusal(path, error) from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}; give a dict of tensors")
    if too_deep(content):
        raise InputError(f"{path}: is nested too deep; give a dict of tensors")
    for name, tensor in tensors_in(content):
        if why := unusable(tensor):
            raise InputError(f"{path}: {name} {why}; save plain tensors on the CPU")
    return content


def _refusal(path, error: Exception) -> InputError:
    """Say in one line why `torch.load` failed."""
    # GLOBAL is the pickle opcode that fetches a class or function by name.
    if isinstance(error, pickle.UnpicklingError) and "global" in str(error).lower():
        return InputError(
            f"{path}: holds pickled code, which is not run; save tensors and plain values"
        )
    what = type(error).__name__
    return InputError(
        f"{path}: is truncated or not a torch.save file ({what}); copy it or train it again"
    )


def check_members(file: BinaryIO, path) -> None:
    """Compare the checksum of each member of a ``torch.save`` file, a zip archive.

    Files of the format before PyTorch 1.6 are no archives and have no checksums.
    Raises InputError where one does not agree, or where members are compressed or overlap.
    """
    start = file.read(4)
    file.seek(0)
    if start != b"PK\x03\x04":
        return
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        total = sum(member.file_size for member in members)
        stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
        if not stored or total > file.seek(0, 2):
            raise InputError(
                f"{path}: has compressed or overlapping members; write it with torch.save"
            )
        for member in members:
            try:
                with archive.open(member) as part:
                    while part.read(CHUNK):
                        pass
            except (zipfile.BadZipFile, RuntimeError, NotImplementedError):
                # RuntimeError: the bit that says "encrypted" is set; then PyTorch warns of nothing.
                raise InputError(
                    f"{path}: is damaged: {member.filename!r} does not agree with its checksum; "
                    "copy it or train it again"
                ) from None
    file.seek(0)


def tensors_in(content, name: str = "") -> list[tuple[str, torch.Tensor]]:
    """List the tensors in dicts, lists and tuples, each with the names that lead to it."""
    found, seen = [], set()
    todo = [(name, content)]
    while todo:
        name, value = todo.pop()
        if isinstance(value, torch.Tensor):
            found.append((name, value))
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            pairs = value.items() if isinstance(value, dict) else enumerate(value)
            todo += [(f"{name}.{key}" if name else f"{key}", each) for key, each in pairs]
    return found


def unusable(tensor: torch.Tensor) -> str | None:
    """Say why a tensor cannot be used; None where it is a plain one whose values are in memory."""
    if tensor.is_nested or tensor.layout != torch.strided or tensor.is_quantized:
        return "is a sparse, nested or quantized tensor"
    if tensor.device.type == "meta":
        return "is a tensor without values"
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return f"has shape {tuple(tensor.shape)}, but fewer values are stored"
    return None


def wrong_values(tensor: torch.Tensor, own: torch.Tensor) -> str | None:
    """Say why a tensor cannot be copied to a network's `own` tensor of this shape.

    Weights must be floating-point, counters whole numbers, and all of them finite in the type that
    the network has. None: it can.
    """
    floats = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    if not own.is_floating_point():
        whole = not (
            tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool
        )
        return None if whole else f"holds {_type(tensor)} values, and a counter is a whole number"
    if tensor.dtype not in floats:
        return f"holds {_type(tensor)} values, and weights are floating-point numbers"
    if not tensor.to(own.dtype).isfinite().all():
        return "holds NaN or infinite values"
    return None


def _type(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
