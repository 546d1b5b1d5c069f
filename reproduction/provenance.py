"""Say how, when and where the numbers of a table were made, as their files tell it."""

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
    """Return what the files behind `sources` say of their making, each as a sorted list.

    Hardware and dates of all; epochs of the targets, of estimators and of surrogates; the share of
    held-out images that surrogates get right without an attack; commits and hardware of the rows
    of results.
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

    A row of results says when, where and at which commit it was made; an old row has that of its
    file, and an old file of MI values the date of the run in its folder.
    """
    node = graph.nodes[name]
    run = read(node.folder / "settings.json")
    said = run if node.trains else read(node.outputs[-1])
    said = {"date": run.get("date"), "hardware": "unknown hardware", "git_commit": None} | said
    rows = said.get("attacks") or {}
    made = [said | (rows[attack].get("made") or {}) for attack in node.attacks if attack in rows]
    made = made or [said]
    epochs = {"epochs": said["options"]["epochs"]} if node.trains else {}
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
    """Return a commit's first 12 digits, and whether files differed from it."""
    number, plus, changes = (commit or "no checkout").partition("+")
    return number[:12] + plus + changes


def listed(values: list) -> str:
    """Return values as a part of a sentence."""
    return " and ".join(map(str, values)) or "none"
