#!/usr/bin/env python3
"""Measure the paper's tables and figures: train, evaluate, and compare with the printed values.

    ./reproduce.py table1 --scale tiny                # digits, minutes; also table2 ... figure7
    ./reproduce.py all --scale tiny --seeds 2         # everything, and the report
    ./reproduce.py table1 --scale full --seeds 3 --norm linf --plan    # commands for a cluster
    ./reproduce.py stability --scale sweep --seeds 3  # which settings of NAMID train
    ./reproduce.py zhu-table1 --scale tiny            # Zhu et al. 2020; also zhu-table3 ...
    ./reproduce.py entropic --scale sweep --seeds 5   # entropic retraining, with controls
    ./reproduce.py report                             # one HTML page of all results in --out

The script runs the commands of the stages, each once, in order. Stopped anywhere, the same command
resumes. A run made of other data or with other settings is set aside and made again. A table says
"not run" for what is missing and "diverged" for a training that diverged. docs/reproduce.md
explains the scales, what makes a run stale, and how to read the tables.
"""

import importlib.util
import os
import shlex
import sys
from pathlib import Path

# A Python without PyTorch hands over to the one in .venv.
if __name__ == "__main__" and importlib.util.find_spec("torch") is None:
    python = Path(__file__).resolve().parent / ".venv/bin/python"
    if not python.exists():
        sys.exit("reproduce.py: no .venv here yet; ./run setup makes it")
    os.execv(python, [str(python), *sys.argv])

from dataclasses import dataclass, replace
from typing import Literal

from tyro.conf import Positional

from common.errors import InputError
from reproduction import bottleneck, zhu
from reproduction.experiment import Experiment, remember
from reproduction.graph import Graph
from reproduction.node import ROOT, interpreter
from reproduction.paper import DEFENSES, FIGURES, NORMS, TABLES
from reproduction.plan import OTHERS, plan
from reproduction.run import Stopped, run
from reproduction.scales import SCALES
from utils.scripts import run_script
from utils.settings.command_line import parse
from utils.settings.options import Dataset, Fraction, need


@dataclass
class Settings:
    """Options of the reproduction."""

    target: Positional[Literal[(*TABLES, *FIGURES, "all", *OTHERS, "report")]]
    """What to make: a table, a figure, all of them and the report; the sweep of docs/stability.md;
    a table or figure of docs/worst_case_MI.md or docs/information_bottleneck.md; the table of
    docs/entropic_retraining.md; the report of the results in --out."""
    scale: Literal[tuple(SCALES)] = "full"
    """tiny: digits, minutes; sweep: digits, half a minute a network; small: a CIFAR-10 subset and a
    narrow network, hours; full: the paper's settings."""
    dataset: Dataset | None = None
    """The data set; when not given the scale's own: digits for tiny and sweep, cifar10 for small
    and full."""
    data_dir: Path | None = None
    """The folder of the data set; when not given datasets."""
    data_note: str = ""
    """A remark on the data for the caption of every table and figure, such as "Images that went
    through JPEG compression"."""
    norm: Literal["linf", "l2", "both"] = "both"
    """The norm of the budgets; the figures are about Linf only."""
    seeds: int = 1
    """The number of trainings of each network, with the seeds 1 to N."""
    defenses: str = ",".join(DEFENSES)
    """The rows of the tables to run, separated by commas."""
    alpha: Fraction = None
    """NAMID's weight of L_mi; when not given the scale's own: 5 (paper) for full, else 0.1."""
    out: Path = Path("runs/reproduce")
    """The folder for the results, with a folder for each data set and scale."""
    jobs: int = 1
    """Commands that run at a time, each with its share of the cores."""
    plan: bool = False
    """Print the commands, in order and with their estimated cost, and run nothing."""

    def check(self) -> None:
        need(0 < self.seeds <= 1000, "seeds", self.seeds, "give 1 to 1000")
        need(self.jobs > 0, "jobs", self.jobs, "give 1 or more")
        need(self.alpha is None or self.alpha >= 0, "alpha", self.alpha, "give 0 or more")
        known = ", ".join(DEFENSES)
        for name in self.defenses.split(","):
            need(name in DEFENSES, "defenses", name, f"is unknown; choose from {known}")
        if self.target in OTHERS:
            right = f"{self.target} is about linf only; leave --norm out"
            need(self.norm != "l2", "norm", self.norm, right)
            right = f"{self.target} sets it itself; leave --alpha out"
            need(self.alpha is None, "alpha", self.alpha, right)
            right = f"{self.target} has rows of its own; leave --defenses out"
            need(self.defenses == ",".join(DEFENSES), "defenses", self.defenses, right)
        reports = self.plan and self.target == "report"
        need(not reports, "plan", "", "report runs nothing; leave --plan out")

    @property
    def norms(self) -> tuple[str, ...]:
        return NORMS if self.norm == "both" else (self.norm,)


