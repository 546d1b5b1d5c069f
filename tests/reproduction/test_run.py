"""Running a graph: what is missing, once, in order; kills, failures and divergence; what it costs."""

import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import made_up
import pytest
from made_up import evaluate, experiment, outcomes_of, train

from reproduction import cost, run
from reproduction.node import ROOT
from reproduction.plan import plan

any_number_of_images = made_up.any_number_of_images


@pytest.fixture
def graph(tmp_path):
    return plan(experiment(tmp_path), "table3", defenses=["standard", "namid"])


def makes(graph, calls, statuses=None):
    """In the place of `launch`: writes what the command would, and keeps what was called."""

    def launch(words, lock, log, threads):
        (name,) = (name for name, node in graph.nodes.items() if node.words == words)
        calls.append(name)
        status = (statuses or {}).get(name, 0)
        graph.nodes[name].folder.mkdir(parents=True, exist_ok=True)
        if status == 0:
            attacks = graph.nodes[name].attacks
            evaluate(graph, name, dict.fromkeys(attacks, outcomes_of(3, 5))) if attacks else train(
                graph, name
            )
        return ended(status)

    return launch


def ended(status):
    """A process that has ended."""
    return SimpleNamespace(poll=lambda: status, send_signal=lambda number: None)


ORDER = [
    "seed1/linf/standard",
    "seed1/linf/standard/white.json",
    "seed1/linf/standard/white-aa.json",
    "seed1/linf/standard-estimators",
    "seed1/linf/namid",
    "seed1/linf/namid/white.json",
    "seed1/linf/namid/white-aa.json",
    "seed1/linf/namid/white-mi.json",
]


