"""Manage a run's folder: its settings, its log, and the state from which it resumes.

@settings.json   every option and where its value comes from, the command, versions, git commit,
@                fingerprints of the data and of the files read
@metrics.csv     a row per epoch
@last.ckpt       everything needed to resume
"""

import contextlib
import json
import shlex
import sys
import time
from pathlib import Path

from common.errors import InputError
from common.files import file_hash, make_folder, read_file, write_csv, write_file, write_text
from common.locks import locked
from utils import devices, distributed, provenance
from utils.settings.command_line import flat, origin, translated
from utils.training.tracking import SENT

# Options that name places, presets and hardware, not what is computed: a run may resume with
# others. The precision that was used is compared, not the --precision that was asked for.
FREE = {"preset", "model_dir", "data_dir", "estimator_dir"}
FREE |= {"restart", "device", "compile", "precision", "log"}
OURS = (
    *("settings.json", "metrics.csv", "last.ckpt", "curves.png", "results.json", SENT),
    *("best_model.pth", "last_model.pth", "target_model.pth"),
    *("local_model.pth", "global_model.pth"),
    *("local_n_model.pth", "global_n_model.pth", "local_a_model.pth", "global_a_model.pth"),
)


class RunFolder:
    """Open the folder of --model-dir for a run and lock it until `close` or the end of the `with`
    block.

    Only the first of several processes writes in it. `checkpoint` is the state of the run that the
    folder holds, None for a new run.

    Args:
        stage: the script's name without ".py".
        settings: its options.
        compute: device and precision.
        fingerprint: the data set's.
        inputs: {option: path} of the model files that the run reads.

    Raises InputError when another process trains in the folder, when it cannot be written, or when
    it holds a run of another stage, or with other settings, data or files. Nothing in the folder
    changes then.
    """

    def __init__(
        self,
        stage: str,
        settings,
        compute: devices.Compute,
        fingerprint: str,
        inputs: dict | None = None,
    ):
        self.path = Path(settings.run.model_dir)
        with contextlib.ExitStack() as lock:
            if distributed.first():
                self._lock(lock)
                make_folder(self.path, "--model-dir")
            self._open(stage, settings, compute, fingerprint, inputs)
            self._locked = lock.pop_all()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def close(self) -> None:
        """Unlock the folder."""
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

        with contextlib.suppress(OSError):  # make_folder says what is wrong
            self.path.mkdir(parents=True, exist_ok=True)
        if self.path.is_dir():
            lock.enter_context(locked(self.path, busy))

    def _open(
        self, stage: str, settings, compute: devices.Compute, fingerprint: str, inputs: dict | None
    ) -> None:
        """Find the run's checkpoint, or write the settings of a new run."""
        if distributed.first():
            for name in OURS if settings.run.restart else ():
                (self.path / name).unlink(missing_ok=True)
        else:
            distributed.wait()  # until the first process has made the folder ready
        self.options, self.defaults = flat(settings), flat(type(settings)())
        facts = {
            "stage": stage,
            "data_fingerprint": fingerprint,
            "precision": compute.precision,
            **{f"{name}_hash": file_hash(file) for name, file in (inputs or {}).items()},
        }
        computed = {
            name: value
            for name, value in self.options.items()
            if name not in FREE and name not in (inputs or {})
        }
        self.identity = json.loads(json.dumps(facts | computed))
        self.checkpoint = self._resume()
        if self.checkpoint is None and distributed.first():
            facts["precision_used"] = facts.pop("precision")
            self._write_settings(facts, settings, compute)
        if distributed.first():
            distributed.wait()

    def _write_settings(self, facts: dict, settings, compute: devices.Compute) -> None:
        """Write settings.json."""
        content = {
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
        write_text(self.path / "settings.json", json.dumps(content, indent=1) + "\n")

    def _resume(self) -> dict | None:
        """Read last.ckpt; None where there is none. Raises InputError for a different run."""
        if not (self.path / "last.ckpt").exists():
            return None
        checkpoint, now = read_file(self.path / "last.ckpt"), self.identity
        # A run from before an option existed did what the option's default does.
        before = {name: value for name, value in self.defaults.items() if name in now}
        before |= translated(checkpoint.get("identity", {}))
        if before["precision"] == "auto":  # older runs compared the option, not what was used
            before["precision"] = self._precision_used() or now["precision"]
        other = [name for name in now | before if now.get(name) != before.get(name)]
        if other:
            named = [f"{name} {before.get(name)} (now {now.get(name)})" for name in other[:4]]
            more = f" and {len(other) - 4} more" if len(other) > 4 else ""
            raise InputError(
                f"--model-dir {self.path}: holds a run with other settings: {', '.join(named)}"
                f"{more}; use another folder, the same settings, or --restart to delete that run"
            )
        return checkpoint

    def _precision_used(self) -> str | None:
        """Read from settings.json the precision of the run's networks; None where it has none."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            return json.loads((self.path / "settings.json").read_text()).get("precision_used")
        return None

    def save(self, **content) -> None:
        """Write last.ckpt, in the first process."""
        if distributed.first():
            write_file({"identity": self.identity, **content}, self.path / "last.ckpt")

    def write_metrics(self, rows: list[dict]) -> None:
        """Write metrics.csv, in the first process."""
        if rows and distributed.first():
            write_csv(self.path / "metrics.csv", rows)


def read_settings(folder: Path) -> dict:
    """Read settings.json of a run's folder. Raises InputError where the folder holds no run."""
    try:
        settings = json.loads((folder / "settings.json").read_text())
        return settings | {"options": dict(settings["options"])}
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            f"--model-dir {folder}: holds no run (no readable settings.json); "
            "name the folder of a training stage, or a model file with --model"
        ) from None
