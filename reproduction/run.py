"""Run the missing commands of a graph, one or several at a time.

A run that was stopped resumes: its finished commands are not run again.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from common import schema
from common.errors import InputError
from common.json_files import LARGEST, parsed
from common.locks import locked
from common.reading import open_regular
from common.writing import write_text
from reproduction import now, question
from reproduction.experiment import Experiment
from reproduction.graph import Graph
from reproduction.node import ROOT, Node
from reproduction.stale import set_aside, set_aside_stale

DIVERGED = 3  # the stages' exit status
JOURNAL_LINE = {"node": schema.TEXT, "seconds": schema.number(0), "status": schema.whole()}


class Stopped(Exception):
    """A command ended with the exit status `status`."""

    def __init__(self, node: Node, status: int, log: Path | None = None):
        super().__init__(
            f"{node.name} ended with status {status}: {node.command}"
            + (f"; {log} says why" if log else "")
        )
        self.status = status


def exclusive(experiment: Experiment):
    """Lock an experiment inside `with`, and yield the lock.

    Each command holds the lock as well, so that a command that outlives the process that started
    it keeps the next process from starting a second beside it.
    """
    experiment.root.mkdir(parents=True, exist_ok=True)
    waiting = f"waiting: another command works in {experiment.root}"
    return locked(experiment.root, lambda: print(waiting, flush=True))


def launch(
    words: list[str], lock: int | None, log: Path | None, threads: int | None
) -> subprocess.Popen:
    """Start `python words` in the repository's folder, in a process group of its own.

    The terminal's Ctrl-C then reaches the command once, through `Commands`.

    Args:
        words: the script and its options.
        lock: a file descriptor that the command keeps open; None: no lock.
        log: the file for the command's output; None: the terminal.
        threads: the value of OMP_NUM_THREADS; None: unchanged.
    """
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    with open(log, "a") if log else contextlib.nullcontext() as output:
        return subprocess.Popen(
            [sys.executable, *words],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            process_group=0,
            pass_fds=() if lock is None else (lock,),
        )


class Commands:
    """Commands that run beside each other.

    Inside `with`, SIGINT and SIGTERM go to all of them, and `wait` waits for each to save its
    state. No command outlives the block: where an error leaves it, they are stopped.
    """

    def __init__(self, lock: int | None = None, jobs: int = 1):
        self.lock, self.running, self.received = lock, {}, []
        own = "OMP_NUM_THREADS" not in os.environ  # else the user's value holds
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
        """Send a signal to all commands."""
        for process in self.running.values():
            process.send_signal(number)

    def start(self, name: str, words: list[str], log: Path | None = None) -> None:
        """Start a command under a name; log: the file for its output."""
        before = len(self.received)
        self.running[name] = launch(words, self.lock, log, self.threads)
        for number in self.received[before:]:  # while it was being started
            self.running[name].send_signal(number)

    def wait(self) -> tuple[str, int]:
        """Return the name and exit status of the next command that ends.

        A command that a signal killed has the status 128 + the signal.
        """
        while True:
            for name, process in self.running.items():
                if (status := process.poll()) is not None:
                    del self.running[name]
                    return name, status if status >= 0 else 128 - status
            time.sleep(0.02)


def run(graph: Graph, jobs: int = 1) -> None:
    """Run the missing commands in order, `jobs` at a time, each once the nodes it needs exist.

    A training that diverges is noted, the nodes that need it are left out, and the others
    continue. Any other failure stops the commands beside it and raises Stopped.
    """
    experiment, failure = graph.experiment, None
    with exclusive(experiment) as lock, Commands(lock, jobs) as commands:
        missing = _prepare(graph)
        waiting, began = list(missing), {}
        while True:
            for name in list(waiting):
                node = graph.nodes[name]
                if failure or commands.received or len(commands.running) == jobs:
                    break
                if graph.state(name) == "diverged":
                    text = "left out, because a run that it needs has diverged"
                    print(f"\n{name}: {text}", flush=True)
                    waiting.remove(name)
                elif not any(each in waiting or each in commands.running for each in node.needs):
                    waiting.remove(name)
                    began[name] = time.time()
                    title = f"[{missing.index(name) + 1}/{len(missing)}] {node.purpose}"
                    _start(graph, name, title, commands, jobs)
            if not commands.running:
                break
            name, status = commands.wait()
            log = _log(experiment, name) if jobs > 1 else None
            error = _ended(graph, name, began[name], status, log)
            if error and not failure:
                failure = error
                commands.stop()
    if failure:
        raise failure
    if commands.received:
        raise SystemExit(128 + commands.received[0])


def _prepare(graph: Graph) -> list[str]:
    """Set stale runs aside, say what is finished, and return the nodes to run."""
    for line in set_aside_stale(graph):
        print(line, flush=True)
    missing, experiment = _missing(graph), graph.experiment
    total, finished = len(graph.nodes), len(graph.nodes) - len(missing)
    print(f"{experiment.root}: {total} runs, {finished} of them finished", flush=True)
    if finished and not now.is_here(experiment):
        text = "what is finished was not compared with them"
        print(f"The data cannot be read without a download: {text}", flush=True)
    return missing


def _missing(graph: Graph) -> list[str]:
    """Return the nodes to run: those not run, stale ones, and finished ones that read them."""
    missing = []
    for name, node in graph.nodes.items():
        state = graph.state(name)
        again = any(each in missing for each in node.needs)
        if state in ("not run", "stale") or (state == "finished" and again):
            missing.append(name)
    return missing


def _start(graph: Graph, name: str, title: str, commands: Commands, jobs: int) -> None:
    """Start the command of a node, whose files are set aside where they are stale."""
    node = graph.nodes[name]
    if reason := question.reason(graph, node):  # known once the nodes that it needs exist
        place = set_aside(graph, name)
        print(f"\n{name}: {reason}; set aside in {place}", flush=True)
    log = _log(graph.experiment, name) if jobs > 1 else None
    comment = f"  # log: {log}" if log else ""
    print(f"\n{title}\n$ {node.command}{comment}", flush=True)
    commands.start(name, node.words, log)


def _ended(
    graph: Graph, name: str, began: float, status: int, log: Path | None
) -> Exception | None:
    """Log how the command of a node ended, and return the error to raise; None on success.

    Args:
        graph: the experiment's runs.
        name: the node.
        began: when the command was started, in seconds since the epoch.
        status: its exit status.
        log: the file with its output; None: the terminal had it.
    """
    node = graph.nodes[name]
    _note(graph.experiment, node, began, status)
    if status == DIVERGED and node.trains:
        write_text(
            node.diverged_note,
            f"{node.command}\nended with status {status}: training diverged. Delete this "
            "folder to train again from scratch.\n",
        )
        print(f"{name}: diverged; the others continue", flush=True)
    elif status:
        return Stopped(node, status, log)
    for path in node.outputs:
        if path.is_file():
            path.touch()  # the command has compared its inputs: none of them counts as younger now
    if not status and graph.state(name) != "finished":
        files = ", ".join(path.name for path in node.outputs)
        if reason := graph.why(name):
            return InputError(f"{name}: its command succeeded but its files are stale: {reason}")
        return InputError(
            f"{name}: its command succeeded but left {files} in {node.folder} missing or "
            "incomplete; delete these files and start again"
        )
    return None


def _log(experiment: Experiment, name: str) -> Path:
    """Return the log file of a command that runs beside others."""
    folder = experiment.root / "logs"
    folder.mkdir(exist_ok=True)
    return folder / f"{name.replace('/', '-')}.txt"


def _note(experiment: Experiment, node: Node, began: float, status: int) -> None:
    """Append a line to the experiment's journal."""
    line = {
        "node": node.name,
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(began)),
        "seconds": round(time.time() - began, 1),
        "status": status,
        "command": node.command,
    }
    path = experiment.root / "journal.jsonl"
    before = path.read_text() if path.is_file() else ""
    if before and not before.endswith("\n"):  # a kill cut the last line short
        before += "\n"
    write_text(path, before + json.dumps(line) + "\n")


def journal(experiment: Experiment) -> list[dict]:
    """Read what was run, in order: node, date, seconds, status, command.

    A line that a kill cut short is left out. Raises InputError for a line with other fields.
    """
    path = experiment.root / "journal.jsonl"
    lines: list[dict] = []
    if not path.exists():
        return lines
    with open_regular(path, "delete it: times are left out then", LARGEST) as file:
        texts = file.read().splitlines()
    for index, text in enumerate(texts, start=1):
        try:
            line = parsed(text, schema.ANYTHING)
        except InputError:
            continue
        schema.require(line, JOURNAL_LINE, f"{path}: line {index}", "delete the line")
        lines.append(line)
    return lines


def recorded(experiment: Experiment) -> dict[str, float]:
    """Return {node: seconds} of the commands that succeeded, with the time before each resume."""
    seconds, done = {}, set()
    for line in journal(experiment):
        seconds[line["node"]] = seconds.get(line["node"], 0.0) + line["seconds"]
        if line["status"] == 0:
            done.add(line["node"])
    return {name: seconds[name] for name in done}
