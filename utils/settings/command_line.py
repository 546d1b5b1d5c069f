"""Read a script's settings from its command line; end the program in one line where they are wrong."""

import contextlib
import dataclasses
import io
import os
import sys
from pathlib import Path

import tyro

from common.errors import InputError
from utils.settings import presets
from utils.settings.options import StageSettings


def flat(settings) -> dict:
    """Every option of `settings` as {name: plain value}, the groups taken apart."""
    options = {}
    for each in dataclasses.fields(settings):
        value = getattr(settings, each.name)
        if dataclasses.is_dataclass(value):
            options |= flat(value)
        else:
            options[each.name] = (
                str(value)
                if isinstance(value, Path)
                else list(value)
                if isinstance(value, tuple)
                else value
            )
    return options


def check(settings) -> None:
    """Fill in and check `settings` and each of its groups; InputError at the first value that is wrong."""
    for each in dataclasses.fields(settings):
        if hasattr(value := getattr(settings, each.name), "check"):
            value.check()
    if hasattr(settings, "check"):
        settings.check()


def _flags(words: list[str]) -> list[str]:
    """The words with --compile on for --compile by itself and --compile off for --no-compile."""
    result = []
    for word, after in zip(words, [*words[1:], ""]):
        result += ["--compile", "off"] if word == "--no-compile" else [word]
        if word == "--compile" and after not in ("auto", "on", "off"):
            result.append("on")
    return result


def _given(words: list[str]) -> dict[str, str]:
    """{option: its value's first word} of a command line; an option that comes twice has its last."""
    given = {}
    for word, after in zip(words, [*words[1:], ""]):
        if word.startswith("--"):
            name, equals, value = word.removeprefix("--").removeprefix("no-").partition("=")
            given[name.replace("-", "_")] = value if equals else after
    return given


def _preset(kind: type[StageSettings], words: list[str]) -> StageSettings:
    """The settings of a stage before its other options are read: those of the --preset among the words."""
    given = _given(words)
    values = presets.values(given.get("preset", "paper"), kind.stage, given.get("norm", "linf"))

    def put(settings):
        for each in dataclasses.fields(settings):
            if dataclasses.is_dataclass(value := getattr(settings, each.name)):
                put(value)
            elif each.name in values:
                setattr(settings, each.name, values[each.name])
        return settings

    return put(kind())


def origin(settings: StageSettings, words: list[str]) -> dict[str, str]:
    """{option: "command line", "preset NAME" or "default"}: where each option of a stage, read from `words`, is from."""
    given, preset = (
        _given(words),
        presets.values(settings.preset, settings.stage, settings.attack.norm),
    )
    return {
        name: "command line"
        if name in given
        else f"preset {settings.preset}"
        if name in preset
        else "default"
        for name in flat(settings)
    }


def parse(kind, description: str, argv: list[str] | None = None):
    """The settings of the dataclass `kind` that the command line asks for.

    Bad input ends the program: one line on stderr that names the option, exit status 2.
    """
    said, argv = io.StringIO(), _flags(sys.argv[1:] if argv is None else argv)
    try:
        with contextlib.redirect_stderr(said):
            start = {"default": _preset(kind, argv)} if issubclass(kind, StageSettings) else {}
            settings = tyro.cli(
                kind,
                args=argv,
                description=description,
                config=(tyro.conf.OmitArgPrefixes,),
                **start,
            )
        check(settings)
        return settings
    except InputError as error:
        exit_with(error)
    except SystemExit as end:
        if end.code:
            exit_with(_one_line(said.getvalue()))
        raise


def exit_with(message) -> None:
    """End with the user's mistake in one line on stderr, and status 2. Of torchrun's processes the first says it for all."""
    if os.environ.get("RANK", "0") == "0":
        print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr)
    raise SystemExit(2)


def _one_line(box: str) -> str:
    """What tyro draws as a box, of lines or of dashes, as one line: between the title and the next rule, below which it
    repeats the option's help."""
    lines = [
        line
        for line in (line.strip("│ ") for line in box.splitlines())
        if line and not line.startswith("╰")
    ][1:]
    rules = [i for i, line in enumerate(lines) if not line.strip("─-")]
    first = 1 if rules[:1] == [0] else 0
    last = next((i for i in rules if i >= first), len(lines))
    return " ".join(lines[first:last]).rstrip(".") + "; see --help"
