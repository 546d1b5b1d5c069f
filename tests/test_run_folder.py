"""A run's folder: a refused start changes nothing, and a finished run is lost to nobody but its
owner."""

import errno
import itertools
import os
import shutil
import signal
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from conftest import ESTIMATOR, SMALL, forked, metrics, run_script, same_bits, succeed

from utils.training import replaced

TRAIN = ("train_standard.py", *SMALL, "--width", 4, "--limit-train", 200, "--model-dir")
FILES = ["best_model.pth", "curves.png", "last.ckpt", "last_model.pth", "metrics.csv"]
FILES += ["previous.ckpt", "settings.json"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A finished run of two epochs."""
    folder = tmp_path_factory.mktemp("finished")
    succeed(*TRAIN, folder, "--epochs", 2)
    assert sorted(os.listdir(folder)) == FILES
    return folder


@pytest.fixture
def run(finished, tmp_path) -> Path:
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def content(folder: Path) -> dict:
    """Read all files of a folder, those in folders as well."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(*words) -> str:
    result = run_script(*words)
    assert result.status == 2 and result.err.count("\n") == 1, (result.status, result.err)
    return result.err


@pytest.mark.parametrize(
    "words, said",
    [
        (["--epsilon", 0.1], "epsilon"),
        (["--norm", "l2"], "norm"),
        (["--pre-target", "{tmp}/damaged.pth"], "damaged.pth"),
        (["--arch", "vgg16"], "vgg16"),
        (["--pre-target", "{run}/local_n_model.pth"], "local_n_model.pth"),
    ],
)
def test_a_refused_restart_loses_nothing(words, said, chain, tmp_path):
    """Each is refused by what is read after the folder is opened."""
    run = tmp_path / "run"
    shutil.copytree(chain / "estimators", run)
    (tmp_path / "damaged.pth").write_bytes(b"PK")
    words = [str(word).format(tmp=tmp_path, run=run) for word in words]
    before = content(run)
    target = ["--pre-target", chain / "standard/best_model.pth"]
    command = ["train_MI_estimator.py", *ESTIMATOR, *target, *words]
    assert said in refused(*command, "--model-dir", run, "--restart")
    assert content(run) == before
    assert said in refused(*command, "--model-dir", tmp_path / "new")  # and writes nothing
    assert not (tmp_path / "new").exists()


def test_a_restart_that_ends_before_its_first_state_gives_the_run_back(run):
    """By an error, a divergence, a full disk or a second signal; with a state, the old run is
    gone."""
    before, words = content(run), (*TRAIN, run, "--epochs", 3, "--restart")
    with mock.patch("utils.training.held_out.pgd", mock.Mock(side_effect=KeyboardInterrupt)):
        result = run_script(*words)
    assert result.status == 130 and content(run) == before
    assert f"{run}: no state was saved; the run of before is back" in result.out
    assert run_script(*words, "--lr", 1e30).status == 3 and content(run) == before
    full = OSError(errno.ENOSPC, "No space left on device")
    with mock.patch("os.fsync", mock.Mock(side_effect=full)):
        assert "No space left on device" in refused(*words)
    assert content(run) == before
    result = run_script(*words, stop_at=2)
    assert result.status == 143 and sorted(os.listdir(run)) == ["last.ckpt", "settings.json"]


@pytest.mark.parametrize("moment", ["rename", "mkdir", "unlink", "rmdir"])
def test_a_restart_that_is_killed_leaves_one_run_whole(moment, run):
    """Before the first state the old run is given back; afterwards the new one resumes."""

    def kill_at(call, number):
        true, calls = getattr(os, call), iter(range(1, 10**9))

        def killing(*arguments, **options):
            if replaced.REPLACED in str(arguments) and next(calls) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return true(*arguments, **options)

        return mock.patch(f"os.{call}", killing)

    def killed(call, number):
        with kill_at(call, number):
            run_script(*TRAIN, run, "--epochs", 1, "--restart")

    before, is_new = content(run), moment in ("unlink", "rmdir")
    for number in {"rename": (1, 4, 8), "unlink": (1, 5)}.get(moment, (1,)):
        process = forked(killed, moment, number)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        if is_new:
            assert "already finished after epoch 1" in succeed(*TRAIN, run, "--epochs", 1).out
            break
        assert "already finished after epoch 2" in succeed(*TRAIN, run, "--epochs", 2).out
        assert content(run).keys() == before.keys()
    assert len(metrics(run)) == (1 if is_new else 2)
    assert not [name for name in os.listdir(run) if name.startswith(".replaced")]


def test_a_finished_run_without_its_checkpoints_is_kept(run):
    for name in ("last.ckpt", "previous.ckpt"):
        (run / name).unlink()
    before = content(run)
    assert "lr 0.05 (now 0.01)" in refused(*TRAIN, run, "--epochs", 2, "--lr", 0.01)
    again = succeed(*TRAIN, run, "--epochs", 2)
    assert "already finished after epoch 2; it has no last.ckpt" in again.out
    assert content(run) == before


def test_files_of_no_run_are_kept(run):
    """Also with --restart: a model, a settings.json of something else, results."""
    shutil.copy(run / "best_model.pth", run.parent / "best_model.pth")
    shutil.rmtree(run)
    for name in ("best_model.pth", "settings.json", "results.json"):
        folder = run.parent / f"has-{name}"
        folder.mkdir()
        if name == "best_model.pth":
            shutil.copy(run.parent / name, folder)
        else:
            (folder / name).write_text('{"editor.fontSize": 12}')
        before = content(folder)
        for more in ([], ["--restart"]):
            assert f"has {name}, but holds no run" in refused(*TRAIN, folder, "--epochs", 1, *more)
        assert content(folder) == before


@pytest.mark.parametrize("name", ["metrics.csv", "settings.json", "best_model.pth", "curves.png"])
def test_a_folder_in_place_of_a_file_is_named_before_training(name, tmp_path):
    (tmp_path / name).mkdir()
    assert f"{name} in it is no file" in refused(*TRAIN, tmp_path, "--epochs", 1)
    assert os.listdir(tmp_path) == [name]


def test_a_run_does_not_replace_what_it_reads(run):
    before = content(run)
    words = (*TRAIN, run, "--epochs", 2, "--init", run / "best_model.pth", "--restart")
    assert "--init" in refused(*words) and content(run) == before


@pytest.mark.parametrize("how", ["moved", "replaced", "removed"])
def test_a_folder_that_is_moved_under_a_run_is_named(how, tmp_path):
    def move(*_):
        os.rename(tmp_path / "run", tmp_path / "other")
        if how == "replaced":
            (tmp_path / "run").mkdir()
        if how == "removed":
            shutil.rmtree(tmp_path / "other")
        return {}

    with mock.patch("utils.training.held_out.held_out", move):
        assert "was moved or replaced" in refused(*TRAIN, tmp_path / "run", "--epochs", 2)
    assert not (tmp_path / "run").exists() or not os.listdir(tmp_path / "run")


def test_a_full_disk_in_training_keeps_the_last_state(run, finished):
    """The run ends in one line that names the file; with space again it ends with the same bits."""
    shutil.rmtree(run)
    saves, true = [], torch.save

    def save(content, file):
        if "epoch" in content and saves.append(content["epoch"]) is None and len(saves) == 2:
            with mock.patch("os.write", mock.Mock(side_effect=OSError(errno.ENOSPC, "No space"))):
                return true(content, file)
        return true(content, file)

    with mock.patch("torch.save", save):
        said = refused(*TRAIN, run, "--epochs", 2)
    assert f"{run / 'last.ckpt'}: cannot be written (No space)" in said
    assert torch.load(run / "last.ckpt", weights_only=True)["epoch"] == 1
    assert not [name for name in os.listdir(run) if name.endswith(".part")]
    succeed(*TRAIN, run, "--epochs", 2)
    assert same_bits(run / "last_model.pth", finished / "last_model.pth")


@pytest.mark.parametrize("damage", [b"PK\x03\x04", None])
def test_the_checkpoint_before_the_last_is_used_and_says_so(damage, run, finished):
    """It has the state after epoch 1, and the run ends with the same bits."""
    (run / "last.ckpt").unlink()
    if damage:
        (run / "last.ckpt").write_bytes(damage)
    again = succeed(*TRAIN, run, "--epochs", 2)
    assert "previous.ckpt, the checkpoint before it, is used" in again.out
    assert "last.ckpt" in again.out and "resumed after epoch 1" in again.out
    assert same_bits(run / "last_model.pth", finished / "last_model.pth")
    saved = [
        torch.load(run / name, weights_only=True)["epoch"]
        for name in ("last.ckpt", "previous.ckpt")
    ]
    assert saved == [2, 1]  # the damaged one has replaced nothing
    for name in ("last.ckpt", "previous.ckpt"):
        (run / name).write_bytes(b"PK")
    assert "last.ckpt" in refused(*TRAIN, run, "--epochs", 2)
    assert "epochs 2 (now 3)" not in refused(*TRAIN, run, "--epochs", 3)


def test_an_error_names_the_checkpoint_that_was_read(run):
    (run / "last.ckpt").write_bytes(b"PK")
    saved = torch.load(run / "previous.ckpt", weights_only=True)
    torch.save(saved | {"epoch": 10**9}, run / "previous.ckpt")
    assert "previous.ckpt: epoch is 1000000000" in refused(*TRAIN, run, "--epochs", 2)


@pytest.mark.parametrize(
    "minutes, expected", [(10, []), (1.5, [3]), (1, [2, 4]), (0.5, [1, 2, 3, 4, 5])]
)
def test_a_checkpoint_every_so_many_minutes(minutes, expected, tmp_path):
    """On a clock by which each of the 5 steps of an epoch takes half a minute."""
    clock = SimpleNamespace(monotonic=partial(next, itertools.count(0, 30)))
    saved = []

    def save(folder, **content):
        saved.append((content["epoch"], content["index"]))

    words = (*TRAIN, tmp_path, "--epochs", 1, "--batch-size", 32, "--checkpoint-every")
    with (
        mock.patch("utils.training.run_folder.RunFolder.save", save),
        mock.patch("utils.training.loop.time", clock),
    ):
        succeed(*words, minutes)
    assert saved == [*((0, index) for index in expected), (1, 0)]
    assert "--checkpoint-every" in refused(*words, 0)
