"""What makes a finished run stale: other data, another question, other files. Nothing of it is lost."""

import json
from types import SimpleNamespace

import numpy
import pytest
from conftest import DATA, ESTIMATOR, SMALL, succeed
from made_up import evaluate, experiment, measure, outcomes_of, train

import reproduce
from reproduction import question, run
from reproduction.now import data_of, file_hash
from reproduction.plan import plan
from utils.evaluation.identity import NOT_COMPARED

STANDARD, WHITE = "seed1/linf/standard", "seed1/linf/standard/white.json"


def write_data(folder, first=0):
    """700 training and 60 test images, `first` in the first pixel."""
    folder.mkdir()
    random = numpy.random.RandomState(0)
    for split, n in (("train", 700), ("test", 60)):
        images = random.randint(1, 256, (n, 32, 32, 3)).astype(numpy.uint8)
        images[0, 0, 0, 0] = first
        numpy.save(folder / f"{split}_images.npy", images)
        numpy.save(folder / f"{split}_labels.npy", numpy.arange(n) % 10)
    return folder


@pytest.fixture(autouse=True)
def _todays_settings(monkeypatch):
    monkeypatch.setattr(question.registry, "settings_of", settings_of, raising=False)


@pytest.fixture
def graph(tmp_path):
    """Table 3's standard AT, evaluated on data of our own, attacks run with one setting."""
    graph = planned(tmp_path, write_data(tmp_path / "data"))
    finish(graph)
    return graph


def settings_of(name, norm, epsilon, **extra):
    return {} if name == "none" else {"norm": norm, "epsilon": epsilon, "steps": 40}


def planned(out, data_dir):
    return plan(experiment(out, data_dir=data_dir), "table3", defenses=["standard"])


def finish(graph, names=None):
    for name in names or graph.nodes:
        node = graph.nodes[name]
        if node.trains:
            train(graph, name)
            continue
        size = 20 if name.endswith("aa.json") else 40
        evaluate(graph, name, dict.fromkeys(node.attacks, outcomes_of(3, size)))
        own = question._estimators_of(graph, node) if "--estimator-dir" in node.words else {}
        edit(
            node,
            {
                ("attacks", each, "settings"): settings_of(each, "linf", 8 / 255) | own
                for each in node.attacks
            },
        )


def edit(node, values):
    """Change values of a results file, {keys: value}; MISSING takes one away."""
    path = node.outputs[-1]
    content = json.loads(path.read_text())
    for keys, value in values.items():
        place = content
        for key in keys[:-1]:
            place = place[key]
        if value is MISSING:
            del place[keys[-1]]
        else:
            place[keys[-1]] = value
    path.write_text(json.dumps(content))


MISSING = object()


def test_other_data_are_made_again_and_nothing_is_lost(graph, tmp_path, monkeypatch, capsys):
    """The same command with another data folder: every node is stale, says why, and is kept."""
    before = data_of(graph.experiment, 500)[0]
    graph.nodes[STANDARD].outputs[0].write_bytes(b"the old model")
    edit(graph.nodes[WHITE], {("model_hash",): file_hash(graph.product(STANDARD))})
    edit(
        graph.nodes[WHITE.replace("white", "white-aa")],
        {("model_hash",): file_hash(graph.product(STANDARD))},
    )
    assert {graph.state(name) for name in graph.nodes} == {"finished"}
    same = planned(tmp_path, write_data(tmp_path / "the same elsewhere"))
    assert {same.state(name) for name in same.nodes} == {"finished"}
    other = planned(tmp_path, write_data(tmp_path / "other", first=9))
    now = data_of(other.experiment, 500)[0]
    assert before != now and {other.state(name) for name in other.nodes} == {"stale"}
    assert other.why(STANDARD) == f"made from other data (fingerprint {before} then, {now} now)"

    calls = []

    def launch(words, *how):
        (name,) = (name for name, node in other.nodes.items() if node.words == words)
        calls.append(name)
        finish(other, [name])
        return SimpleNamespace(poll=lambda: 0, send_signal=lambda number: None)

    monkeypatch.setattr(run, "launch", launch)
    run.run(other)
    said = capsys.readouterr().out
    kept = other.experiment.root / "stale" / f"{STANDARD}-1"
    assert calls == list(other.nodes) and "3 runs, 0 of them finished" in said
    assert (
        f"{STANDARD}: made from other data (fingerprint {before} then, {now} now); set aside in {kept}, made again"
        in said
    )
    assert [line.split(":")[0] for line in said.splitlines() if "made again" in line] == list(
        other.nodes
    )
    assert (kept / "best_model.pth").read_bytes() == b"the old model"
    assert {path.name for path in kept.iterdir()} >= {
        "settings.json",
        "metrics.csv",
        "white.json",
        "white-aa.json",
    }
    assert {other.state(name) for name in other.nodes} == {"finished"}
    run.run(other)
    assert len(calls) == 3


