"""Check values that were read from a file against a description of what they should be.

A description is a `Kind`; a list with one description, for a list; or a dict {name: description},
for a dict that may have other names besides. A name that ends in "?" may be missing.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from common.errors import InputError

DEEPEST = 60  # levels of nesting that a file may have; ours have fewer than ten


@dataclass(frozen=True)
class Kind:
    """Describe a kind of value: what is right, in words, and the test for it."""

    right: str
    fits: Callable[[object], bool]


@dataclass(frozen=True)
class Each:
    """Describe a dict whose names are texts, and whose values all fit one description."""

    of: object


@dataclass(frozen=True)
class OrNone:
    """Describe what fits a description, or None."""

    of: object


def number(low: float = -math.inf, high: float = math.inf) -> Kind:
    """Describe a finite number from `low` to `high`."""

    def fits(value) -> bool:
        return type(value) in (int, float) and math.isfinite(value) and low <= value <= high

    return Kind(f"a finite number{_range(low, high)}", fits)


def whole(low: float = -math.inf, high: float = math.inf) -> Kind:
    """Describe a whole number from `low` to `high`; true and false are none."""
    return Kind(
        f"a whole number{_range(low, high)}",
        lambda value: type(value) is int and low <= value <= high,
    )


def _range(low: float, high: float) -> str:
    lower = "" if low == -math.inf else f" from {low:.10g}"
    return lower + ("" if high == math.inf else f" to {high:.10g}")


ANYTHING = Kind("anything", lambda value: True)
TEXT = Kind("a text", lambda value: isinstance(value, str))
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
FLOAT = Kind("a number", lambda value: type(value) in (int, float))  # NaN and infinity, too


def fault(value: Any, right, field: str = "") -> str | None:
    """Name the first field of `value` that does not fit the description `right`; None: all fit."""
    if isinstance(right, Kind):
        return (
            None if right.fits(value) else f"{field or 'it'} is {_shown(value)}, not {right.right}"
        )
    if isinstance(right, OrNone):
        return None if value is None else fault(value, right.of, field)
    expected = list if isinstance(right, list) else dict
    if not isinstance(value, expected):
        return f"{field or 'it'} is {_shown(value)}, not a {expected.__name__}"
    if isinstance(value, list):
        parts = [(f"{field}[{index}]", each, right[0]) for index, each in enumerate(value)]
    elif isinstance(right, Each):
        if wrong := [name for name in value if not isinstance(name, str)]:
            return f"{field or 'it'} has the name {_shown(wrong[0])}, not a text"
        parts = [(_below(field, name), each, right.of) for name, each in value.items()]
    else:
        names = {name.removesuffix("?"): name for name in right}
        missing = [name for name, key in names.items() if name == key and name not in value]
        if missing:
            return f"{_below(field, missing[0])} is missing"
        known = [name for name in names if name in value]
        parts = [(_below(field, name), value[name], right[names[name]]) for name in known]
    return next((found for name, each, kind in parts if (found := fault(each, kind, name))), None)


def require(value, right, path, remedy: str) -> None:
    """Raise InputError, with the file's name and the field's, where a value does not fit `right`.

    remedy: what to do, the end of the message.
    """
    if found := fault(value, right):
        raise InputError(f"{path}: {found}; {remedy}")


def too_deep(content) -> bool:
    """Return whether dicts, lists and tuples are nested more than `DEEPEST` levels.

    An object that is in several places is looked at once, at the first level where it is met.
    """
    level, seen = [content], {id(content)}
    for _ in range(DEEPEST):
        below = [each for value in level for each in _children(value)]
        level = []
        for each in below:
            if isinstance(each, dict | list | tuple) and id(each) not in seen:
                seen.add(id(each))
                level.append(each)
        if not level:
            return False
    return True


def _children(value) -> list:
    if isinstance(value, dict):
        return list(value.values())
    return list(value) if isinstance(value, list | tuple) else []


def _below(field: str, name: str) -> str:
    return f"{field}.{name}" if field else name


def _shown(value) -> str:
    """Return a value as a message shows it, short and in one line."""
    if isinstance(value, dict | list | tuple):
        return f"a {type(value).__name__}"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**30:
        return "a number of more than 30 digits"
    if isinstance(value, str | bytes):
        value = value[:40]
    text = repr(value) if type(value).__module__ == "builtins" else f"a {type(value).__name__}"
    return text[:60]
