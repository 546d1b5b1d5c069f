"""Read settings.json of a run's folder, which `utils.training.run_folder` writes; without torch."""

from pathlib import Path

from common.errors import InputError
from common.json_files import read_json
from common.schema import TEXT, OrNone, number, whole

NAME = "settings.json"
# The options that are used when a run is read again.
OPTIONS = {
    **dict.fromkeys(("dataset?", "norm?", "data_dir?", "arch?"), OrNone(TEXT)),
    **dict.fromkeys(("limit_train?", "limit_test?", "width?"), OrNone(whole(1))),
    **{"holdout?": whole(0), "seed?": whole(), "epochs?": whole(0), "epsilon?": OrNone(number(0))},
}
FACTS = ("command?", "date?", "hardware?", "git_commit?", "precision_used?", "data_fingerprint?")
SETTINGS = {"options": OPTIONS, **dict.fromkeys(FACTS, OrNone(TEXT))}
REMEDY = "name the folder of a training stage, or a model file with --model"


def read(folder: Path, option: str = "--model-dir") -> dict:
    """Return the content of settings.json. Raises InputError where the folder holds no run."""
    try:
        return read_json(folder / NAME, SETTINGS, REMEDY)
    except InputError as error:
        why = str(error).removeprefix(f"{folder / NAME}: ").removesuffix(f"; {REMEDY}")
        raise InputError(
            f"{option} {folder}: holds no run (no readable settings.json: {why}); {REMEDY}"
        ) from None
