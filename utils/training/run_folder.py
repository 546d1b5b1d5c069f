"""Manage a run's folder: its settings, its log, and the state from which it resumes.

@settings.json   every option and where its value comes from, the command, versions, git commit,
@                fingerprints of the data and of the files read
@metrics.csv     a row per epoch
@last.ckpt       everything needed to resume
@previous.ckpt   the same, one save before
"""

import contextlib
import json
import os
import shlex
import sys
import time
from pathlib import Path

from common.errors import Finished, InputError
from common.files import file_hash, make_folder, read_file, write_csv, write_file, write_text
from common.locks import locked
from common.writing import second_name
from utils import devices, distributed, provenance
from utils.settings.command_line import flat, origin, translated
from utils.training import replaced, settings_file
from utils.training.checkpoint import check_identity
from utils.training.run_files import BEST, EPOCH, LAST, PREVIOUS, SETTINGS, run_files

# Options that name places, presets and hardware, not what is computed: a run may resume with
# others. The precision that was used is compared, not the --precision that was asked for.
FREE = {"preset", "model_dir", "data_dir", "estimator_dir"}
FREE |= {"restart", "device", "compile", "precision", "checkpoint_every", "log"}


class RunFolder:
    """Open the folder of --model-dir for a run and lock it until `close` or the end of the `with`
    block.

    Only the first of several processes writes in it. `checkpoint` is the state of the run that the
    folder holds, None for a new run. Nothing in the folder changes before `begin`, which is to be
    called once all that the run needs is read and checked. A run that --restart replaces is set
    aside then, and deleted when the new run saves its first state; where the new one ends before,
    it is given back.

    Args:
        stage: the script's name without ".py".
        settings: its options.
        compute: device and precision.
        fingerprint: the data set's.
        inputs: {option: path} of the model files that the run reads.

    Raises InputError when another process trains in the folder, when it cannot be written, or when
    it holds a run of another stage, or with other settings, data or files, or files of no run; and
    Finished when it holds the finished run, without its checkpoints.
    """

    def __init__(
        self,
        stage: str,
        settings,
        compute: devices.Compute,
        fingerprint: str,
        inputs: dict | None = None,
    ):
        self.path, self._sound = Path(settings.run.model_dir), True
        with contextlib.ExitStack() as lock:
            if distributed.first():
                self._lock(lock)
                make_folder(self.path, "--model-dir")
                if replaced.recover(self.path, LAST, run_files(self.path)):
                    print(f"{self.path}: the run that --restart had set aside is back")
            distributed.wait()  # until the first process has made the folder ready
            self._open(stage, settings, compute, fingerprint, inputs or {})
            self._locked = lock.pop_all()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def close(self) -> None:
        """Give back a run that was not replaced, and unlock the folder."""
        self._locked.close()

    def _lock(self, lock: contextlib.ExitStack) -> None:
        """Lock the folder before anything in it is read or written; InputError where another
        process has it.
        """

        def busy():
            raise InputError(
                f"--model-dir {self.path}: another process trains in it; "
                "wait for it, or name another folder"
            )

        made = not self.path.exists()
        with contextlib.suppress(OSError):  # make_folder says what is wrong
            self.path.mkdir(parents=True, exist_ok=True)
        if self.path.is_dir():
            self._handle = lock.enter_context(locked(self.path, busy))
            lock.callback(self._leave, made)

    def _leave(self, made: bool) -> None:
        """Give back a run that was set aside; remove the folder if it was made for nothing."""
        if replaced.is_aside(self.path):
            replaced.give_back(self.path, run_files(self.path))
            print(f"{self.path}: no state was saved; the run of before is back", flush=True)
        if made:
            with contextlib.suppress(OSError):  # it holds something
                self.path.rmdir()

    def _open(
        self, stage: str, settings, compute: devices.Compute, fingerprint: str, inputs: dict
    ) -> None:
        """Find the run's checkpoint, or prepare the settings of a new run."""
        self._check_files()
        self.options, self.defaults = flat(settings), flat(type(settings)())
        facts = {
            "stage": stage,
            "data_fingerprint": fingerprint,
            "precision": compute.precision,
            **{f"{name}_hash": file_hash(file) for name, file in inputs.items()},
        }
        computed = {
            name: value
            for name, value in self.options.items()
            if name not in FREE and name not in inputs
        }
        self.identity = json.loads(json.dumps(facts | computed))
        self.checkpoint = None if settings.run.restart else self._resume()
        self._check_inputs(inputs)
        if self.checkpoint is None and distributed.first():
            facts["precision_used"] = facts.pop("precision")
            self._settings = self._described(facts, settings, compute)

    def _check_files(self) -> None:
        """Refuse a folder whose files are of no run."""
        names = run_files(self.path)
        for name in names:
            if not (self.path / name).is_file():
                raise InputError(
                    f"--model-dir {self.path}: {name} in it is no file; move it away, or name "
                    "another folder"
                )
        if names and LAST not in names and PREVIOUS not in names and not self._written():
            raise InputError(
                f"--model-dir {self.path}: has {names[0]}, but holds no run (no readable "
                "settings.json); name another folder, or move its files away"
            )

    def _check_inputs(self, inputs: dict) -> None:
        """Refuse to replace a file that the run reads."""
        names = run_files(self.path)
        for option, path in inputs.items():
            if path.name in names and path.resolve() == (self.path / path.name).resolve():
                raise InputError(
                    f"--{option.replace('_', '-')} {path}: is a file of --model-dir, which this "
                    "run replaces; name another folder"
                )

    def _described(self, facts: dict, settings, compute: devices.Compute) -> dict:
        """Return the content of settings.json."""
        return {
            **facts,
            "options": self.options,
            "origin": origin(settings, sys.argv[1:]),
            "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
            "hardware": provenance.hardware(compute.device),
            "versions": provenance.versions(),
            "git_commit": provenance.git_commit(),
            "identity": self.identity,
        }

    def begin(self) -> None:
        """Set the run that is replaced aside, and write the settings of a new run."""
        if self.checkpoint is None and distributed.first():
            if names := run_files(self.path):
                replaced.set_aside(self.path, names)
            write_text(self.path / SETTINGS, json.dumps(self._settings, indent=1) + "\n")

    def _resume(self) -> dict | None:
        """Read the last checkpoint; None where there is none. Raises InputError for a different
        run, and Finished for one that has ended and whose checkpoints were deleted.
        """
        if not any((self.path / name).exists() for name in (LAST, PREVIOUS)):
            self._check_without_checkpoint()
            return None
        try:
            checkpoint = self._read(LAST)
        except InputError as error:
            return self.before_last(error)
        self._compare(checkpoint.get("identity", {}))
        return checkpoint

    def _read(self, name: str) -> dict:
        """Read a checkpoint whose identity can be compared; InputError for any other file."""
        checkpoint = read_file(self.path / name)
        check_identity(checkpoint, self.path / name)
        return checkpoint

    def before_last(self, error: InputError) -> dict:
        """Return the checkpoint before the last, and say so aloud.

        error: what the check of the last one found; raised again where there is none before it.
        """
        if not self._sound:  # the one before the last is in use already
            raise error
        try:
            checkpoint = self._read(PREVIOUS)
        except InputError:
            raise error from None
        self._compare(checkpoint.get("identity", {}))
        self._sound = False
        print(f"warning: {error}; {PREVIOUS}, the checkpoint before it, is used", flush=True)
        return checkpoint

    @property
    def checkpoint_file(self) -> Path:
        """Return the file that `checkpoint`, or `before_last`, was read from."""
        return self.path / (LAST if self._sound else PREVIOUS)

    def _check_without_checkpoint(self) -> None:
        """Refuse to train over the models of a run whose checkpoints were deleted."""
        names = run_files(self.path)
        models = [name for name in names if name.endswith("_model.pth")]
        if not models:
            return
        written = self._written()
        self._compare(written.get("identity", {}))
        last = [name for name in models if name not in (*BEST, *filter(EPOCH.fullmatch, models))]
        rows = 0
        with contextlib.suppress(OSError, ValueError):
            rows = len((self.path / "metrics.csv").read_text().splitlines()) - 1
        if last and rows == self.options["epochs"]:
            raise Finished(f"{self.path}: already finished after epoch {rows}; it has no {LAST}")

    def _compare(self, identity: dict) -> None:
        """Raise InputError that lists what differs from the run of an identity."""
        now = self.identity
        # A run from before an option existed did what the option's default does.
        before = {name: value for name, value in self.defaults.items() if name in now}
        before |= translated(identity)
        if before["precision"] == "auto":  # older runs compared the option, not what was used
            before["precision"] = self._written().get("precision_used") or now["precision"]
        other = [name for name in now | before if now.get(name) != before.get(name)]
        if other:
            named = [f"{name} {before.get(name)} (now {now.get(name)})" for name in other[:4]]
            more = f" and {len(other) - 4} more" if len(other) > 4 else ""
            raise InputError(
                f"--model-dir {self.path}: holds a run with other settings: {', '.join(named)}"
                f"{more}; use another folder, the same settings, or --restart to delete that run"
            )

    def _written(self) -> dict:
        """Read settings.json; {} where it is not what a run writes."""
        with contextlib.suppress(InputError):
            return settings_file.read(self.path)
        return {}

    def check_place(self) -> None:
        """Raise InputError where the folder was moved or replaced since it was locked."""
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(self._handle), os.stat(self.path)):
                return
        raise InputError(
            f"--model-dir {self.path}: was moved or replaced while the run wrote in it; "
            "move it back, and give the same command"
        )

    def save(self, **content) -> None:
        """Write last.ckpt, in the first process, and keep the one before as previous.ckpt."""
        if not distributed.first():
            return
        self.check_place()
        if self._sound:
            second_name(self.path / LAST, self.path / PREVIOUS)
        write_file({"identity": self.identity, **content}, self.path / LAST)
        self._sound = True
        replaced.forget(self.path)

    def write_metrics(self, rows: list[dict]) -> None:
        """Write metrics.csv, in the first process."""
        if rows and distributed.first():
            write_csv(self.path / "metrics.csv", rows)
