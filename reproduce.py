#!/usr/bin/env python3
"""The paper's tables and figures, measured: train what they need, evaluate it, and put it beside what was printed.

    ./reproduce.py table1 --scale tiny                  # digits, minutes; also table2 ... table6, figure2, 4, 5 and 7
    ./reproduce.py all --scale tiny --seeds 2           # everything, and the report
    ./reproduce.py table1 --norm linf --scale full --seeds 3 --plan       # the commands, for a cluster's queue
    ./reproduce.py stability --scale sweep --seeds 3    # which settings of NAMID train (docs/stability.md)
    ./reproduce.py report                               # one HTML page of all there is in --out

Runs the stage scripts, each command once, in order; stopped anywhere, the same command resumes. A
run made of other data or by other settings is set aside and made again. What is missing from a
table says "not run", and a training that diverged says so. docs/reproduce.md explains the scales,
what makes a run stale, and how the tables are to be read.
"""

import importlib.util
import os
import shlex
import sys
from pathlib import Path

if (
    __name__ == "__main__" and importlib.util.find_spec("torch") is None
):  # called with a Python that has nothing installed
    python = Path(__file__).resolve().parent / ".venv/bin/python"
    if not python.exists():
        sys.exit("reproduce.py: no .venv here yet; ./run setup makes it")
    os.execv(python, [str(python), *sys.argv])

from dataclasses import dataclass, replace
from typing import Literal

from tyro.conf import Positional

from common.errors import InputError
from reproduction.experiment import Experiment, remember
from reproduction.graph import ROOT, Graph, interpreter
from reproduction.paper import DEFENSES, FIGURES, NORMS, TABLES
from reproduction.plan import STABILITY, plan
from reproduction.scales import SCALES
from utils.settings.command_line import parse
from utils.settings.options import Dataset, Fraction, need


@dataclass
class Settings:
    """Options of the reproduction."""

    target: Positional[Literal[(*TABLES, *FIGURES, "all", STABILITY, "report")]]
    """What to make: a table, a figure, all of them and the report; docs/stability.md's sweep; the report of what there is."""
    scale: Literal[tuple(SCALES)] = "full"
    """tiny: digits, minutes; sweep: digits, half a minute a network; small: a CIFAR-10 subset and a narrow network, hours; full:
    the paper's settings."""
    dataset: Dataset | None = None
    """The data set; the scale's own when not given: digits for tiny, cifar10 for small and full."""
    data_dir: Path | None = None
    """Where it is; datasets when not given."""
    data_note: str = ""
    """A remark on the data that is shown beside every table and figure, say "Images that went through JPEG compression"."""
    norm: Literal["linf", "l2", "both"] = "both"
    """Which budgets; the figures are about Linf alone."""
    seeds: int = 1
    """Trainings of each network, with the seeds 1 to N."""
    defenses: str = ",".join(DEFENSES)
    """The rows of the tables to run, with commas between."""
    alpha: Fraction = None
    """NAMID's weight of L_mi; when not given the scale's own: 0.1 for tiny and small, 5 (paper) for full."""
    out: Path = Path("runs/reproduce")
    """Where everything goes, in a folder for each data set and scale."""
    jobs: int = 1
    """Commands that run at a time, each with its share of the cores: on two cores, two at a time are a fifth faster."""
    plan: bool = False
    """Print the commands, in order and with their estimated cost, and run nothing."""

    def check(self) -> None:
        need(self.seeds > 0, "seeds", self.seeds, "give 1 or more")
        need(self.jobs > 0, "jobs", self.jobs, "give 1 or more")
        need(self.alpha is None or self.alpha >= 0, "alpha", self.alpha, "give 0 or more")
        for name in self.defenses.split(","):
            need(
                name in DEFENSES, "defenses", name, f"is unknown; choose from {', '.join(DEFENSES)}"
            )
        if self.target == STABILITY:
            need(
                self.norm != "l2",
                "norm",
                self.norm,
                "stability is about linf alone; leave --norm out",
            )
            need(
                self.alpha is None, "alpha", self.alpha, "stability has its own; leave --alpha out"
            )
            need(
                self.defenses == ",".join(DEFENSES),
                "defenses",
                self.defenses,
                "stability has rows of its own; leave it out",
            )
        need(
            not (self.plan and self.target == "report"),
            "plan",
            "",
            "report runs nothing; leave --plan out",
        )

    @property
    def norms(self) -> tuple[str, ...]:
        return NORMS if self.norm == "both" else (self.norm,)


