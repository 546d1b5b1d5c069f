"""Read NumPy's .npy and .npz files without running code, and no more than they should hold."""

import io
import sys
import zipfile
from pathlib import Path
from typing import BinaryIO, Literal

import numpy

from common.errors import InputError
from common.reading import open_regular

READABLE = "give a readable .npy file"
HEADER = 2**16  # bytes that a header may have; those that NumPy writes for plain arrays have 128


def open_array(path: Path) -> numpy.ndarray:
    """Open a .npy file as a memory map, which reads what is used of it alone.

    Raises InputError for what is no regular file, holds Python objects, or has another size than
    its header declares.
    """
    # Of a memory map any size will do.
    with open_regular(path, READABLE, sys.maxsize, "cannot be read, as it is no file") as file:
        try:
            shape, order, dtype = _header(file)
            return numpy.memmap(
                file, dtype=dtype, mode="r", offset=file.tell(), shape=shape, order=order
            )
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        except Exception:  # a damaged byte can raise almost any exception
            raise InputError(
                f"{path}: is truncated or not an .npy file; write it again with numpy.save"
            ) from None


def read_archive(
    path: Path, largest: int, remedy: str, only: tuple[str, ...] | None = None
) -> dict[str, numpy.ndarray]:
    """Read {name: array} of an .npz file, each compared with its checksum.

    Args:
        path: the file, as the message names it.
        largest: the most bytes of an array.
        remedy: what would be right, the end of the message.
        only: the arrays that are read; None: all.

    Raises InputError for what is no regular file, damaged, or no archive of plain arrays of at most
    this size. Nothing larger is put into memory.
    """
    with open_regular(path, remedy, otherwise="is no .npz file of arrays") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
                wanted = members if only is None else [name for name in only if name in members]
                return {name: _member(archive, members[name], largest) for name in wanted}
        except InputError as error:
            raise InputError(f"{path}: {error}; {remedy}") from None
        except Exception:  # a damaged byte can raise almost any exception
            raise InputError(f"{path}: is no .npz file of arrays; {remedy}") from None


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, largest: int) -> numpy.ndarray:
    """Read an array of an archive."""
    if info.file_size > largest + HEADER:
        raise InputError(
            f"{info.filename!r} has {info.file_size} bytes, and at most {largest} are expected"
        )
    octets = archive.read(info)  # stops at file_size, and compares the checksum
    shape, order, dtype = _header(stream := io.BytesIO(octets))
    array = numpy.frombuffer(octets, dtype, offset=stream.tell())
    return array.reshape(shape, order=order).copy()


def _header(file: BinaryIO) -> tuple[tuple[int, ...], Literal["C", "F"], numpy.dtype]:
    """Read shape, order and type, and leave `file` where the values begin.

    Raises InputError for an array of Python objects, and ValueError where the file is damaged.
    """
    version = numpy.lib.format.read_magic(file)
    width, read = {
        (1, 0): (2, numpy.lib.format.read_array_header_1_0),
        (2, 0): (4, numpy.lib.format.read_array_header_2_0),
    }[version]
    start = file.tell()
    if int.from_bytes(file.read(width), "little") > HEADER:
        raise ValueError("the header is too long")
    file.seek(start)
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise InputError(
            "holds pickled Python objects, which are not loaded; "
            "save uint8 images and integer labels"
        )
    if any(length < 0 for length in shape):
        raise ValueError("a negative length")
    return shape, "F" if fortran else "C", dtype
