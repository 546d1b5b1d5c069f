"""Move the files of stale runs aside, so that the runs are made again and nothing is lost."""

from pathlib import Path

from reproduction import question
from reproduction.graph import Graph


def set_aside_stale(graph: Graph) -> list[str]:
    """Move the files of stale nodes aside; return for each stale node a line that says why.

    A node that is stale only because it reads a stale run keeps its files where they are outside
    that run's folder: made again, the run may have the same files, and the command that reads them
    compares when its turn comes.
    """
    stale = {name: reason for name in graph.nodes if (reason := graph.why(name))}
    own = [name for name in stale if question.reason(graph, graph.nodes[name])]
    places, lines = {}, []
    for name, reason in stale.items():
        folder = graph.nodes[name].folder
        if folder in places:  # an evaluation, gone with its network
            place = places[folder]
        else:
            place = set_aside(graph, name) if name in own else None
            if graph.nodes[name].trains and place:
                places[folder] = place
        moved = f"set aside in {place}, " if place else ""
        lines.append(f"{name}: {reason}; {moved}made again")
    return lines


def set_aside(graph: Graph, name: str) -> Path:
    """Move the files of a node to a new place in the experiment's folder stale/; return the place.

    A training's folder moves as it is, with the evaluations in it. Of an evaluation move its
    files, its pictures and the files of a stopped command.
    """
    node, root = graph.nodes[name], graph.experiment.root
    number = 1
    while (place := root / "stale" / f"{name}-{number}").exists():
        number += 1
    if node.trains:
        place.parent.mkdir(parents=True, exist_ok=True)
        node.folder.rename(place)
        return place
    place.mkdir(parents=True)
    stem = node.outputs[-1].stem
    beside = [
        *node.outputs,
        *node.folder.glob(f"{stem}-*.png"),
        node.outputs[0].with_name(f"{node.outputs[0].name}.parts"),
        node.outputs[-1].with_name(f".{node.outputs[-1].name}.unfinished.npz"),
    ]
    for path in beside:
        if path.exists():
            path.rename(place / path.name)
    return place
