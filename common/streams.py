"""Print to a terminal that may be closed or full. Nothing here imports torch."""

import contextlib
import os
import sys

from common.errors import InputError


def open_missing() -> None:
    """Open what was closed of standard input, output and error, on the null device.

    A file that is opened later would otherwise get its descriptor, and be printed into. Characters
    that an encoding lacks, such as those of a name that is not UTF-8, are printed with backslashes.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            handle = os.open(os.devnull, os.O_RDWR)
            if handle != number:
                os.dup2(handle, number)
                os.close(handle)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")


def printable(text: str, keep: str = "") -> str:
    """Replace characters that would steer a terminal, or cannot be encoded, by their escapes.

    keep: characters that stay, such as the newline.
    """
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() or each in keep else ascii(each)[1:-1] for each in text
    )


def say(text: str) -> None:
    """Print one line on standard error, whatever is in `text`; a full one is left alone."""
    try:
        print(printable(text), file=sys.stderr, flush=True)
    except (OSError, ValueError):
        _to_nowhere(sys.stderr)


class Printable:
    """Wrap standard output: what a file or a name holds cannot steer the terminal.

    Raises InputError where the text cannot be written.
    """

    def __init__(self, stream):
        """Take the stream that is written to."""
        self.stream = stream

    def __getattr__(self, name: str):
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write a text, with its control characters escaped; return its length."""
        with _named(self.stream):
            self.stream.write(printable(text, keep="\n\t"))
        return len(text)

    def flush(self) -> None:
        """Write what is kept back."""
        with _named(self.stream):
            self.stream.flush()


@contextlib.contextmanager
def _named(stream):
    """Raise InputError where standard output cannot be written; it is silent from then on."""
    try:
        yield
    except OSError as error:
        _to_nowhere(stream)
        raise InputError(
            f"standard output: cannot be written ({error.strerror}); what was saved stays; "
            "redirect it to another place"
        ) from None


def _to_nowhere(stream) -> None:
    """Lead a stream to the null device, so that what it keeps back fails no more."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        handle = os.open(os.devnull, os.O_WRONLY)
        os.dup2(handle, stream.fileno())
        os.close(handle)
