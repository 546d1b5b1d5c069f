"""Read the rows of a results file, of an earlier commit as well. Nothing here imports torch."""

import math

from common.errors import InputError
from common.schema import ANYTHING, FLOAT, TEXT, Each, Kind, OrNone, fault, number, whole

MADE = ("date", "command", "git_commit", "hardware", "versions")  # the metadata of a row
RENAMED = {"standing": "outcomes"}  # {key of a row in an earlier file: the key of today}


LETTERS = set("rwfo")
OUTCOMES = Kind(
    "a text of the letters r, w, f and o",
    lambda value: isinstance(value, str) and set(value) <= LETTERS,
)
ROW = {
    **{"outcomes": OUTCOMES, "norms?": [FLOAT], "warnings?": [TEXT]},
    **{"made?": OrNone(Each(ANYTHING))},
    **dict.fromkeys(("accuracy?", "accuracy_any_norm?", "accuracy_fresh?"), number(0, 100)),
    **dict.fromkeys(("n?", "correct?", "correct_any_norm?", "fresh_right?"), whole(0)),
    **dict.fromkeys(("forward_passes?", "backward_passes?", "attacked?"), whole(0)),
    **dict.fromkeys(("outside?", "perturbed?"), whole(0)),
    **{"seconds?": number(0), "kind?": TEXT, "parts?": Each(whole(0))},
}
CONTENT = {
    **{"attacks": Each(Each(ANYTHING)), "n?": whole(1), "warnings?": OrNone([TEXT])},
    **{"worst_case?": OrNone({"attacks?": [TEXT]}), "saved?": OrNone(Each(ANYTHING))},
}


def rows(content: dict) -> dict[str, dict]:
    """Return the rows of a results file, {name: row}, with the keys of today.

    Raises InputError that names the first field of another type, or the first accuracy or number of
    images that does not agree with the row's outcomes.

    Earlier files call `outcomes` `standing`, and keep metadata and warnings beside the rows: there
    a warning that begins with a row's name is about that row, any other about every row.
    """
    if why := fault(content, CONTENT):
        raise InputError(why)
    found = {name: _row(name, row, content) for name, row in content["attacks"].items()}
    if why := fault(found, Each(ROW), "attacks"):
        raise InputError(why)
    for name, row in found.items():
        _check_counts(row, f"attacks.{name}")
    if worst := content.get("worst_case"):
        _check_worst(worst, found)
    return found


def _check_counts(row: dict, where: str) -> None:
    """Raise InputError where the numbers of a row are not those of its outcomes."""
    n, robust = len(row["outcomes"]), row["outcomes"].count("r")
    correct = robust + row["outcomes"].count("o")
    right = {"n": n, "correct": correct, "correct_any_norm": robust}
    if n:
        right |= {"accuracy": 100 * correct / n, "accuracy_any_norm": 100 * robust / n}
    for name, value in right.items():
        if name in row and not math.isclose(row[name], value, rel_tol=1e-9):
            raise InputError(f"{where}.{name} is {row[name]}, but its outcomes give {value:.6g}")


def _check_worst(worst: dict, found: dict[str, dict]) -> None:
    """Raise InputError where the worst case is not that of the rows that it names."""
    outcomes = [found[name]["outcomes"] for name in worst.get("attacks", ()) if name in found]
    if len(outcomes) != len(worst.get("attacks", ())):
        raise InputError("worst_case.attacks names a row that is not there")
    if len({len(each) for each in outcomes}) == 1:
        right = ["r" if set(each) <= set("ro") else "f" for each in zip(*outcomes)]
        _check_counts({**worst, "outcomes": "".join(right)}, "worst_case")


def _row(name: str, row: dict, content: dict) -> dict:
    """Return a row with the keys of today."""
    row = {RENAMED.get(key, key): value for key, value in row.items()}
    if "made" in row:
        return row
    others = [other for other in content["attacks"] if other != name]
    texts = content.get("warnings") or ()
    texts = [text for text in texts if not any(_is_about(text, other) for other in others)]
    made = {key: content.get(key) for key in MADE}
    return row | {"made": made, "warnings": row.get("warnings", texts)}


def _is_about(text: str, name: str) -> bool:
    """Decide whether a warning of an earlier file is about this row."""
    return text.startswith((f"{name}: ", f"{name}, "))
