"""Read a script's settings from its command line; end the program where they are wrong."""

import contextlib
import dataclasses
import errno
import io
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn, TypeVar

import tyro

from common import streams
from common.errors import InputError
from models import EARLIER_REPRESENTATIONS, SPELLINGS
from utils.settings import presets
from utils.settings.options import StageSettings
from utils.settings.values import need

Settings = TypeVar("Settings")
Stage = TypeVar("Stage", bound=StageSettings)


def flat(settings) -> dict:
    """Return every option of `settings`, groups included, as {name: plain value}."""
    options: dict[str, object] = {}
    for each in dataclasses.fields(settings):
        value = getattr(settings, each.name)
        if dataclasses.is_dataclass(value):
            options |= flat(value)
        elif isinstance(value, Path):
            options[each.name] = str(value)
        elif isinstance(value, tuple):
            options[each.name] = list(value)
        else:
            options[each.name] = value
    return options


def check(settings) -> None:
    """Fill in `settings` and each of its groups, then check them.

    Raises InputError at the first wrong value.
    """
    for step in ("fill_in", "check"):
        for part in _groups(settings):
            if hasattr(part, step):
                getattr(part, step)()
            if step == "fill_in":
                _check_plain(part)


def _check_plain(part) -> None:
    """Refuse non-finite and huge numbers and impossible paths in the fields of one group."""
    for each in dataclasses.fields(part):
        value = getattr(part, each.name)
        for one in value if isinstance(value, tuple) else (value,):
            finite = not isinstance(one, float) or math.isfinite(one)
            need(finite, each.name, one, "is not a finite number; give one such as 0.1")
            huge = isinstance(one, int) and abs(one) >= 2**63
            need(not huge, each.name, f"{str(one)[:9]}...", "give a smaller number")
            if isinstance(one, Path):
                _check_path(each.name, one)


def _check_path(option: str, path: Path) -> None:
    """Refuse a name that no file can have; whether there is a file is checked later."""
    try:
        path.lstat()
    except OSError as error:
        impossible = error.errno in (errno.ENAMETOOLONG, errno.ELOOP)
        need(not impossible, option, path, f"{error.strerror}; give another path")


def _groups(settings) -> Iterator:
    """Yield each group of `settings`, those within it before itself."""
    for each in dataclasses.fields(settings):
        value = getattr(settings, each.name)
        if dataclasses.is_dataclass(value):
            yield from _groups(value)
    yield settings


# {option: {value of earlier commits, or another spelling: the value of today}}
EARLIER_VALUES = {
    "representation": EARLIER_REPRESENTATIONS,
    **dict.fromkeys(("arch", "surrogate_arch", "surrogate-arch"), SPELLINGS),
}


def translated(options: dict) -> dict:
    """Return {option: value} with the values of today instead of those of earlier commits."""
    known = {name: value for name, value in options.items() if isinstance(value, str)}
    now = {name: EARLIER_VALUES.get(name, {}).get(value, value) for name, value in known.items()}
    return options | now


def _today(words: list[str]) -> list[str]:
    """Replace the values of earlier commits, as in --representation stage3, with those of today."""
    result = []
    for before, word in zip(["", *words], words):
        option, equals, value = word.rpartition("=")
        name = (option if equals else before).removeprefix("--")
        now = translated({name: value})[name]
        result.append(f"{option}{equals}{now}")
    return result


def _flags(words: list[str]) -> list[str]:
    """Replace --compile by itself with --compile on, and --no-compile with --compile off."""
    result = []
    for word, after in zip(words, [*words[1:], ""]):
        result += ["--compile", "off"] if word == "--no-compile" else [word]
        if word == "--compile" and after not in ("auto", "on", "off"):
            result.append("on")
    return result


def _given(words: list[str]) -> dict[str, str]:
    """Return {option: first word of its value}; the last of a repeated option counts."""
    given = {}
    for word, after in zip(words, [*words[1:], ""]):
        if word.startswith("--"):
            name, equals, value = word.removeprefix("--").removeprefix("no-").partition("=")
            given[name.replace("-", "_")] = value if equals else after
    return given


def _preset(kind: type[Stage], words: list[str]) -> Stage:
    """Return a stage's settings with the values of its --preset, before other options are read."""
    given = _given(words)
    values = presets.values(given.get("preset", "paper"), kind.stage, given.get("norm", "linf"))

    def apply(settings):
        for each in dataclasses.fields(settings):
            if dataclasses.is_dataclass(value := getattr(settings, each.name)):
                apply(value)
            elif each.name in values:
                setattr(settings, each.name, values[each.name])
        return settings

    return apply(kind())


def origin(settings: StageSettings, words: list[str]) -> dict[str, str]:
    """Return where each option comes from: {option: "command line", "preset NAME" or "default"}."""
    given = _given(words)
    preset = presets.values(settings.preset, settings.stage, settings.attack.norm)
    found = dict.fromkeys(flat(settings), "default")
    found |= {name: f"preset {settings.preset}" for name in preset if name in found}
    return found | {name: "command line" for name in given if name in found}


def parse(kind: type[Settings], description: str, argv: list[str] | None = None) -> Settings:
    """Return the settings of the dataclass `kind` that the command line asks for.

    Bad input ends the program: one line on stderr that names the option, exit status 2.
    """
    streams.open_missing()
    said, argv = io.StringIO(), _today(_flags(sys.argv[1:] if argv is None else argv))
    try:
        with contextlib.redirect_stderr(said):
            start = tyro.MISSING_NONPROP
            if issubclass(kind, StageSettings):
                start = _preset(kind, argv)
            settings = tyro.cli(
                kind,
                args=argv,
                description=description,
                config=(tyro.conf.OmitArgPrefixes,),
                default=start,
            )
        check(settings)
        return settings
    except InputError as error:
        exit_with(error)
    except SystemExit as end:
        if end.code:
            exit_with(_one_line(said.getvalue()))
        exit_unless_printed()
        raise


def complain(message) -> int:
    """Print the user's mistake as one line on stderr, and return the exit status 2.

    Under torchrun only the first process prints.
    """
    torchrun = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()
    if not torchrun or os.environ["RANK"] == "0":
        streams.say(f"{Path(sys.argv[0]).name}: {message}")
    return 2


def exit_with(message) -> NoReturn:
    """Print the user's mistake as one line on stderr and exit with status 2."""
    raise SystemExit(complain(message))


def exit_unless_printed() -> None:
    """Exit with status 2 where --help cannot be written to standard output."""
    try:
        streams.Printable(sys.stdout).flush()
    except InputError as error:
        exit_with(error)


def _one_line(box: str) -> str:
    """Join the message in a box that tyro draws, of lines or of dashes, to one line.

    The message lies between the title and the next rule, below which tyro repeats the option's
    help.
    """
    lines = [
        line
        for line in (line.strip("│ ") for line in box.splitlines())
        if line and not line.startswith("╰")
    ][1:]
    rules = [i for i, line in enumerate(lines) if not line.strip("─-")]
    first = 1 if rules[:1] == [0] else 0
    last = next((i for i in rules if i >= first), len(lines))
    return " ".join(lines[first:last]).rstrip(".") + "; see --help"
