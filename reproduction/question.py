"""Compare a run's files with what its command would make today.

A run's files name their options, the hashes of the files that were read, and a fingerprint of the
data. `reason` compares these with what the run's command would read now, and says in words where
they differ. A value that cannot be compared (an old file that lacks a hash, data that are not
in --data-dir) counts as equal.
"""

import importlib
import json
import math
import shlex
from pathlib import Path

from reproduction.now import data_of, file_hash, inputs, options, read
from utils.attacks import registry
from utils.mi.names import adaptive_terms, estimator_files
from utils.settings.options import EPSILON
from utils.settings.values import fraction

# Options of the trainings that are paths: they do not change what is trained.
PATHS = ("--data-dir", "--model-dir", "--estimator-dir", "--pre-target", "--init", "--encoder")
PATHS += ("--profile", "--model", "--output")  # the last two of measurements
# Facts of an evaluation that no command of a table asks for.
MORE = ("predictor", "samples", "attack_samples", "normalisation", "surrogate_normalisation")


def reason(graph, node) -> str | None:
    """Return in words why a node's files are not what its command would make; None if they are."""
    if node.analyzes:
        return None  # compared by date (finished.by_date)
    if node.trains:
        return _of_training(graph, node)
    if node.key == "quantities":
        return _of_profile(graph, node)
    return _of_results(graph, node) if node.key == "values" else _of_measurement(graph, node)


def without_paths(words: list[str]) -> list[str]:
    """Return a training's command without the options that are paths."""
    return [
        word
        for before, word in zip(["", *words], words)
        if word not in PATHS and before not in PATHS
    ]


def _command(written: dict) -> list[str] | None:
    """Return the command that a file names as words; None where it names none."""
    command = written.get("command")
    if not isinstance(command, str):  # shlex.split(None) would read the standard input
        return None
    try:
        return shlex.split(command)
    except ValueError:
        return None


def _of_measurement(graph, node) -> str | None:
    """Compare the options, the model and the data of a measurement with today's."""
    written, given = read(node.outputs[-1]), options(node.words)
    before, now = _command(written), node.words
    if before is None:
        return None
    before, now = ([" ", *words[_first_option(words) :]] for words in (before, now))
    if without_paths(before) != without_paths(now):
        return f"made by another command ({_difference(before, now)})"
    found = data_of(graph.experiment, given.get("--limit-train"), given.get("--limit-test"))
    if other := _other_data(written, found):
        return other
    model = file_hash(graph.product(node.needs[0]))
    if model and written.get("model_hash") != model:
        return f"made with model_hash {written.get('model_hash')} (now {model})"
    return None


def _first_option(words: list[str]) -> int:
    return next((i for i, word in enumerate(words) if word.startswith("--")), len(words))


def _of_training(graph, node) -> str | None:
    written, given = read(node.folder / "settings.json"), options(node.words)
    before = _command(written)
    if before is None:
        return None
    if without_paths(before) != without_paths(node.words):
        return f"made by another command ({_difference(before, node.words)})"
    found = data_of(graph.experiment, given.get("--limit-train"), given.get("--limit-test"))
    if other := _other_data(written, found):
        return other
    for name, path in inputs(node).items():
        key = f"{name}_hash"
        if written.get(key) and (now := file_hash(path)) and written[key] != now:
            return f"made from another {path.name} (hash {written[key]} then, {now} now)"
    return None


def _of_profile(graph, node) -> str | None:
    """Compare the networks of a profile, in the order of its command, with those of today."""
    networks = read(node.outputs[-1]).get("networks", {})
    entries = [each for of_role in networks.values() for each in of_role]
    for entry, name in zip(entries, node.needs):
        now = file_hash(graph.product(name))
        if now and entry.get("hash") != now:
            return f"made from another network of {name} (hash {entry.get('hash')}, {now} now)"
    return None


