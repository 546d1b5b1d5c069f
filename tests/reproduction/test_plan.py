"""The graph of runs: everything is made once, after what it reads, by commands that the scripts understand."""

import importlib
import json
import os
import re
import shlex
from dataclasses import replace

import made_up
import pytest
from made_up import evaluate, experiment, outcomes_of, train

from common.errors import InputError
from reproduction.experiment import recall, remember
from reproduction.node import ROOT
from reproduction.paper import FIGURES, PAPER, TABLES
from reproduction.plan import STABILITY, plan
from reproduction.scales import SCALES
from utils.settings.command_line import parse

any_number_of_images = made_up.any_number_of_images


def settings_of(words):
    """The options of a command, read as its script reads them."""
    module = words[1] if words[0] == "-m" else words[0].removesuffix(".py")
    rest = words[2:] if words[0] == "-m" else words[1:]
    return parse(importlib.import_module(module).Settings, "", rest)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("target", [*TABLES, *FIGURES, "all", STABILITY])
def test_every_run_comes_after_what_it_reads_and_is_made_once(target, scale, tmp_path):
    graph = plan(experiment(tmp_path, scale=scale, seeds=2), target)
    assert graph.nodes
    seen, written = set(), set()
    for name, node in graph.nodes.items():
        assert set(node.needs) <= seen and name == node.name
        seen.add(name)
        assert not written & set(node.outputs)
        written |= set(node.outputs)
    commands = [node.command for node in graph.nodes.values()]
    assert len(set(commands)) == len(commands)


@pytest.mark.parametrize("scale", SCALES)
def test_every_command_is_read_by_its_script_and_reads_what_is_written_before(scale, tmp_path):
    """Input files of a command are outputs of the nodes that it needs, and of no other."""
    asked = experiment(tmp_path, scale=scale, data_dir=tmp_path / "a folder")
    nodes = plan(asked, "all").nodes | plan(asked, STABILITY).nodes
    for node in nodes.values():
        assert shlex.split(node.command)[1:] == node.words and (
            node.words[0] == "-m" or (ROOT / node.words[0]).is_file()
        )
        settings_of(node.words)
        named = {word for word in node.words if word.startswith(str(asked.root))}
        own = {str(node.folder), *map(str, node.outputs)}
        for path in named - own:
            assert any(
                path in (str(nodes[each].folder), *map(str, nodes[each].outputs))
                for each in node.needs
            ), path


def test_what_two_tables_need_is_made_once(tmp_path):
    one = experiment(tmp_path)
    runs = {
        name: set(plan(one, name).nodes)
        for name in ("table1", "table2", "table3", "table4", "figure5", "figure7", "all")
    }
    assert runs["table3"] | runs["table4"] == runs["table1"] and not runs["table3"] & runs["table4"]
    assert {"seed1/linf/standard", "seed1/linf/namid", "seed1/linf/standard-estimators"} <= runs[
        "table2"
    ] & runs["table3"] & runs["figure5"]
    assert "seed1/linf/standard/white.json" in runs["table1"] & runs["figure5"]
    assert runs["all"] >= set.union(*runs.values())
    trainings = [node for node in plan(one, "all").nodes.values() if node.trains]
    assert (
        sum("--arch vgg19" in node.command for node in trainings) == 2
        and sum("--defense natural" in node.command for node in trainings) == 1
    )


def test_seeds_and_norms_go_through_the_chain(tmp_path):
    graph = plan(experiment(tmp_path, seeds=2, dataset="digits"), "table1")
    for name, node in graph.nodes.items():
        if node.trains:
            settings = settings_of(node.words)
            assert name.startswith(f"seed{settings.training.seed}/{settings.attack.norm}/")
            assert settings.attack.epsilon == {"linf": 0.12, "l2": 1.0}[settings.attack.norm]
    assert {name.split("/")[1] for name in plan(experiment(tmp_path), "table1", ("l2",)).nodes} == {
        "l2"
    }