def show(graph: Graph, settings: Settings) -> None:
    """The commands, each with what it is for and its cost, and the one that writes the tables."""
    from reproduction.cost import HOW, Costs

    costs, lines, left = Costs(graph), [], 0.0  # left: seconds of what is missing
    numbers = {name: number for number, name in enumerate(graph.nodes, 1)}
    for name, node in graph.nodes.items():
        state, seconds = graph.state(name), costs.seconds(name)
        left += seconds if state in ("not run", "stale") else 0.0
        after = (
            f", after {', '.join(str(numbers[each]) for each in node.needs)}" if node.needs else ""
        )
        cost = state if state in ("finished", "diverged") else f"about {duration(seconds)}"
        lines += [f"# {numbers[name]}. {node.purpose}{after}: {cost}"]
        if state == "stale":
            lines += [
                f"#    stale: {graph.why(name)}",
                "#    reproduce.py sets it aside; before a queue, move it",
            ]
        lines += [node.command]
    print(
        f"# {settings.target} at scale {settings.scale}: {len(graph.nodes)} runs in {graph.experiment.root}, about "
        f"{duration(left)} for those that are missing, one after another"
    )
    print(
        f"# {HOW}\n# Run the lines in {ROOT}; a line whose run is finished says so and ends.",
        *lines,
        sep="\n",
    )
    print(f"# the tables, figures and report\n{again(settings)}")


def again(settings: Settings) -> str:
    """This command as a shell line, without --plan."""
    given = {
        name: getattr(settings, name)
        for name in (
            "scale",
            "dataset",
            "data_dir",
            "data_note",
            "norm",
            "seeds",
            "defenses",
            "alpha",
            "out",
        )
    }
    words = [interpreter(), "reproduce.py", settings.target]
    for name, value in given.items():
        words += [f"--{name.replace('_', '-')}", str(value)] if value not in (None, "") else []
    return shlex.join(words)


def duration(seconds: float) -> str:
    """In words."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def write(graph: Graph, settings: Settings) -> None:
    """The tables and figures of the experiment, and the report; where they are."""
    from reproduction.report import report

    path = report(settings.out)
    if path is None:
        raise InputError(
            f"--out {settings.out}: holds no results yet; run a table or a figure first"
        )
    if graph:
        for folder, suffix in (("tables", "md"), ("figures", "png")):
            for each in sorted((graph.experiment.root / folder).glob(f"*.{suffix}")):
                if settings.target in ("all", each.stem):
                    print(f"written: {each}")
    print(f"written: {path}")


def main(settings: Settings) -> None:
    from reproduction.run import Stopped, run

    if settings.target == "report":
        write(None, settings)
        return
    dataset = settings.dataset or SCALES[settings.scale].dataset
    experiment = Experiment(
        settings.out,
        dataset,
        settings.scale,
        settings.seeds,
        settings.data_dir,
        settings.alpha,
        settings.data_note,
    )
    asked = settings.target, settings.norms, settings.defenses.split(",")
    graph = plan(experiment, *asked)  # a mistake is said before anything is written
    if settings.plan:
        show(graph, settings)
        return
    graph = plan(replace(remember(experiment), seeds=settings.seeds), *asked)
    try:
        run(graph, settings.jobs)
    except Stopped as end:
        print(
            f"reproduce.py: {end}; what was made stays, and the same command goes on",
            file=sys.stderr,
        )
        raise SystemExit(end.status) from None
    write(graph, settings)


if __name__ == "__main__":
    settings = parse(Settings, __doc__)
    if Path.cwd() != ROOT:  # the commands run in the repository's folder
        settings.out = settings.out.resolve()
        settings.data_dir = settings.data_dir and settings.data_dir.resolve()
        os.chdir(ROOT)
    from utils.scripts import run_script

    run_script(main, settings)
