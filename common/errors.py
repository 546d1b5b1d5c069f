"""Define how a command ends early on purpose; without imports, so that every package may use it."""


class InputError(ValueError):
    """Report a wrong option, file or folder of the user in one line.

    The message names it, says what is wrong and what would be right. Scripts print it on stderr and
    exit with status 2.
    """


class Finished(Exception):
    """Report that the run is finished and nothing is left to do.

    Scripts print it and exit with status 0.
    """


class Diverged(RuntimeError):
    """Report that training met a NaN or infinite value.

    Scripts exit with status 3; the last good state stays.
    """


class Interrupted(BaseException):
    """Report that SIGINT or SIGTERM arrived and the state was saved.

    `status` is the exit status, 128 + signal.
    """

    def __init__(self, number: int):
        self.status = 128 + number
