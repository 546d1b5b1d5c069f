"""Test whether a node's files are complete, and not older than the files they were made of."""

from pathlib import Path

from common.errors import InputError
from common.schema import TEXT, fault
from reproduction.now import inputs, options, read
from utils.evaluation import stored
from utils.mi.names import estimator_files
from utils.training import settings_file


def complete(node) -> bool:
    """Return whether all files of a node exist and are complete."""
    if not all(path.is_file() for path in node.outputs):
        return False
    if node.analyzes:
        return True
    if node.trains:
        written = read(node.folder / settings_file.NAME)
        return fault(written, settings_file.SETTINGS | {"command": TEXT}) is None
    results = read(node.outputs[-1])
    if not node.attacks:
        return isinstance(results.get(node.key), (dict, list))
    half_saved = node.outputs[0].with_name(f"{node.outputs[0].name}.parts").exists()
    return not half_saved and _evaluated(results, node.attacks)


def _evaluated(results: dict, attacks: tuple[str, ...]) -> bool:
    """Return whether an evaluation has all rows, and the warnings, which it writes last."""
    try:
        found = stored.rows(results)
        rows = [found[name] for name in attacks]
        whole = all(len(row["outcomes"]) == results["n"] for row in rows)
        closed = isinstance(results["warnings"], list) and "worst_case" in results
        closed = closed and all("warnings" in row for row in rows if "made" in row)
        judged = set((results["worst_case"] or {}).get("attacks", ()))
        return whole and closed and (len(attacks) == 1 or judged >= set(attacks))
    except (KeyError, TypeError, AttributeError, InputError):
        return False


def by_date(node, graph) -> bool:
    """Return whether a file that was read is younger than the results.

    Only files without a hash in the results are compared by date.
    """
    if not all(path.is_file() for path in node.outputs):
        return False
    made = min(path.stat().st_mtime_ns for path in node.outputs)
    return any(path.is_file() and path.stat().st_mtime_ns > made for path in _unhashed(node, graph))


def _unhashed(node, graph) -> list[Path]:
    """Return the files that a node reads and whose hashes its results do not have."""
    if node.trains:
        written = read(node.folder / "settings.json")
        return [path for name, path in inputs(node).items() if not written.get(f"{name}_hash")]
    if node.analyzes:
        return [graph.product(each) for each in node.needs]
    results = read(node.outputs[-1])
    if node.attacks:
        named = ("model_hash", "surrogate_hash")  # estimators have theirs in the rows
        keys = dict(zip(named if "--surrogate" in node.words else named[:1], node.needs))
        return [graph.product(each) for key, each in keys.items() if not results.get(key)]
    if node.key != "values":  # has the hashes of the networks that it read
        return []
    given = options(node.words)
    found = [] if results.get("model_hash") else [Path(given["--model"])]
    found += [] if results.get("adv_hash") else [Path(given["--adv"])]
    files = estimator_files(Path(given["--estimator-dir"])).values()
    return found + ([] if results.get("estimator_hashes") else list(files))
