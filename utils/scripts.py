"""End a script: its exit status, and one line for what went wrong."""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator

from common.errors import Diverged, Finished, InputError, Interrupted
from common.streams import Printable, say
from utils.settings.command_line import complain

STAYS = "what was written stays, and the same command resumes"
# What PyTorch says, in a RuntimeError, where the CPU or the GPU has not enough memory.
NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")


class Terminated(BaseException):
    """Report that SIGTERM arrived outside of a training loop."""


def leave_other_processes() -> None:
    """Leave the processes that torchrun started, where the script joined them.

    A script that has not imported PyTorch, which takes seconds, has joined none.
    """
    if distributed := sys.modules.get("utils.distributed"):
        distributed.stop()


def run_script(main: Callable, settings) -> None:
    """Run a script's main and turn its end into the exit status.

    0: done; 2: bad input, a full disk or too little memory, one line on stderr; 3: diverged; 130 or
    143: interrupted, state saved.
    """
    with terminable(), contextlib.redirect_stdout(Printable(sys.stdout)):
        status = _status(main, settings)
    if status:
        raise SystemExit(status)


def _status(main: Callable, settings) -> int:
    """Run main, print the line for what went wrong, and return the exit status."""
    try:
        main(settings)
        sys.stdout.flush()
        leave_other_processes()
        return 0
    except Finished as end:
        print(end, flush=True)
        leave_other_processes()
        return 0
    except InputError as error:
        return complain(error)
    except Diverged as error:
        say(f"diverged: {error}")
        return 3
    except Interrupted as end:
        return end.status
    except KeyboardInterrupt:
        say(f"interrupted; {STAYS}")
        return 128 + signal.SIGINT
    except Terminated:
        say(f"terminated; {STAYS}")
        return 128 + signal.SIGTERM
    except OSError as error:
        named = f"{error.filename}: " if error.filename else ""
        return complain(f"{named}{error.strerror or error}; {STAYS}")
    except (MemoryError, RuntimeError) as error:
        text = str(error).strip().splitlines()[:1]
        if isinstance(error, RuntimeError) and not any(each in str(error) for each in NO_MEMORY):
            raise
        return complain(
            f"memory: there is not enough ({''.join(text)}); "
            "give a smaller --batch-size or a smaller network"
        )


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Raise Terminated at the first SIGTERM inside the `with` block, so that files are closed.

    The second one ends the process at once.
    """

    def end(number, frame):
        signal.signal(number, signal.SIG_DFL)
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
