"""Run what is missing of a graph, one command at a time, and go on from wherever it was stopped."""
import contextlib
import fcntl
import json
import signal
import subprocess
import sys
import time

from errors import InputError
from reproduction.plan import ROOT, Experiment, Graph, Node

DIVERGED = 3  # the stages' exit status


class Stopped(Exception):
    """A command ended with the exit status `status`."""

    def __init__(self, node: Node, status: int):
        super().__init__(f"{node.name} ended with status {status}: {node.command}")
        self.status = status


@contextlib.contextmanager
def alone(experiment: Experiment):
    """Inside, no other process runs commands of this experiment; yields the lock, which each command holds as well: one that
    outlives the process that started it still keeps the next from starting a second beside it."""
    experiment.root.mkdir(parents=True, exist_ok=True)
    with open(experiment.root / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting: another command works in {experiment.root}", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock


def execute(words: list[str], lock) -> int:
    """The exit status of `python words`, run in the repository's folder. SIGINT and SIGTERM go to it, and we wait for it to save
    its state; killed by a signal, its status is 128 + the signal."""
    process, received = None, []

    def forward(number, frame):
        received.append(number)
        if process is not None:
            process.send_signal(number)

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:  # in a process group of its own, so that the terminal's Ctrl-C reaches it once, through us
        process = subprocess.Popen([sys.executable, *words], cwd=ROOT, stdin=subprocess.DEVNULL, process_group=0,
                                   pass_fds=(lock.fileno(),))
        for number in received:  # while it was being started
            process.send_signal(number)
        status = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received and status == 0:
        return 128 + received[0]
    return status if status >= 0 else 128 - status


def run(graph: Graph) -> None:
    """Make what is missing, in order. A training that diverges is noted, what needs it is left out, and the rest goes on; any
    other failure raises Stopped."""
    experiment, total = graph.experiment, len(graph.nodes)
    with alone(experiment) as lock:
        missing = [name for name in graph.nodes if graph.state(name) == "not run"]
        print(f"{experiment.root}: {total} runs, {total - len(missing)} of them finished", flush=True)
        for number, name in enumerate(missing, 1):
            node = graph.nodes[name]
            if graph.state(name) == "diverged":
                print(f"\n{name}: left out, for a run that it needs has diverged", flush=True)
                continue
            print(f"\n[{number}/{len(missing)}] {node.purpose}\n$ {node.command}", flush=True)
            began = time.time()
            status = execute(node.words, lock)
            _note(experiment, node, began, status)
            if status == DIVERGED and node.trains:
                node.diverged_note.write_text(f"{node.command}\nended with status {status}: training diverged. Delete this "
                                              "folder to have it made anew.\n")
                print(f"{name}: diverged; the rest goes on", flush=True)
            elif status:
                raise Stopped(node, status)
            for path in node.outputs:
                if path.is_file():
                    path.touch()  # the command has looked at what it read: nothing of that is younger any more
            if not status and graph.state(name) != "finished":
                files = ", ".join(path.name for path in node.outputs)
                raise InputError(f"{name}: its command ended well but left {files} in {node.folder} missing or incomplete; "
                                 "delete what is there and start again")


def _note(experiment: Experiment, node: Node, began: float, status: int) -> None:
    """A line in the experiment's journal."""
    line = {"node": node.name, "date": time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(began)),
            "seconds": round(time.time() - began, 1), "status": status, "command": node.command}
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
