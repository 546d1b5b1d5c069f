"""Read single option values, and declare and check options.

Nothing here imports torch: ``--help`` and a wrong option answer at once.
"""

import math
from dataclasses import field
from typing import Annotated

import tyro

from common import memory
from common.errors import InputError


def fraction(text: str) -> float:
    """Read "8/255" or "0.03". Raises ValueError for other text and for non-finite values."""
    above, slash, below = text.partition("/")
    try:
        divisor = float(below) if slash else 1.0
        value = float(above) / divisor
    except ZeroDivisionError:
        raise ValueError(
            f"{text} divides by zero; write a number or a fraction such as 8/255"
        ) from None
    except ValueError:
        raise ValueError(
            f"{text} is not a number; write a number or a fraction such as 8/255"
        ) from None
    if not (math.isfinite(value) and math.isfinite(divisor)):
        raise ValueError(f"{text} is not finite; write a number or a fraction such as 8/255")
    return value


def whole(text: str) -> int:
    """Read a whole number. Raises ValueError for anything else."""
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text} is not a whole number; write one such as 8") from None


def _option(read, metavar: str, show: str):
    """Describe to tyro an option that may be left out.

    Args:
        read: text -> value; the user sees the message of its ValueError.
        metavar: what --help shows for the value.
        show: the format of a default value.
    """

    def text(value) -> list[str]:
        return ["not given" if value is None else format(value, show)]

    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda words: read(words[0]),
        is_instance=lambda value: value is None or isinstance(value, int | float),
        str_from_instance=text,
    )


Fraction = Annotated[float | None, _option(fraction, "NUMBER|A/B", "g")]
Count = Annotated[int | None, _option(whole, "INT", "d")]


def need(holds: bool, option: str, value, right: str) -> None:
    """Raise InputError, in one line that names the option, unless `holds`."""
    if not holds:
        raise InputError(f"--{option.replace('_', '-')} {value}: {right}")


def need_memory(option: str, value, numbers: float) -> None:
    """Raise InputError where `value` asks for more float32 numbers than the memory holds."""
    if lacking := memory.lack(numbers):
        need(False, option, value, f"{lacking}; give a smaller number")


def group(kind, **defaults):
    """Declare a field that holds a group of options, with a stage's own defaults."""
    return field(default_factory=lambda: kind(**defaults))
