"""Note SIGINT and SIGTERM, so that training stops between two steps."""

import signal
import sys

from utils import distributed


class Signals:
    """Note the first SIGINT or SIGTERM in `number` inside the `with` block, so that the loop can
    stop.

    The second signal ends the program at once.
    """

    def __enter__(self):
        self.number = None
        self.before = {
            each: signal.signal(each, self._note) for each in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def _note(self, number, frame):
        self.number = number
        if distributed.first():
            print(
                "\nstopping after this step; send the signal again to stop at once", file=sys.stderr
            )
        for each, handler in self.before.items():
            signal.signal(each, handler)

    def __exit__(self, *error):
        for each, handler in self.before.items():
            signal.signal(each, handler)