@pytest.mark.parametrize(
    "keys, value, said",
    [
        (("n",), 10, "n 10 (now 40)"),
        (("norm",), "l2", "norm l2 (now linf)"),
        (("epsilon",), 3, "epsilon 3 (now 0.03"),
        (("seed",), 77, "seed 77 (now 1)"),
        (("batch_size",), 7, "batch_size 7 (now 40)"),
        (("split",), "holdout", "split holdout"),
        (("rounded",), True, "rounded True"),
        (("precision",), "bf16", "precision bf16"),
        (("step_size",), 0.1, "step_size 0.1"),
        (("released_settings",), True, "released_settings True"),
        (("adv_hash",), "abc", "adv_hash abc"),
        (("model_hash",), "abc", "model_hash abc"),
        (("surrogate_hash",), "abc", "surrogate_hash abc"),
        (("data_fingerprint",), "1234", "fingerprint 1234 then"),
        (("data_fingerprint",), MISSING, "fingerprint unknown then"),
        (("norm",), MISSING, "norm None"),
        (("attacks", "fwa-40", "settings", "steps"), 30, "fwa-40: made with steps 30 (now 40)"),
        (("attacks", "fwa-40", "settings", "kernel"), 4, "fwa-40: made with kernel 4 (now None)"),
        (("attacks", "tidim", "settings"), MISSING, "tidim: made before rows named their settings"),
    ],
)
def test_every_part_of_an_evaluations_question_counts(graph, keys, value, said):
    edit(graph.nodes[WHITE], {keys: value})
    assert (
        graph.state(WHITE) == "stale" and said in graph.why(WHITE) and "\n" not in graph.why(WHITE)
    )
    assert graph.state(STANDARD) == graph.state(WHITE.replace("white", "white-aa")) == "finished"


def test_an_old_row_without_settings_passes_where_none_have_changed(graph):
    edit(
        graph.nodes[WHITE],
        {("attacks", name, "settings"): MISSING for name in ("none", "pgd-40", "fwa-40")},
    )
    edit(graph.nodes[WHITE], {("adv_hash",): MISSING, ("factory",): MISSING, ("rules",): MISSING})
    assert graph.state(WHITE) == "finished"


def test_only_the_stale_evaluation_is_set_aside(graph, monkeypatch, capsys):
    edit(graph.nodes[WHITE], {("seed",): 77})
    folder = graph.nodes[WHITE].folder
    (folder / "white-pgd-40.png").write_bytes(b"picture")
    monkeypatch.setattr(
        run, "launch", lambda *how: finish(graph, [WHITE]) or SimpleNamespace(poll=lambda: 0)
    )
    run.run(graph)
    kept = graph.experiment.root / "stale/seed1/linf/standard/white.json-1"
    assert (
        json.loads((kept / "white.json").read_text())["seed"] == 77
        and (kept / "white-pgd-40.png").exists()
    )
    assert (
        graph.state(WHITE) == "finished" and "3 runs, 2 of them finished" in capsys.readouterr().out
    )
    edit(graph.nodes[WHITE], {("seed",): 78})
    run.run(graph)
    assert json.loads((kept.with_name("white.json-2") / "white.json").read_text())["seed"] == 78


