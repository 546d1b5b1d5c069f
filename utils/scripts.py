"""End a script: its exit status, and one line for what went wrong."""

import os
import sys
from collections.abc import Callable

from common.errors import Diverged, InputError, Interrupted
from utils.settings.command_line import exit_with


def leave_other_processes() -> None:
    """Leave the processes that torchrun started, where the script joined them.

    A script that has not imported PyTorch, which takes seconds, has joined none.
    """
    if distributed := sys.modules.get("utils.distributed"):
        distributed.stop()


def run_script(main: Callable, settings) -> None:
    """Run a script's main and turn its end into the exit status.

    0: done; 2: bad input, one line on stderr; 3: diverged; 130 or 143: interrupted, state saved.
    """
    try:
        main(settings)
        sys.stdout.flush()
        leave_other_processes()
    except InputError as error:
        exit_with(error)
    except Diverged as error:
        print(f"diverged: {error}", file=sys.stderr)
        raise SystemExit(3) from None
    except Interrupted as end:
        raise SystemExit(end.status) from None
    except KeyboardInterrupt:
        print("interrupted; what was written stays, and the same command resumes", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