def test_alpha_is_namids_alone(tmp_path):
    def alphas(**options):
        nodes = plan(experiment(tmp_path, **options), "all").nodes
        return {
            name.split("/")[-1]: settings_of(node.words).alpha
            for name, node in nodes.items()
            if node.words[0] == "train_MIAT.py"
        }

    wmim = alphas(scale="full").pop("wmim")
    for options, expected in (
        ({"scale": "full"}, 5.0),
        ({"scale": "tiny"}, 0.1),
        ({"scale": "tiny", "alpha": 0.7}, 0.7),
    ):
        found = alphas(**options)
        assert found.pop("wmim") == wmim and set(found.values()) == {expected} and len(found) == 7


def test_the_defenses_differ_as_the_paper_says(tmp_path):
    nodes = plan(experiment(tmp_path, scale="full"), "all").nodes
    said = {
        name: settings_of(nodes[f"seed1/linf/{name}"].words)
        for name in (
            "standard",
            "trades",
            "mart",
            "wmim",
            "namid",
            "namid_t",
            "namid_m",
            "namid_i",
            "namid_ii",
            "namid_iii",
            "namid_max",
        )
    }
    assert [said[name].defense for name in ("standard", "trades", "mart")] == [
        "standard",
        "trades",
        "mart",
    ]
    assert [said[name].adv_loss for name in ("namid", "namid_t", "namid_m")] == [
        "ce",
        "trades",
        "mart",
    ]
    assert [said[name].without for name in ("namid_i", "namid_ii")] == ["adversarial", "natural"]
    assert (
        said["namid_iii"].lam == 0 and said["namid"].lam == 0.1 and said["wmim"].mi_loss == "wmim"
    )
    assert all(
        each.training.epochs == 100 and each.network.arch == "resnet18" for each in said.values()
    )
    for name in ("wmim", "namid_max"):
        assert said[name].estimators.estimator_dir.name == "standard-estimators_max"
    assert settings_of(nodes["seed1/linf/namid/black.json"].words).surrogate.parent.name == "vgg19"


def test_only_some_defenses(tmp_path):
    names = set(plan(experiment(tmp_path), "table1", ("linf",), ["standard", "wmim"]).nodes)
    assert names == {
        f"seed1/linf/{name}"
        for name in (
            "standard",
            "standard-estimators_max",
            "wmim",
            "standard/white.json",
            "standard/white-aa.json",
            "wmim/white.json",
            "wmim/white-aa.json",
            "wmim/white-mi.json",
        )
    }


@pytest.mark.parametrize(
    "target, norm, named",
    [
        ("table3", "l2", "table3 is about linf"),
        ("table4", "linf", "table4 is about l2"),
        ("figure2", "l2", "figure2 is about linf"),
    ],
)
def test_a_norm_that_a_table_has_not_is_refused(target, norm, named, tmp_path):
    with pytest.raises(InputError, match=named):
        plan(experiment(tmp_path), target, (norm,))


def test_the_papers_tables_are_where_they_say():
    assert TABLES == {
        "table1": [("white", "linf"), ("white", "l2")],
        "table2": [("black", "linf")],
        "table3": [("white", "linf")],
        "table4": [("white", "l2")],
        "table5": [("black", "linf")],
        "table6": [("black", "l2")],
    }
    cells = [
        value
        for part in PAPER.values()
        if isinstance(part, dict)
        for dataset in ("cifar10", "tiny-imagenet")
        for row in part[dataset].values()
        for value in row.values()
    ]
    assert len(cells) == 2 * (7 * 5 + 7 * 4 + 3 * 5 + 3 * 4) and all(
        0 < mean < 100 and 0 < deviation < 1 for mean, deviation in cells
    )
    home = ROOT / "reproduction/paper.json"
    printed = re.compile(r"\b83\.39\b|\b69\.57\b|\b34\.48\b")  # some of its figures
    elsewhere = [
        path
        for path in ROOT.glob("**/*.py")
        if ".venv" not in path.parts
        and path != ROOT / "tests/reproduction/test_plan.py"
        and printed.search(path.read_text())
    ]
    assert printed.search(home.read_text()) and not elsewhere


