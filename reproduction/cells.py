"""What was measured of each network under each attack, and how the defenses compare."""

import itertools
import json
import statistics
from dataclasses import dataclass, field

from reproduction import intervals
from reproduction.graph import Graph, file_of
from reproduction.warned import Warned
from utils.evaluation import stored

WORST = "worst case"  # the column of the images that are right under every attack of a row
# {defense: the defense that it adds MI to}
BASELINES = {"wmim": "standard", "namid": "standard", "namid_t": "trades", "namid_m": "mart"}


@dataclass
class Cell:
    """What was measured of one network under one attack, over the seeds. Accuracies in percent.

    anywhere: adversarial images count at any norm, as the paper counts CW and DDN. outcomes:
    {seed: right or not for each image}. diverged: the seeds whose training diverged. sources: the
    nodes of the graph behind it. printed: the paper's mean and deviation. applies: False where the
    attack needs estimators and the defense has none.
    """

    attack: str
    anywhere: bool
    outcomes: dict[int, list[bool]] = field(default_factory=dict)
    diverged: list[int] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    printed: tuple[float, float] | None = None
    warned: list[Warned] = field(default_factory=list)
    applies: bool = True

    @property
    def state(self) -> str:
        """Return "measured", "diverged" (every seed that was run), "not run" or "no estimators"."""
        if self.outcomes:
            return "measured"
        if not self.applies:
            return "no estimators"
        return "diverged" if self.diverged else "not run"

    @property
    def values(self) -> list[float]:
        """Return the accuracy of each seed."""
        return [100 * sum(right) / len(right) for right in self.outcomes.values()]

    @property
    def mean(self) -> float | None:
        """Return the mean accuracy over the seeds."""
        return statistics.mean(self.values) if self.outcomes else None

    @property
    def deviation(self) -> float | None:
        """Return the standard deviation over the seeds; None for one seed."""
        return intervals.deviation(self.values)

    @property
    def images(self) -> list[int]:
        """Return the numbers of images: one number where the seeds agree."""
        return sorted({len(right) for right in self.outcomes.values()})

    @property
    def interval(self) -> tuple[float, float] | None:
        """Return the 95 % interval of the mean: over images for one seed, else over both."""
        return intervals.of_a_mean(list(self.outcomes.values())) if self.outcomes else None

    def text(self, seeds: int) -> str:
        """Return the cell's text for a table of `seeds` seeds."""
        if not self.outcomes:
            return self.state
        if len(self.outcomes) == 1:
            low, high = self.interval
            text = f"{self.mean:.1f} ({low:.1f} to {high:.1f})"
        else:
            text = f"{self.mean:.1f} ± {self.deviation:.1f}"
        lacking = [f"{len(self.outcomes)} of {seeds} seeds"] * (len(self.outcomes) < seeds)
        lacking += [f"{len(self.diverged)} diverged"] * bool(self.diverged)
        return text + (f" [{', '.join(lacking)}]" if lacking else "")


def cell(graph: Graph, run: str, box: str, attack: str, anywhere: bool = False) -> Cell:
    """Read a cell from the results files.

    Args:
        graph: the experiment's runs.
        run: the node of the network, with "{seed}" in its name.
        box: "white" or "black".
        attack: the attack's name.
        anywhere: whether adversarial images count at any norm.
    """
    found = Cell(attack, anywhere)
    for seed in range(1, graph.experiment.seeds + 1):
        name = run.format(seed=seed)
        node = f"{name}/{file_of(attack, box)}"
        state = graph.state(node) if node in graph.nodes else "not run"
        if state == "diverged":
            found.diverged.append(seed)
        elif state == "finished":
            results = json.loads(graph.product(node).read_text())
            row = stored.rows(results)[attack]
            found.warned += [Warned(text, run, seed) for text in row["warnings"]]
            robust = "r" if anywhere else "ro"
            found.outcomes[seed] = [outcome in robust for outcome in row["outcomes"]]
            found.sources += [*graph.nodes[node].needs, node]
    return found


def worst_case(cells: list[Cell]) -> Cell:
    """Count the images that are right under every attack of a row, of the images that all saw.

    Seeds that lack an attack are left out. Counts at any norm do not join.
    """
    joined = [each for each in cells if each.applies and not each.anywhere]
    found = Cell(WORST, False, diverged=joined[0].diverged)
    for seed in joined[0].outcomes:
        if all(seed in each.outcomes for each in joined):  # each evaluates the first images
            found.outcomes[seed] = list(map(all, zip(*(each.outcomes[seed] for each in joined))))
    return found


def paired(one: Cell, other: Cell) -> list[tuple[list[bool], list[bool]]]:
    """Return the outcomes of two networks on the same images, for each seed that has both."""
    return [
        (one.outcomes[seed], other.outcomes[seed])
        for seed in one.outcomes
        if seed in other.outcomes and len(one.outcomes[seed]) == len(other.outcomes[seed])
    ]


def compare(cells: dict[str, Cell]) -> list[dict]:
    """Compare each defense that adds MI with its baseline, in one column.

    A row has the measured difference in points, its interval (paired by seed and image), the
    printed difference, and a verdict: "holds" or "reversed" where the interval excludes 0, else
    "not decided"; "diverged" or "not run" where there is no pair.
    """
    found = []
    for name, baseline in BASELINES.items():
        if name not in cells or cells[name].printed is None:
            continue
        one, other = cells[name], cells[baseline]
        printed = one.printed[0] - other.printed[0]
        pairs = paired(one, other)
        row = {
            "defense": name,
            "baseline": baseline,
            "printed": round(printed, 2),
            "seeds": len(pairs),
            "difference": None,
            "interval": None,
            "verdict": "not run",
        }
        if pairs:
            difference, interval = intervals.of_a_difference(pairs)
            row |= {"difference": difference, "interval": interval}
            row["verdict"] = verdict(printed, interval)
        elif "diverged" in (one.state, other.state):
            row["verdict"] = "diverged"
        found.append(row)
    return found


def verdict(printed: float, interval: tuple[float, float]) -> str:
    """Say whether the interval of a difference has the sign of the printed one throughout."""
    low, high = interval if printed > 0 else (-interval[1], -interval[0])
    if low > 0:
        return "holds"
    return "reversed" if high < 0 else "not decided"


def in_order(cells: dict[str, Cell]) -> tuple[int, int]:
    """Count the pairs of defenses whose means are in the printed order, and all measured pairs.

    A tie is not in the printed order.
    """
    pairs = [
        (a, b)
        for a, b in itertools.combinations(cells.values(), 2)
        if a.outcomes and b.outcomes and a.printed
    ]
    agree = sum((a.mean - b.mean) * (a.printed[0] - b.printed[0]) > 0 for a, b in pairs)
    return agree, len(pairs)