def show(graph: Graph, settings: Settings) -> None:
    """Print the commands with their purpose and cost, and the command that writes the tables."""
    from reproduction.cost import HOW, Costs  # here: it imports torch, which --help does without

    costs, lines, missing_seconds = Costs(graph), [], 0.0
    numbers = {name: str(number) for number, name in enumerate(graph.nodes, 1)}
    for name, node in graph.nodes.items():
        state, seconds = graph.state(name), costs.seconds(name)
        missing_seconds += seconds if state in ("not run", "stale") else 0.0
        before = ", ".join(numbers[each] for each in node.needs)
        after = f", after {before}" if before else ""
        cost = state if state in ("finished", "diverged") else f"about {duration(seconds)}"
        lines += [f"# {numbers[name]}. {node.purpose}{after}: {cost}"]
        if state == "stale":
            lines += [f"#    stale: {graph.why(name)}"]
            lines += ["#    reproduce.py sets it aside; before a queue, move it"]
        lines += [node.command]
    print(
        f"# {settings.target} at scale {settings.scale}: {len(graph.nodes)} runs in "
        f"{graph.experiment.root}, about {duration(missing_seconds)} for those that are missing, "
        "one after another"
    )
    print(f"# {HOW}")
    print(f"# Run the lines in {ROOT}; a line whose run is finished says so and ends.")
    print(*lines, sep="\n")
    print(f"# the tables, figures and report\n{again(settings)}")


# The options of `again`: all but --plan and --jobs.
REPEATED = (
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


def again(settings: Settings) -> str:
    """Return this command as a shell line, without --plan."""
    words = [interpreter(), "reproduce.py", settings.target]
    for name in REPEATED:
        value = getattr(settings, name)
        words += [f"--{name.replace('_', '-')}", str(value)] if value not in (None, "") else []
    return shlex.join(words)


def duration(seconds: float) -> str:
    """Return a number of seconds in words."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def write(graph: Graph | None, settings: Settings) -> None:
    """Write the tables, figures and report of all experiments, and print where they are."""
    # here: they import torch, which --help does without
    from reproduction import bottleneck_tables
    from reproduction.report import report

    path = report(settings.out)
    if path is None:
        raise InputError(
            f"--out {settings.out}: holds no results yet; run a table or a figure first"
        )
    if graph and settings.target in bottleneck.TARGETS:
        for written in bottleneck_tables.finish(graph, settings.target):
            print(f"written: {written}")
    elif graph:
        for folder, suffix in (("tables", "md"), ("figures", "png")):
            for each in sorted((graph.experiment.root / folder).glob(f"*.{suffix}")):
                if settings.target in ("all", each.stem):
                    print(f"written: {each}")
    print(f"written: {path}")


def own_dataset(target: str, scale: str) -> str:
    """Return the data set of a target: its table's, or the scale's where that is digits."""
    chosen = SCALES[scale].dataset
    if target in bottleneck.TARGETS:
        return bottleneck.dataset(target, scale)
    return chosen if chosen == "digits" else zhu.TABLES.get(target, chosen)


def main(settings: Settings) -> None:
    if settings.target == "report":
        write(None, settings)
        return
    experiment = Experiment(
        out=settings.out,
        dataset=settings.dataset or own_dataset(settings.target, settings.scale),
        scale=settings.scale,
        seeds=settings.seeds,
        data_dir=settings.data_dir,
        alpha=settings.alpha,
        data_note=settings.data_note,
    )
    asked = settings.target, settings.norms, settings.defenses.split(",")
    graph = plan(experiment, *asked)  # an error is reported before anything is written
    if settings.plan:
        show(graph, settings)
        return
    graph = plan(replace(remember(experiment), seeds=settings.seeds), *asked)
    try:
        run(graph, settings.jobs)
    except Stopped as end:
        text = f"reproduce.py: {end}; finished runs are kept, and the same command resumes"
        print(text, file=sys.stderr)
        raise SystemExit(end.status) from None
    write(graph, settings)


if __name__ == "__main__":
    settings = parse(Settings, __doc__)
    if Path.cwd() != ROOT:  # the commands run in the repository's folder
        settings.out = settings.out.resolve()
        settings.data_dir = settings.data_dir and settings.data_dir.resolve()
        os.chdir(ROOT)
    run_script(main, settings)
