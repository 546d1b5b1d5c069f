"""Run what is missing of a graph, one command at a time or several, and go on from wherever it was stopped."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from common.errors import InputError
from common.locks import held
from reproduction import now, question
from reproduction.experiment import Experiment
from reproduction.graph import ROOT, Graph, Node

DIVERGED = 3  # the stages' exit status


class Stopped(Exception):
    """A command ended with the exit status `status`."""

    def __init__(self, node: Node, status: int, log: Path | None = None):
        super().__init__(
            f"{node.name} ended with status {status}: {node.command}"
            + (f"; {log} says why" if log else "")
        )
        self.status = status


def alone(experiment: Experiment):
    """Inside `with`, no other process runs commands of this experiment; yields the lock, which each command holds as well: one
    that outlives the process that started it still keeps the next from starting a second beside it."""
    experiment.root.mkdir(parents=True, exist_ok=True)
    return held(
        experiment.root,
        lambda: print(f"waiting: another command works in {experiment.root}", flush=True),
    )


def launch(
    words: list[str], lock: int | None, log: Path | None, threads: int | None
) -> subprocess.Popen:
    """`python words`, started in the repository's folder, in a process group of its own, so that the terminal's Ctrl-C reaches it
    once, through us. log: the file that has what it says, None: the terminal; threads: None leaves their number to it."""
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    with open(log, "a") if log else contextlib.nullcontext() as said:
        return subprocess.Popen(
            [sys.executable, *words],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            env=environment,
            process_group=0,
            pass_fds=() if lock is None else (lock,),
        )


class Commands:
    """Commands beside each other. Inside `with`, SIGINT and SIGTERM go to all of them, and `wait` waits for each to save its
    state. None outlives the block: where an error leaves it, they are stopped."""

    def __init__(self, lock: int | None = None, jobs: int = 1):
        self.lock, self.running, self.received = lock, {}, []
        own = "OMP_NUM_THREADS" not in os.environ  # else the user's word stands
        self.threads = max(1, len(os.sched_getaffinity(0)) // jobs) if jobs > 1 and own else None

    def __enter__(self):
        self.before = {
            number: signal.signal(number, self._forward)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(self, *error):
        self.stop()
        while self.running:
            self.wait()
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _forward(self, number, frame) -> None:
        self.received.append(number)
        self.stop(number)

    def stop(self, number: int = signal.SIGTERM) -> None:
        for process in self.running.values():
            process.send_signal(number)

    def start(self, name: str, words: list[str], log: Path | None = None) -> None:
        before = len(self.received)
        self.running[name] = launch(words, self.lock, log, self.threads)
        for number in self.received[before:]:  # while it was being started
            self.running[name].send_signal(number)

    def wait(self) -> tuple[str, int]:
        """The name and exit status of the next that ends; killed by a signal, its status is 128 + the signal."""
        while True:
            for name, process in self.running.items():
                if (status := process.poll()) is not None:
                    del self.running[name]
                    return name, status if status >= 0 else 128 - status
            time.sleep(0.02)


def run(graph: Graph, jobs: int = 1) -> None:
    """Make what is missing, in order, `jobs` commands at a time, each as soon as what it needs is there. A training that diverges
    is noted, what needs it is left out, and the rest goes on; any other failure stops those beside it and raises Stopped."""
    experiment, total, stopped = graph.experiment, len(graph.nodes), None
    with alone(experiment) as lock, Commands(lock, jobs) as commands:
        for line in set_aside_stale(graph):
            print(line, flush=True)
        missing = {}
        for name, node in graph.nodes.items():  # and what reads a run that is made again
            state = graph.state(name)
            again = any(each in missing for each in node.needs)
            if state in ("not run", "stale") or (state == "finished" and again):
                missing[name] = len(missing) + 1
        print(
            f"{experiment.root}: {total} runs, {total - len(missing)} of them finished", flush=True
        )
        if len(missing) < total and not now.is_here(experiment):
            print(
                "The data cannot be read without a download: what is finished was not compared "
                "with them",
                flush=True,
            )
        waiting, began = dict(missing), {}
        while True:
            for name in list(waiting):
                node = graph.nodes[name]
                if stopped or commands.received or len(commands.running) == jobs:
                    break
                if graph.state(name) == "diverged":
                    print(f"\n{name}: left out, for a run that it needs has diverged", flush=True)
                    del waiting[name]
                elif not any(each in waiting or each in commands.running for each in node.needs):
                    del waiting[name]
                    if reason := question.reason(graph, node):  # known since what it needs is there
                        place = set_aside(graph, name)
                        print(f"\n{name}: {reason}; set aside in {place}", flush=True)
                    log = _log(experiment, name) if jobs > 1 else None
                    print(
                        f"\n[{missing[name]}/{len(missing)}] {node.purpose}\n$ {node.command}"
                        + (f"  # says: {log}" if log else ""),
                        flush=True,
                    )
                    began[name] = time.time()
                    commands.start(name, node.words, log)
            if not commands.running:
                break
            name, status = commands.wait()
            failure = _ended(
                graph, name, began[name], status, _log(experiment, name) if jobs > 1 else None
            )
            if failure and not stopped:
                stopped = failure
                commands.stop()
    if stopped:
        raise stopped
    if commands.received:
        raise SystemExit(128 + commands.received[0])


def _ended(
    graph: Graph, name: str, began: float, status: int, log: Path | None
) -> Exception | None:
    """Note how the command of a node ended; what is to be raised where that was no success."""
    node = graph.nodes[name]
    _note(graph.experiment, node, began, status)
    if status == DIVERGED and node.trains:
        node.diverged_note.write_text(
            f"{node.command}\nended with status {status}: training diverged. Delete this "
            "folder to have it made anew.\n"
        )
        print(f"{name}: diverged; the rest goes on", flush=True)
    elif status:
        return Stopped(node, status, log)
    for path in node.outputs:
        if path.is_file():
            path.touch()  # the command has looked at what it read: nothing of that is younger any more
    if not status and graph.state(name) != "finished":
        files = ", ".join(path.name for path in node.outputs)
        if reason := graph.why(name):
            return InputError(f"{name}: its command ended well but what it left is stale: {reason}")
        return InputError(
            f"{name}: its command ended well but left {files} in {node.folder} missing or incomplete; "
            "delete what is there and start again"
        )
    return None


def set_aside_stale(graph: Graph) -> list[str]:
    """Move what is stale of a graph aside; return a line for each stale node, which says why.

    What only reads a stale run stays where it is outside that run's folder: made again, the run may
    have the same files, and the command that reads them looks when its turn comes.
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
    """Move what a node has made to a new place in the experiment's folder stale/; return the place.

    A training's folder goes as it is, with the evaluations in it. Of an evaluation go its files,
    those of its pictures and those of a stopped command.
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


def _log(experiment: Experiment, name: str) -> Path:
    """Where a command that runs beside others writes what it says."""
    folder = experiment.root / "logs"
    folder.mkdir(exist_ok=True)
    return folder / f"{name.replace('/', '-')}.txt"


def _note(experiment: Experiment, node: Node, began: float, status: int) -> None:
    """A line in the experiment's journal."""
    line = {
        "node": node.name,
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(began)),
        "seconds": round(time.time() - began, 1),
        "status": status,
        "command": node.command,
    }
    with open(experiment.root / "journal.jsonl", "a") as file:
        file.write(json.dumps(line) + "\n")


def journal(experiment: Experiment) -> list[dict]:
    """What was run, in order: node, date, seconds, status, command. A line that a kill cut short is left out."""
    path, lines = experiment.root / "journal.jsonl", []
    for line in path.read_text().splitlines() if path.is_file() else []:
        with contextlib.suppress(ValueError):
            lines.append(json.loads(line))
    return lines


def recorded(experiment: Experiment) -> dict[str, float]:
    """{node: seconds}, over all the times that it was stopped and went on, of those that ended well."""
    seconds, done = {}, set()
    for line in journal(experiment):
        seconds[line["node"]] = seconds.get(line["node"], 0.0) + line["seconds"]
        if line["status"] == 0:
            done.add(line["node"])
    return {name: seconds[name] for name in done}
