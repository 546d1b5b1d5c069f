"""Read from the results files how, when and where the numbers of a table were made."""

import csv
import shlex

from reproduction.now import read

FACTS = (
    "hardware",
    "dates",
    "target",
    "estimators",
    "surrogate",
    "surrogate accuracy",
    "rows' commits",
    "rows' hardware",
)


def facts(graph, sources: list[str]) -> dict[str, list]:
    """Collect the provenance of the nodes `sources`; each fact is a sorted list.

    The facts are the hardware and dates of all nodes; the epochs of targets, estimators and
    surrogates; the natural accuracy of the surrogates on held-out images; the commits and hardware
    of the rows of results.
    """
    known = {fact: set() for fact in FACTS}
    for name in dict.fromkeys(sources):
        made = provenance(graph, name)
        known["hardware"] |= set(made["hardwares"])
        known["dates"] |= {date[:10] for date in made["dates"]}
        if not graph.nodes[name].trains:
            known["rows' commits"] |= set(made["commits"])
            known["rows' hardware"] |= set(made["hardwares"])
        if "epochs" in made:
            kind = "estimators" if "-estimators" in name else "target"
            known["surrogate" if name.endswith("/vgg19") else kind].add(made["epochs"])
        if name.endswith("/vgg19"):
            with open(graph.nodes[name].folder / "metrics.csv", newline="") as file:
                best = max(csv.DictReader(file), key=lambda row: float(row["score"]))
            known["surrogate accuracy"].add(float(best["natural_accuracy"]))
    return {name: sorted(values) for name, values in known.items()}


def said_of_rows(known: dict[str, list]) -> list[str]:
    """Return sentences for a caption whose rows differ in their commits or hardware."""
    found = []
    for fact, words in (
        ("rows' commits", "at different commits"),
        ("rows' hardware", "on different hardware"),
    ):
        if len(known[fact]) > 1:
            found.append(f"The rows were made {words}: {listed(known[fact])}.")
    return found


def provenance(graph, name: str) -> dict:
    """Return command, dates, hardware and commits of a finished node, and the epochs of a training.

    A row of results has a date, hardware and a commit of its own; an old row has those of its file,
    and an old file of MI values has the date of the run in its folder.
    """
    node = graph.nodes[name]
    run = read(node.folder / "settings.json")
    source = run if node.trains else read(node.outputs[-1])
    source = {"date": run.get("date"), "hardware": "unknown hardware", "git_commit": None} | source
    rows = source.get("attacks") or {}
    made = [source | (rows[attack].get("made") or {}) for attack in node.attacks if attack in rows]
    made = made or [source]
    epochs = {"epochs": source["options"]["epochs"]} if node.trains else {}
    return {
        "command": shlex.join(node.words),
        **epochs,
        "dates": _all(each["date"] or "unknown date" for each in made),
        "hardwares": _all(each["hardware"] for each in made),
        "commits": _all(short(each["git_commit"]) for each in made),
    }


def _all(values) -> list[str]:
    return sorted(set(values))


def short(commit: str | None) -> str:
    """Return a commit's first 12 digits, with the mark of files that differed from it."""
    number, plus, changes = (commit or "no checkout").partition("+")
    return number[:12] + plus + changes


def listed(values: list) -> str:
    """Join values with "and"; "none" where there are none."""
    return " and ".join(map(str, values)) or "none"