def _difference(before: list[str], now: list[str]) -> str:
    """Return the first option that two commands do not share, with its values."""
    one, other = options(without_paths(before)), options(without_paths(now))
    if before[:1] != now[:1]:
        return f"{' '.join(before[:1])} then, {now[0]} now"
    for name in {**one, **other}:
        if one.get(name) != other.get(name):
            return f"{name} {one.get(name, 'left out')} then, {other.get(name, 'left out')} now"
    return "its options in another order"


def _other_data(written: dict, found: tuple[str, int] | None) -> str | None:
    """Return in words that results are of other data than `found`; None where they are not."""
    before = written.get("data_fingerprint")
    if found and before != found[0]:
        return f"made from other data (fingerprint {before or 'unknown'} then, {found[0]} now)"
    return None


def expected(graph, node) -> dict:
    """Return what a node's command would write today about how its results are made."""
    return (_of_evaluation if node.attacks else _of_mi_values)(graph, node)


def _of_evaluation(graph, node) -> dict:
    """Return the identity of an evaluation, named as test_comparison.py names it in its results.

    Everything in a results file belongs to it except the keys in NOT_COMPARED
    (utils.evaluation.identity), the rows, and the architecture, which the model's hash fixes. A
    value is left out where it cannot be known: without the data, the fingerprint, and n where all
    images are asked for.
    """
    # Imported by name: this folder imports no script, but the defaults are written only there.
    script = importlib.import_module("test_comparison").Settings
    given, training = options(node.words), options(graph.nodes[node.needs[0]].words)
    ball = training | given  # the runs of the information bottleneck name their own budget
    norm = ball["--norm"]
    limit = given.get("--limit-test")
    product = graph.nodes[node.needs[0]].outputs[1 if given.get("--which") == "last" else 0]
    hashes = {"model_hash": file_hash(product)}
    if "--surrogate" in given:
        hashes["surrogate_hash"] = file_hash(graph.product(node.needs[1]))
    identity = {
        "surrogate_hash": None,
        "adv_hash": None,
        "factory": None,
        "dataset": graph.experiment.dataset,
        "split": script.split,
        "norm": norm,
        "epsilon": _budget(ball),
        "step_size": script.step_size,
        "released_settings": False,
        "rounded": script.round_uint8,
        "rules": None,
        "seed": int(given.get("--seed", script.seed)),
        "batch_size": int(given.get("--batch-size", script.batch_size)),
        "precision": given.get("--precision", script.precision),
    }
    if graph.nodes[node.needs[0]].words[0] != "train_VIB.py":  # the others are not stochastic
        identity |= dict.fromkeys(MORE)
    identity |= {name: known for name, known in hashes.items() if known}
    found = data_of(graph.experiment, training.get("--limit-train"), limit)
    identity |= {"data_fingerprint": found[0]} if found else {}
    return identity | images_asked(limit, found)


def images_asked(limit: str | None, found: tuple[str, int] | None) -> dict[str, int]:
    """Return {"n": the number of test images} by --limit-test or by the data; {} without both."""
    if limit:
        return {"n": int(limit)}
    return {"n": found[1]} if found else {}


def _of_mi_values(graph, node) -> dict:
    """Return what determines the MI values of a network, named as in reproduction.mi_values."""
    given = options(node.words)
    limit = given.get("--limit-test")
    script = importlib.import_module("reproduction.mi_values").Settings
    wanted = {
        "model_hash": file_hash(Path(given["--model"])),
        "dataset": given["--dataset"],
        "norm": given["--norm"],
        "epsilon": _budget(given),
        "batch_size": int(given.get("--batch-size", script.batch_size)),
    }
    files = estimator_files(Path(given["--estimator-dir"]))
    wanted |= {
        "adv_hash": file_hash(Path(given["--adv"])),
        "estimator_hashes": {name: file_hash(path) for name, path in files.items()},
    }
    found = data_of(graph.experiment, None, limit)
    wanted |= ({"data_fingerprint": found[0]} if found else {}) | images_asked(limit, found)
    return {name: now for name, now in wanted.items() if not _lacks(now)}