def test_a_training_of_other_data_is_stale_while_it_is_unfinished_and_when_it_diverged(graph):
    node = graph.nodes[STANDARD]
    settings = json.loads((node.folder / "settings.json").read_text())
    (node.folder / "settings.json").write_text(json.dumps(settings | {"data_fingerprint": "1234"}))
    (node.folder / "last_model.pth").unlink()
    assert graph.state(STANDARD) == "stale"
    node.diverged_note.write_text("")
    assert graph.state(STANDARD) == "stale"
    (node.folder / "settings.json").write_text(json.dumps(settings))
    assert graph.state(STANDARD) == "diverged"


def test_a_training_reads_the_files_that_are_there_now(graph, tmp_path):
    graph = plan(experiment(tmp_path, data_dir=tmp_path / "data"), "table3", defenses=["namid"])
    finish(graph)
    estimators = "seed1/linf/standard-estimators"
    graph.product(STANDARD).write_bytes(b"another")
    assert graph.state(STANDARD) == "finished" and "made from another best_model.pth" in graph.why(
        estimators
    )
    assert graph.why("seed1/linf/namid") == f"reads {estimators}, which is stale"


def test_what_reads_a_run_that_is_made_the_same_again_stays(tmp_path, monkeypatch, capsys):
    """Estimators of a run whose model is trained again from scratch, equal bit for bit, are not moved."""
    graph = plan(
        experiment(tmp_path, data_dir=write_data(tmp_path / "data")), "table3", defenses=["namid"]
    )
    finish(graph)
    settings = graph.nodes[STANDARD].folder / "settings.json"
    settings.write_text(settings.read_text().replace("--width 8", "--width 9"))
    calls = []

    def launch(words, *how):
        (name,) = (name for name, node in graph.nodes.items() if node.words == words)
        calls.append(name)
        if not all(path.exists() for path in graph.nodes[name].outputs):
            finish(graph, [name])
        return SimpleNamespace(poll=lambda: 0, send_signal=lambda number: None)

    monkeypatch.setattr(run, "launch", launch)
    run.run(graph)
    stale = graph.experiment.root / "stale/seed1/linf"
    assert [path.name for path in stale.iterdir()] == ["standard-1"] and calls == list(graph.nodes)
    assert (
        "seed1/linf/namid: reads seed1/linf/standard-estimators, which is stale; made again"
        in capsys.readouterr().out
    )
    assert all(graph.state(name) == "finished" for name in graph.nodes)


def test_mi_values_are_compared_with_all_that_they_read(tmp_path):
    graph = plan(experiment(tmp_path, data_dir=write_data(tmp_path / "data")), "figure4")
    name = "seed1/linf/standard/mi-estimators.json"
    for each in graph.nodes:
        if "/mi-" in each:
            measure(graph, each, {"pgd-40": {"n": 3}})
            images = graph.nodes[f"{STANDARD}/images.json"]
            edit(
                images, {("attacks", "pgd-40", "settings"): settings_of("pgd-40", "linf", 8 / 255)}
            )
    assert graph.state(name) == "finished"
    node = graph.nodes[name]
    for keys, value in (
        (("n",), 3),
        (("batch_size",), 3),
        (("epsilon",), 0.5),
        (("adv_hash",), "a"),
        (("model_hash",), "a"),
        (("estimator_hashes", "pre_global_a"), "a"),
        (("data_fingerprint",), "a"),
    ):
        complete = node.outputs[0].read_text()
        edit(node, {keys: value})
        assert graph.state(name) == "stale", keys
        node.outputs[0].write_text(complete)
    graph.nodes["seed1/linf/standard-estimators"].outputs[1].write_bytes(b"another")
    assert "estimator_hashes" in graph.why(name)


