"""The files of an experiment, damaged or edited: one line names the file and the field, and
nothing hangs."""

import json

import pytest
from made_up import any_number_of_images, evaluate, experiment, train  # noqa: F401

from common.errors import InputError
from reproduction import run
from reproduction.experiment import recall, remember
from reproduction.plan import plan
from reproduction.question import reason
from utils.training import settings_file


@pytest.mark.parametrize(
    "change, said",
    [
        ({"seeds": 10**9}, "seeds is 1000000000, not a whole number from 1 to 1000"),
        ({"seeds": "3"}, "seeds is '3'"),
        ({"seeds": True}, "seeds is True"),
        ({"dataset": "../elsewhere"}, "dataset is '../elsewhere', not a data set"),
        ({"dataset": ["cifar10"]}, "dataset is a list"),
        ({"scale": "huge"}, "scale is 'huge', not a scale"),
        ({"scale": "full"}, "it is of cifar10-full"),
        ({"data_dir": 3}, "data_dir is 3"),
        ({"alpha": "x"}, "alpha is 'x'"),
        ({"data_note": None}, "data_note is None"),
    ],
)
def test_an_edited_experiment(change, said, tmp_path):
    one = experiment(tmp_path)
    remember(one)
    path = one.root / "experiment.json"
    assert recall(path) == one
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError) as caught:
        recall(path)
    message = str(caught.value)
    assert (
        message.startswith(f"{path}: does not say what was reproduced here: ") and said in message
    )


@pytest.mark.parametrize(
    "line, said",
    [
        ("[]", "line 2: it is a list"),
        ('{"node": "a", "seconds": "1", "status": 0}', "line 2: seconds is '1'"),
        ('{"node": 3, "seconds": 1, "status": 0}', "line 2: node is 3"),
        ('{"node": "a", "seconds": NaN, "status": 0}', "line 2: seconds is nan"),
        ('{"node": "a", "seconds": 1}', "line 2: status is missing"),
    ],
)
def test_an_edited_journal(line, said, tmp_path):
    one = experiment(tmp_path)
    one.root.mkdir()
    path = one.root / "journal.jsonl"
    good = '{"node": "a", "seconds": 1, "status": 0}'
    path.write_text(f"{good}\n{line}\n")
    with pytest.raises(InputError) as caught:
        run.recorded(one)
    assert str(caught.value).startswith(f"{path}: {said}")
    path.write_bytes(f"{good}\n".encode() + b"\xff{\n" + b"[" * 100_000 + b"\n")
    assert run.recorded(one) == {"a": 1.0}  # lines that a kill or a full disk left are no JSON


def test_settings_without_a_command_do_not_wait_for_the_standard_input(tmp_path):
    graph = plan(experiment(tmp_path), "table1")
    name = next(name for name, node in graph.nodes.items() if node.trains and not node.needs)
    train(graph, name)
    node = graph.nodes[name]
    assert graph.state(name) == "finished" and reason(graph, node) is None
    path = node.folder / "settings.json"
    for content in (
        json.loads(path.read_text()) | {"command": None},
        json.loads(path.read_text()) | {"options": []},
        json.loads(path.read_text()) | {"options": {"epochs": "5"}},
        json.loads(path.read_text()) | {"hardware": 3},
        [],
    ):
        path.write_text(json.dumps(content))
        assert plan(experiment(tmp_path), "table1").state(name) == "not run"
        reason(graph, node)


def test_an_evaluation_with_edited_numbers_is_not_finished(tmp_path):
    graph = plan(experiment(tmp_path), "table1")
    name = next(name for name, node in graph.nodes.items() if node.attacks)
    evaluate(graph, name, dict.fromkeys(graph.nodes[name].attacks, "rrf"))
    assert graph.state(name) == "finished"
    path = graph.product(name)
    content = json.loads(path.read_text())
    next(iter(content["attacks"].values()))["accuracy"] = 99.0
    path.write_text(json.dumps(content))
    assert plan(experiment(tmp_path), "table1").state(name) == "not run"


@pytest.mark.parametrize(
    "change, said",
    [
        ({"options": None}, "options is None"),
        ({"options": {"holdout": "x"}}, "options.holdout is 'x'"),
        ({"options": {"data_dir": 3}}, "options.data_dir is 3"),
        ({"options": {"epsilon": float("nan")}}, "options.epsilon is nan"),
        ({"command": 7}, "command is 7"),
    ],
)
def test_edited_settings(change, said, tmp_path):
    (tmp_path / "settings.json").write_text(json.dumps({"options": {}} | change))
    with pytest.raises(InputError) as caught:
        settings_file.read(tmp_path)
    assert f"--model-dir {tmp_path}: holds no run (no readable settings.json: {said}" in str(
        caught.value
    )
