"""One process at a time in a folder."""

import subprocess
import sys
import time

from conftest import ROOT

from common.locks import locked

CHILD = "import sys; sys.path.insert(0, {root!r}); from common.locks import locked; from pathlib import Path\nwith locked(Path({path!r})): {inside}"


def child(path, inside):
    return subprocess.Popen(
        [sys.executable, "-c", CHILD.format(root=str(ROOT), path=str(path), inside=inside)],
        stdout=subprocess.PIPE,
        text=True,
    )


def test_the_second_waits_for_the_first(tmp_path):
    with child(tmp_path, "print('in', flush=True); __import__('time').sleep(0.7)") as first:
        assert first.stdout.readline() == "in\n"
        began, told = time.monotonic(), []
        with locked(tmp_path, lambda: told.append(1)):
            assert time.monotonic() - began > 0.3 and told == [1]


def test_a_busy_that_raises_does_not_wait(tmp_path):
    class Busy(Exception):
        pass

    def busy():
        raise Busy

    with locked(tmp_path):
        try:
            with locked(tmp_path, busy):
                raise AssertionError
        except Busy:
            pass
    with locked(tmp_path, busy):  # and nothing is left behind
        assert not list(tmp_path.iterdir())


def test_a_kill_lets_go(tmp_path):
    with child(tmp_path, "print('in', flush=True); __import__('time').sleep(60)") as first:
        first.stdout.readline()
        first.kill()
        first.wait()
        with locked(tmp_path, lambda: 1 / 0):
            pass