def test_a_run_is_finished_when_its_files_say_so(tmp_path):
    """Each way of not being finished on its own."""
    graph = plan(experiment(tmp_path), "table3")
    model, results = "seed1/linf/standard", "seed1/linf/standard/white.json"
    node, path = graph.nodes[model], graph.product(results)
    assert graph.state(model) == graph.state(results) == "not run"
    train(graph, model)
    evaluate(graph, results, dict.fromkeys(graph.nodes[results].attacks, outcomes_of(3, 5)))
    assert graph.state(model) == graph.state(results) == "finished"

    complete = path.read_text()
    path.write_text(complete.replace('"n": 5', '"n": 6'))  # stopped in the middle
    assert graph.state(results) == "not run"
    path.write_text("{")
    assert graph.state(results) == "not run"
    path.write_text(complete)
    later = path.stat().st_mtime_ns + 10**9
    os.utime(
        graph.product(model), ns=(later, later)
    )  # a date alone says nothing of what a hash says
    assert graph.state(results) == graph.state(model) == "finished"
    graph.product(model).write_bytes(b"made again, another")
    assert graph.state(results) == "stale" and graph.state(model) == "finished"

    (node.folder / "last_model.pth").unlink()
    assert graph.state(model) == "not run"
    train(graph, model)
    settings = node.folder / "settings.json"
    settings.write_text(settings.read_text().replace("--width 8", "--width 9"))
    assert graph.state(model) == graph.state(results) == "stale"


@pytest.mark.parametrize("lacking", ["warnings", "worst_case"])
def test_a_stopped_evaluation_is_not_finished(lacking, tmp_path):
    """Stopped after its last row, a results file lacks what test_comparison.py writes at its end."""
    graph = plan(experiment(tmp_path), "table3")
    name = "seed1/linf/standard/white.json"
    evaluate(graph, name, dict.fromkeys(graph.nodes[name].attacks, outcomes_of(3, 5)))
    path = graph.product(name)
    complete = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in complete.items() if key != lacking}))
    assert graph.state(name) == "not run" and graph.why(name) is None
    path.write_text(
        json.dumps(complete | {"worst_case": {"attacks": ["none", "pgd-40"]}})
    )  # extended, then stopped
    assert graph.state(name) == "not run"
    del complete["attacks"]["tidim"]["warnings"]
    path.write_text(json.dumps(complete))
    assert graph.state(name) == "not run"


def test_half_saved_images_are_not_finished(tmp_path):
    graph = plan(experiment(tmp_path), "figure4")
    name = "seed1/linf/standard/images.json"
    evaluate(graph, name, {"pgd-40": "rf"})
    assert graph.state(name) == "finished"
    graph.product(name).with_name("images.npz.parts").mkdir()
    assert graph.state(name) == "not run"


def test_what_comes_after_a_diverged_training_is_diverged(tmp_path):
    graph = plan(experiment(tmp_path), "table3")
    train(graph, "seed1/linf/standard-estimators")
    graph.nodes["seed1/linf/standard-estimators"].diverged_note.write_text("")
    states = {name.removeprefix("seed1/linf/"): graph.state(name) for name in graph.nodes}
    assert {name for name, state in states.items() if state == "diverged"} == {
        "standard-estimators",
        *(
            f"{name}{part}"
            for name in ("namid", "namid_t", "namid_m")
            for part in ("", "/white.json", "/white-aa.json", "/white-mi.json")
        ),
    }


def test_an_experiment_remembers_the_most_seeds_and_the_note(tmp_path):
    one = experiment(tmp_path, seeds=3, data_note="JPEG", data_dir=tmp_path / "d")
    remember(one)
    again = remember(experiment(tmp_path, seeds=1))
    assert again == one and recall(one.root / "experiment.json") == one
    assert remember(experiment(tmp_path, data_note="new")).data_note == "new"
    with pytest.raises(InputError, match="another --out"):
        remember(replace(one, alpha=2.0))
    (one.root / "experiment.json").write_text('{"seeds": 1}')
    with pytest.raises(InputError, match="experiment.json: does not say"):
        remember(one)
