"""--log: the rows of metrics.csv in real event files of TensorBoard, and what wandb and trackio
are sent.

The last two are stood in for by a module of the same functions: both would need their servers.
"""

import json
import os
import signal
import sys
from types import SimpleNamespace
from unittest import mock

import pytest
from conftest import DATA, metrics, run_script, succeed

from utils.attacks.projected_gradient import pgd
from utils.training import tracking

TINY = [*DATA, *"--defense natural --width 4 --batch-size 64 --holdout 30".split()]


def numbers(row: dict) -> dict[str, float]:
    return {name: float(value) for name, value in row.items() if name != "epoch" and value}


def events(folder) -> dict[int, dict[str, float]]:
    """Read all event files of a folder with TensorBoard's own reader: {step: {tag: value}}."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = {}
    for file in folder.glob("events.out.tfevents.*"):
        read = EventAccumulator(str(file)).Reload()
        for tag in read.Tags()["scalars"]:
            for event in read.Scalars(tag):
                assert tag not in found.setdefault(event.step, {}), "shown twice"
                found[event.step][tag] = event.value
    return found


def stopping(*arguments, **settings):
    """Attack as the evaluation after an epoch does, and stop the run after that epoch."""
    os.kill(os.getpid(), signal.SIGTERM)
    return pgd(*arguments, **settings)


def test_tensorboard_shows_the_rows_once_also_after_a_resume(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is of requirements-dev.txt")
    words = [*TINY, "--log", "tensorboard", "--epochs", 3, "--model-dir", tmp_path]
    with mock.patch("utils.training.held_out.pgd", stopping):
        assert run_script("train_standard.py", *words).status == 143
    assert list(events(tmp_path / "tensorboard")) == [1]
    succeed("train_standard.py", *words)
    rows = metrics(tmp_path)
    found = events(tmp_path / "tensorboard")
    assert list(found) == [1, 2, 3] and len(rows) == 3
    for row in rows:
        shown, logged = found[int(row["epoch"])], numbers(row)
        assert shown.keys() == logged.keys()
        for name, value in logged.items():
            assert shown[name] == pytest.approx(value, rel=1e-5)
    succeed("train_standard.py", *words)  # finished: nothing is shown twice
    assert list(events(tmp_path / "tensorboard")) == [1, 2, 3]


class Package:
    """Stand in for wandb or trackio: note what it is called with."""

    def __init__(self):
        self.begun, self.rows, self.ended = [], [], 0

    def init(self, **where):
        self.begun.append(where)

    def log(self, values, step):
        self.rows.append((step, values))

    def finish(self):
        self.ended += 1


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_package_is_sent_each_row_once(name, tmp_path, monkeypatch):
    package = Package()
    monkeypatch.setitem(sys.modules, name, package)
    words = [*TINY, "--log", name, "--epochs", 2, "--model-dir", tmp_path / "run"]
    succeed("train_standard.py", *words)
    rows = metrics(tmp_path / "run")
    assert [step for step, _ in package.rows] == [1, 2]
    for row, (_, sent) in zip(rows, package.rows):
        assert sent == pytest.approx(numbers(row), rel=1e-5)
    succeed("train_standard.py", *words)  # finished: resumed, and sent nothing
    assert len(package.rows) == 2 and package.ended == 2
    first, again = package.begun
    assert first == again and first["project"] == "namid" and first["resume"] == "allow"
    assert first["config"]["epochs"] == 2
    known = json.loads((tmp_path / "run" / "tracked.json").read_text())[name]
    assert known["epochs"] == 2 and known["id"] in first.get("id", first["name"])
    succeed("train_standard.py", *words, "--restart")  # another run
    assert package.begun[-1] != first and len(package.rows) == 4
    (tmp_path / "run" / "tracked.json").write_text(f'{{"{name}": 3}}')
    refused = run_script("train_standard.py", *words)
    assert refused.status == 2 and f"tracked.json: {name} is 3" in refused.err


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_a_missing_package_is_named_before_anything_is_written(name, tmp_path, monkeypatch):
    for module in (name, "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, module, None)
    words = [*TINY, "--log", name, "--epochs", 1, "--model-dir", tmp_path / "run"]
    refused = run_script("train_standard.py", *words)
    assert refused.status == 2 and refused.err.count("\n") == 1
    assert (
        f"--log {name}: cannot be imported" in refused.err and f"pip install {name}" in refused.err
    )
    assert not (tmp_path / "run").exists()


def test_no_package_is_imported_without_the_option(tmp_path, monkeypatch):
    """Importing any of them would fail here."""
    for module in ("tensorboard", "wandb", "trackio", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, module, None)
    succeed("train_standard.py", *TINY, "--epochs", 1, "--model-dir", tmp_path)


def test_only_the_first_process_shows_rows(monkeypatch):
    monkeypatch.setattr(tracking, "distributed", SimpleNamespace(first=lambda: False))
    assert type(tracking.open_tracker("wandb")) is tracking.Tracker