def test_a_plan_shows_what_is_stale_and_moves_nothing(graph, monkeypatch, capsys):
    from reproduction import cost

    monkeypatch.setattr(cost.Costs, "seconds", lambda self, name: 60.0)
    edit(graph.nodes[WHITE], {("seed",): 77})
    settings = SimpleNamespace(
        target="table3",
        scale="tiny",
        **dict.fromkeys(
            ("dataset", "data_dir", "data_note", "norm", "seeds", "defenses", "alpha", "out")
        ),
    )
    reproduce.show(graph, settings)
    said = capsys.readouterr().out
    assert (
        "#    stale: made with seed 77 (now 1)" in said
        and "about 60 s for those that are missing" in said
    )
    assert not (graph.experiment.root / "stale").exists()


def test_nothing_is_loaded_where_nothing_is_finished(tmp_path, monkeypatch):
    monkeypatch.setattr("data.load", lambda *_: pytest.fail("loaded"))
    graph = planned(tmp_path, write_data(tmp_path / "data"))
    assert {graph.state(name) for name in graph.nodes} == {"not run"}


def test_data_that_would_be_downloaded_are_not_compared(graph, tmp_path, capsys):
    away = planned(tmp_path, tmp_path / "no such folder")
    assert {away.state(name) for name in away.nodes} == {"finished"}
    run.run(away)
    assert "what is finished was not compared" in capsys.readouterr().out


def test_the_identity_is_what_the_scripts_write(tmp_path):
    """Real files of every kind: what they say is what is asked for, and nothing of it is left out."""
    graph = plan(experiment(tmp_path, dataset="digits"), "figure4")
    folder = graph.nodes[STANDARD].folder
    model, estimators = (
        folder / "best_model.pth",
        graph.nodes["seed1/linf/standard-estimators"].folder,
    )
    name, mi = f"{STANDARD}/images.json", f"{STANDARD}/mi-estimators.json"
    said = ["--epsilon", "0.12", "--limit-train", "500"]
    succeed("train_standard.py", *SMALL, *said, "--epochs", 1, "--model-dir", folder)
    succeed(
        "train_MI_estimator.py",
        *ESTIMATOR,
        *said,
        "--epochs",
        1,
        "--pre-target",
        model,
        "--model-dir",
        estimators,
    )
    succeed(
        "test_comparison.py",
        *["pgd-2" if word == "pgd-40" else word for word in graph.nodes[name].words[1:]],
    )
    results = json.loads(graph.nodes[name].outputs[-1].read_text())
    wanted = question.expected(graph, graph.nodes[name])
    assert set(wanted) == set(results) - set(NOT_COMPARED) - {"attacks", "arch"}
    assert {key: results[key] for key in wanted} == pytest.approx(wanted)
    assert (
        DATA[1] == "digits" and results["data_fingerprint"] == data_of(graph.experiment, 500, 40)[0]
    )

    succeed("reproduction/mi_values.py", *graph.nodes[mi].words[2:])
    results, wanted = (
        json.loads(graph.nodes[mi].outputs[0].read_text()),
        question.expected(graph, graph.nodes[mi]),
    )
    assert {key: results[key] for key in wanted} == wanted and {
        "adv_hash",
        "estimator_hashes",
        "data_fingerprint",
    } <= set(wanted)
    assert results["command"].startswith("mi_values.py --model") and results["date"][:2] == "20"


@pytest.mark.parametrize("said", [True, None])
def test_images_that_stopped_early_are_made_again(said, tmp_path):
    """Figures 2 and 4 were drawn of the first images that fooled the network."""
    graph = plan(experiment(tmp_path), "figure4")
    name = f"{STANDARD}/images.json"
    evaluate(graph, name, {"pgd-40": "rf" * 20})
    edit(
        graph.nodes[name],
        {("attacks", "pgd-40", "settings"): settings_of("pgd-40", "linf", 8 / 255)},
    )
    assert graph.state(name) == "finished", graph.why(name)
    edit(graph.nodes[name], {("attacks", "pgd-40", "stopped_early"): said})
    assert graph.state(name) == "stale" and "stopped at the first that fooled" in graph.why(name)
