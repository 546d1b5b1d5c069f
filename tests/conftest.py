"""What several test files share: running a script as a user does, and one small chain of all stages."""

import contextlib
import csv
import io
import json
import multiprocessing
import os
import runpy
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from matplotlib.figure import Figure
from tqdm import tqdm

from utils import distributed

# Where the suite is run in the background, SIGINT is ignored, and would be by every script that is stopped with it here.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The first backward pass starts autograd's threads for the devices there are. After a FakeTensorMode, which pretends that
# there is one, it would start one without CUDA, too, and autograd would not run in `forked`.
torch.ones(1, requires_grad=True).sum().backward()

ROOT = Path(__file__).parent.parent
DATA = "--dataset digits --limit-train 300 --holdout 60 --epsilon 0.15 --eval-steps 2".split()
SMALL = [*DATA, *"--width 8 --batch-size 64 --lr 0.05 --num-steps 2".split()]
ESTIMATOR = [*DATA, *"--batch-size 64 --num-steps 2 --n-units 16 --epochs 2".split()]


def draw_once(script: str, draw: Callable) -> Callable:
    """Replace `Figure.savefig`: draw each kind of figure of a script the first time, and then copy that file.

    A kind is the labels of the axes and of the lines. Drawing takes as long as a small training.
    """

    def savefig(figure, file, format, **options):
        labels = [(axis.get_ylabel(), *axis.get_legend_handles_labels()[1]) for axis in figure.axes]
        kind = (script, format, *labels)
        if kind not in DRAWN:
            drawn = io.BytesIO()
            draw(figure, drawn, format=format, **options)
            DRAWN[kind] = drawn.getvalue()
        file.write(DRAWN[kind])

    return savefig


DRAWN = {}  # {kind of figure: the file}


def forked(work: Callable, *arguments) -> multiprocessing.Process:
    """Start work(*arguments) in a copy of this process, which need not import PyTorch again: three seconds.

    With CUDA, autograd refuses to run in a copy, and a new process imports everything: `work` is a function of a module.
    """
    method = "spawn" if torch.cuda.is_available() else "fork"
    process = multiprocessing.get_context(method).Process(target=_alone, args=(work, arguments))
    process.start()
    return process


def _alone(work: Callable, arguments: tuple) -> None:
    torch.set_num_threads(1)  # OpenMP's threads are not copied
    tqdm.set_lock(threading.RLock())  # the other lock is shared, and a killed process would keep it
    work(*arguments)


def in_processes(count: int, work: Callable, *arguments) -> None:
    """Run work(rank, *arguments) in several processes, with the variables that torchrun sets."""
    assert exit_codes(count, work, *arguments) == [0] * count


def exit_codes(count: int, work: Callable, *arguments) -> list[int | None]:
    """Run work(rank, *arguments) in several processes, and return how each ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    processes = [
        forked(_one_of_several, rank, place | {"WORLD_SIZE": str(count)}, work, arguments)
        for rank in range(count)
    ]
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def _one_of_several(rank: int, place: dict, work: Callable, arguments: tuple) -> None:
    os.environ |= place | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    work(rank, *arguments)


def measured_in_processes(count: int, measure: Callable[[], dict], folder: Path) -> list[dict]:
    """Call measure() in each of several processes of one group: what it returned, by rank."""
    in_processes(count, _save_measured, measure, folder)
    return [torch.load(folder / str(rank), weights_only=True) for rank in range(count)]


def _save_measured(rank: int, measure: Callable[[], dict], folder: Path) -> None:
    distributed.start(torch.device("cpu"))
    torch.save(measure(), folder / str(rank))
    distributed.stop()


def succeed_in_processes(count: int, script: str, *words) -> str:
    """Run a script in several processes, as torchrun does; return what they say."""
    with tempfile.TemporaryDirectory() as folder:
        in_processes(count, _save_said, Path(folder), script, *words)
        return "".join(Path(folder, str(rank)).read_text() for rank in range(count))


def _save_said(rank: int, folder: Path, script: str, *words) -> None:
    (folder / str(rank)).write_text(succeed(script, *words).out)


def launch(words, lock, log, threads):
    """Run a command of `reproduction.run.Commands` in this process, instead of by its `launch`."""
    if words[0] == "-m":
        words = [words[1].replace(".", "/") + ".py", *words[2:]]
    ended = run_script(*words)
    print(ended.err, file=sys.stderr)
    return SimpleNamespace(poll=lambda: ended.status)


def run_script(
    script: str, *words, stop_at: int | None = None, number: int = signal.SIGTERM
) -> SimpleNamespace:
    """The script with these arguments, as `python script words` runs it but in this process: status, out, err.

    stop_at: send ourselves the signal `number` in the middle of the stop_at-th training attack.
    """
    words = [str(word) for word in words]
    out, err = io.StringIO(), io.StringIO()
    from utils.attacks import projected_gradient

    true_pgd, calls = projected_gradient.pgd, 0

    def stopping_pgd(*args, **settings):
        nonlocal calls
        calls += 1
        if calls == stop_at:
            os.kill(os.getpid(), number)
        return true_pgd(*args, **settings)

    status = 0
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.object(Figure, "savefig", draw_once(script, Figure.savefig)),
        mock.patch.object(sys, "argv", [script, *words]),
        contextlib.ExitStack() as stack,
    ):
        # utils.training.noisy, which attacks for train_VIB.py, took its pgd when it was imported.
        for module in ("utils.attacks.projected_gradient", "utils.training.noisy"):
            if stop_at:
                stack.enter_context(mock.patch(f"{module}.pgd", stopping_pgd))
        try:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        except SystemExit as end:
            status = end.code or 0
    return SimpleNamespace(status=status, out=out.getvalue(), err=err.getvalue())


def succeed(script: str, *words, **options) -> SimpleNamespace:
    result = run_script(script, *words, **options)
    assert result.status == 0, result.err + result.out
    return result


def tensors(path) -> dict:
    """The state dict of a model file."""
    return torch.load(path, weights_only=True)["state_dict"]


def same_bits(one, other) -> bool:
    """Whether two model files hold the same tensors, bit for bit."""
    one, other = tensors(one), tensors(other)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(autouse=True)
def _denormal_numbers():
    """A script flushes them in its process, which here is everybody's; hypothesis needs them."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def chain(tmp_path_factory) -> Path:
    """A folder with standard/, estimators/ and namid/, trained in a chain on a few digits."""
    root = tmp_path_factory.mktemp("chain")
    succeed("train_standard.py", *SMALL, "--epochs", 4, "--model-dir", root / "standard")
    succeed(
        "train_MI_estimator.py",
        *ESTIMATOR,
        "--pre-target",
        root / "standard/best_model.pth",
        "--model-dir",
        root / "estimators",
    )
    succeed(
        "train_MIAT.py",
        *SMALL,
        "--epochs",
        4,
        "--warmup-epochs",
        2,
        "--alpha",
        0.1,
        "--estimator-dir",
        root / "estimators",
        "--model-dir",
        root / "namid",
    )
    return root


def results(path) -> dict:
    """Read a results file."""
    return json.loads(path.read_text())


def evaluate(chain, tmp_path, *words, name="results.json", run="standard", **options):
    """Run test_comparison.py on 60 digits, and read its results file."""
    result = succeed(
        "test_comparison.py",
        "--model-dir",
        chain / run,
        "--limit-test",
        60,
        "--batch-size",
        20,
        "--output",
        tmp_path / name,
        *words,
        **options,
    )
    return result, results(tmp_path / name)


def metrics(folder) -> list[dict]:
    """Read the rows of a run's log."""
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))