def test_each_is_run_once_and_not_again(graph, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(run, "launch", makes(graph, calls))
    run.run(graph)
    assert calls == ORDER == list(graph.nodes)
    run.run(graph)
    assert calls == ORDER and "8 runs, 8 of them finished" in capsys.readouterr().out
    graph.product("seed1/linf/namid/white.json").unlink()
    run.run(graph)
    assert calls[8:] == ["seed1/linf/namid/white.json"]


def without_hashes(path):
    """As files were written before they had hashes of what they read."""
    content = json.loads(path.read_text())
    path.write_text(
        json.dumps({name: value for name, value in content.items() if not name.endswith("_hash")})
    )


def test_dates_decide_only_where_there_is_no_hash(graph, monkeypatch):
    """Files whose dates are in disorder, as after a copy: with hashes nothing runs. Without, each
    command looks once, and not again."""
    calls = []
    monkeypatch.setattr(run, "launch", makes(graph, calls))
    run.run(graph)
    for age, name in enumerate(reversed(ORDER)):
        for path in graph.nodes[name].outputs:
            os.utime(path, (1e9 + age, 1e9 + age))
    run.run(graph)
    assert len(calls) == 8
    for age, name in enumerate(reversed(ORDER)):
        node = graph.nodes[name]
        without_hashes(node.folder / "settings.json" if node.trains else node.outputs[0])
        for path in node.outputs:
            os.utime(path, (1e9 + age, 1e9 + age))
    monkeypatch.setattr(run, "launch", lambda words, *how: calls.append(words) or ended(0))
    run.run(graph)
    assert len(calls) == 8 + 7  # the first reads nothing that could be younger
    run.run(graph)
    assert len(calls) == 8 + 7


def test_a_run_called_by_other_paths_is_the_same(graph, monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(run, "launch", makes(graph, calls))
    run.run(graph)
    moved = plan(
        experiment(tmp_path, data_dir=tmp_path / "elsewhere"),
        "table3",
        defenses=["standard", "namid"],
    )
    assert all(moved.state(name) == "finished" for name in ORDER)
    settings = json.loads((graph.nodes[ORDER[4]].folder / "settings.json").read_text())
    settings["command"] = settings["command"].replace("--alpha 0.1", "--alpha 0.2")
    (graph.nodes[ORDER[4]].folder / "settings.json").write_text(json.dumps(settings))
    assert [name for name in ORDER if graph.state(name) != "finished"] == ORDER[4:]
    assert graph.why(ORDER[4]) == "made by another command (--alpha 0.2 then, 0.1 now)"
    assert graph.why(ORDER[5]) == "reads seed1/linf/namid, which is stale"


def test_what_was_made_from_a_run_that_is_gone_is_made_again(graph, monkeypatch):
    calls = []
    monkeypatch.setattr(run, "launch", makes(graph, calls))
    run.run(graph)
    graph.product(ORDER[0]).unlink()
    run.run(graph)
    assert (
        calls[8] == ORDER[0]
        and {*calls[8:]} >= {ORDER[1], ORDER[2], ORDER[3]}
        and all(graph.state(name) == "finished" for name in ORDER)
    )


def test_an_error_leaves_no_command_running(tmp_path):
    with pytest.raises(BrokenPipeError), run.Commands() as commands:
        commands.start("sleeps", ["-c", "import time; time.sleep(60)"])
        process = commands.running["sleeps"]
        raise BrokenPipeError
    assert process.returncode == -signal.SIGTERM


def test_a_failure_stops_with_its_status(graph, monkeypatch):
    calls = []
    monkeypatch.setattr(run, "launch", makes(graph, calls, {ORDER[3]: 2}))
    with pytest.raises(
        run.Stopped, match=r"standard-estimators ended with status 2: .*train_MI_estimator.py"
    ) as stopped:
        run.run(graph)
    assert stopped.value.status == 2 and calls == ORDER[:4] and "\n" not in str(stopped.value)


def test_a_diverged_defense_is_noted_and_the_rest_goes_on(graph, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(run, "launch", makes(graph, calls, {"seed1/linf/standard-estimators": 3}))
    run.run(graph)
    assert calls == ORDER[:4] and graph.state("seed1/linf/namid/white.json") == "diverged"
    assert "namid: left out" in capsys.readouterr().out
    run.run(graph)
    assert calls == ORDER[:4]  # not tried again
    graph.nodes[ORDER[3]].diverged_note.unlink()
    monkeypatch.setattr(run, "launch", makes(graph, calls))
    run.run(graph)
    assert calls[4:] == ORDER[3:]


def test_a_command_that_ends_well_and_leaves_nothing_is_no_success(graph, monkeypatch):
    monkeypatch.setattr(run, "launch", lambda *how: ended(0))
    with pytest.raises(run.InputError, match="best_model.pth, last_model.pth"):
        run.run(graph)


def test_the_journal_sums_a_run_that_was_stopped(graph, tmp_path):
    lines = [
        {"node": "a", "seconds": 2.0, "status": 130},
        {"node": "a", "seconds": 3.0, "status": 0},
        {"node": "b", "seconds": 1.0, "status": 3},
    ]
    root = graph.experiment.root
    assert run.journal(graph.experiment) == []
    root.mkdir()
    (root / "journal.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines) + '{"node": "a", "sec'
    )
    assert run.journal(graph.experiment) == lines and run.recorded(graph.experiment) == {"a": 5.0}


CHILD = """
import fcntl, pathlib, sys
sys.path.insert(0, {root!r})
from reproduction import run
from reproduction.experiment import Experiment
with run.exclusive(Experiment(pathlib.Path({out!r}), "digits", "tiny", 1)) as lock, run.Commands(lock) as commands:
    print("began", flush=True)
    commands.start("a", ["-c", {command!r}])
    sys.exit(commands.wait()[1])
"""
WAITS = (
    "import pathlib, signal, sys, time\n"
    "def saved(number, frame): pathlib.Path({path!r}).write_text(str(number)); sys.exit(128 + number)\n"
    "signal.signal(signal.SIGTERM, saved), signal.signal(signal.SIGINT, saved)\n"
    "print('ready', flush=True)\n"
    "time.sleep({seconds})\n"
    "pathlib.Path({path!r}).write_text('whole')"
)


def start(tmp_path, seconds):
    command = WAITS.format(path=str(tmp_path / "state"), seconds=seconds)
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD.format(root=str(ROOT), out=str(tmp_path), command=command)],
        text=True,
        stdout=subprocess.PIPE,
    )
    assert [process.stdout.readline(), process.stdout.readline()] == ["began\n", "ready\n"]
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_goes_to_the_command_which_saves_its_state(number, tmp_path):
    process = start(tmp_path, 60)
    process.send_signal(number)
    assert process.wait() == 128 + number and (tmp_path / "state").read_text() == str(int(number))
    process.stdout.close()


def test_a_command_that_outlives_a_kill_is_waited_for(tmp_path, capsys):
    """SIGKILL reaches the runner alone: what it had started continues, and nothing is started beside it."""
    process = start(tmp_path, 1.5)
    process.kill()
    process.wait()
    process.stdout.close()
    assert not (tmp_path / "state").exists()
    with run.exclusive(experiment(tmp_path, dataset="digits")):
        assert (tmp_path / "state").read_text() == "whole" and "waiting" in capsys.readouterr().out


def test_the_status_of_a_command_that_a_signal_killed(tmp_path):
    with run.exclusive(experiment(tmp_path)) as lock, run.Commands(lock) as commands:
        commands.start("killed", ["-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"])
        assert commands.wait() == ("killed", 137)
        commands.start("failed", ["-c", "print('why'); raise SystemExit(3)"], tmp_path / "log.txt")
        assert commands.wait() == ("failed", 3) and (tmp_path / "log.txt").read_text() == "why\n"


def test_several_at_a_time_each_after_what_it_needs(tmp_path, monkeypatch):
    """Processes that take a while: never more than three, some three of them together, and none before what it reads."""
    graph = plan(experiment(tmp_path, seeds=2), "table3", defenses=["standard", "trades"])
    make, running, seen = makes(graph, []), {}, []

    def launch(words, lock, log, threads):
        (name,) = (name for name, node in graph.nodes.items() if node.words == words)
        assert all(graph.state(each) == "finished" for each in graph.nodes[name].needs)
        assert (
            log == graph.experiment.root / "logs" / f"{name.replace('/', '-')}.txt"
            and threads == max(1, len(os.sched_getaffinity(0)) // 3)
        )
        running[name] = 3
        seen.append(len(running))

        def poll():
            running[name] -= 1
            if running[name]:
                return None
            del running[name]
            return make(words, lock, log, threads).poll()

        return SimpleNamespace(poll=poll, send_signal=lambda number: None)

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(run, "launch", launch)
    run.run(graph, jobs=3)
    assert max(seen) == 3 and all(graph.state(name) == "finished" for name in graph.nodes)


def test_a_failure_stops_those_beside_it(tmp_path, monkeypatch):
    graph = plan(experiment(tmp_path, seeds=2), "table3", defenses=["standard"])
    stopped = []

    def launch(words, lock, log, threads):
        if "1" in words:  # seed 1 fails at once, seed 2 ends when it is told to
            return ended(2)
        return SimpleNamespace(poll=lambda: 143 if stopped else None, send_signal=stopped.append)

    monkeypatch.setattr(run, "launch", launch)
    with pytest.raises(
        run.Stopped,
        match="seed1/linf/standard ended with status 2.*seed1-linf-standard.txt says why",
    ):
        run.run(graph, jobs=2)
    assert stopped == [signal.SIGTERM] and [
        line["status"] for line in run.journal(graph.experiment)
    ] == [2, 143]


def test_costs_are_passes_times_the_time_of_one(graph, monkeypatch):
    """With a pass of 1 s, an estimators' step of 100 s per image and no start, counted by hand: 400 images train, 100 are
    watched with 5 steps after each of 5 epochs; 5 attack steps; a training pass 1.5, a forward pass 0.5."""
    costs = cost.Costs(graph)
    costs.start = 0.0
    monkeypatch.setattr(costs, "pass_seconds", lambda network, batch: 1.0)
    monkeypatch.setattr(costs, "estimator_seconds", lambda units, batch: 100.0)
    standard, white, autoattack, estimators, namid, *_ = map(costs.seconds, graph.nodes)
    assert standard == 5 * (400 * (5 + 1.5) + 100 * 5)
    assert estimators == 2 * 400 * (5 + 1 + 100) + 100 * 5
    assert namid == pytest.approx(400 * 1.5 + 4 * 400 * (5 + 3 + 100 / 1.5) + 5 * 100 * 5)
    assert white == pytest.approx(
        40 * (0.5 + 0.4 * (0.5 + 40 + 120 + 40))
    ) and autoattack == pytest.approx(20 * (0.5 + 0.4 * 5000))


def test_recorded_times_come_first_for_every_seed(tmp_path):
    two = plan(experiment(tmp_path, seeds=2), "table3", defenses=["standard"])
    two.experiment.root.mkdir(parents=True)
    (two.experiment.root / "journal.jsonl").write_text(
        json.dumps({"node": "seed1/linf/standard", "seconds": 77.0, "status": 0}) + "\n"
    )
    costs = cost.Costs(two)
    costs.start = 0.0
    assert costs.seconds("seed1/linf/standard") == costs.seconds("seed2/linf/standard") == 77.0
    assert costs.seconds("seed2/linf/standard/white.json") != 77.0


def test_a_pass_is_measured(graph):
    costs = cost.Costs(graph)
    began = time.monotonic()
    seconds = costs.seconds("seed1/linf/namid")
    assert 0 < costs.start and costs.start < seconds < 1e5 and len(costs.measured) == 2
    assert all(0 < each < time.monotonic() - began for each in costs.measured.values())


def test_sizes_are_read_from_arrays(tmp_path):
    import numpy

    for split, n in (("train", 30), ("test", 7)):
        numpy.save(tmp_path / f"{split}_images.npy", numpy.zeros((n, 32, 32, 3), numpy.uint8))
        numpy.save(tmp_path / f"{split}_labels.npy", numpy.arange(n) % 10)
    assert cost.sizes("cifar10", tmp_path) == (30, 7) and cost.sizes("cifar10", None) == (
        50000,
        10000,
    )
    with pytest.raises(run.InputError, match="--data-dir"):
        cost.sizes("arrays", None)