def _of_results(graph, node) -> str | None:
    results = read(node.outputs[-1])
    if not results:
        return None
    wanted = expected(graph, node)
    if other := _other(results, wanted):
        return other
    rows = results.get("attacks")
    for name in node.attacks if isinstance(rows, dict) else ():
        row = rows.get(name)
        own = _estimators_of(graph, node) if registry.parse(name).takes_estimators else {}
        if isinstance(row, dict) and (other := _other_settings(name, row, wanted, own)):
            return other
        if isinstance(row, dict) and "--save-adv" in node.words and _stopped_early(name, row):
            return f"{name}: its images stopped at the first that fooled the network"
    saved = results.get("saved")
    if "--save-adv" in node.words and isinstance(saved, dict) and saved.get("file_hash"):
        now = file_hash(node.outputs[0])
        if now and now != saved["file_hash"]:
            return f"{node.outputs[0].name} is not the file that the evaluation wrote"
    return None


def _stopped_early(name: str, row: dict) -> bool:
    """Return whether a row's images are the first fooling iterates, as in rows that do not say."""
    return registry.parse(name).leaves and row.get("stopped_early") is not False


def _other(results: dict, wanted: dict) -> str | None:
    """Return in words the first value of an identity that a results file contradicts.

    A file older than a name agrees with its empty value (None, False), and with every hash: the
    hashes that it lacks are compared by date (finished.by_date).
    """
    if "data_fingerprint" in wanted:
        found = _other_data(results, (wanted["data_fingerprint"], wanted.get("n", 0)))
        if found:
            return found
    for name, now in wanted.items():
        unknown = name not in results and (not now or name.endswith(("_hash", "_hashes")))
        if not unknown and not _same(results.get(name), now):
            return f"made with {name} {results.get(name)} (now {now})"
    return None


def _same(before, now) -> bool:
    if isinstance(now, float) and isinstance(before, (int, float)):
        return math.isclose(before, now, rel_tol=1e-9)
    return before == now and isinstance(before, bool) == isinstance(now, bool)


def _estimators_of(graph, node) -> dict:
    """Return the setting of an attack that knows the estimators: {"estimators": their hashes}.

    {} where one of their files does not exist yet.
    """
    given, training = options(node.words), options(graph.nodes[node.needs[0]].words)
    folder, stage = Path(given["--estimator-dir"]), ("mi_loss", "without")
    terms = adaptive_terms({name: training.get(f"--{name.replace('_', '-')}") for name in stage})
    files = estimator_files(folder, "".join(terms.values()))
    hashes = {option: file_hash(path) for option, path in files.items()}
    return {} if _lacks(hashes) else {"estimators": hashes}


def _other_settings(name: str, row: dict, wanted: dict, own: dict) -> str | None:
    """Return in words which of an attack's settings has changed since a row was made.

    own: settings that its command gives it.
    """
    if "settings" not in row:
        family = registry.parse(name).family
        unknown = "made before rows named their settings, and those of this attack have changed"
        return f"{name}: {unknown}" if family in registry.CHANGED else None
    before = row["settings"] if isinstance(row["settings"], dict) else {}
    now = registry.settings_of(name, wanted["norm"], wanted["epsilon"]) | own
    now = json.loads(json.dumps(now, default=str))
    if now.get("estimators", own) is None:  # not there yet
        now["estimators"] = before.get("estimators")
    for key in {**before, **now}:
        if not _same(before.get(key), now.get(key)):
            return f"{name}: made with {key} {before.get(key)} (now {now.get(key)})"
    return None


def _lacks(value) -> bool:
    """Return whether a hash is unknown because its file does not exist yet."""
    return value is None or (isinstance(value, dict) and None in value.values())


def _budget(given: dict[str, str]) -> float:
    """Return the budget of a command's options."""
    text = given.get("--epsilon")
    return fraction(text) if text else EPSILON[given["--norm"]]
