"""The two ways a command ends early on purpose. Imports nothing, so that every package may use it."""


class InputError(ValueError):
    """Something the user gave is wrong: an option, a file, a folder. One line that names it, says what is
    wrong with it and what would be right. Scripts print it on stderr and exit with status 2."""


class Diverged(RuntimeError):
    """Training met a number that is not finite. Scripts exit with status 3; the last good state stays."""


class Interrupted(BaseException):
    """SIGINT or SIGTERM came and the state was saved; `status` is the exit status 128 + signal."""

    def __init__(self, number: int):
        self.status = 128 + number
