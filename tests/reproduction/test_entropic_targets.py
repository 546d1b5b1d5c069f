"""The runs of entropic retraining, and verdicts from files whose numbers are known."""

import json

import pytest
from made_up import any_number_of_images, evaluate, experiment, outcomes_of, train  # noqa: F401

from common.files import write_csv
from reproduction import entropic, entropic_table
from reproduction.entropic import ENTROPIC, ROWS, TRAININGS, run_of
from reproduction.now import options
from reproduction.plan import plan

pytestmark = pytest.mark.usefixtures("any_number_of_images")
N = 200


@pytest.mark.parametrize("scale", ["tiny", "sweep", "small", "full"])
def test_each_run_comes_after_what_it_needs(scale, tmp_path):
    graph = plan(experiment(tmp_path, scale=scale, seeds=3), ENTROPIC)
    done = set()
    for name, node in graph.nodes.items():
        assert set(node.needs) <= done, name
        assert node.trains or node.outputs[-1].suffix == ".json"
        done.add(name)


def test_every_network_starts_from_h_0_and_trains_as_long(tmp_path):
    graph = plan(experiment(tmp_path, seeds=3), ENTROPIC)
    natural = graph.product(run_of("natural").format(seed=2))
    epochs = set()
    for row in {**TRAININGS, **ROWS}:
        given = options(graph.nodes[run_of(row).format(seed=2)].words)
        if row != "natural":
            assert given["--init"] == str(natural)
            epochs.add(given["--epochs"])
    assert len(epochs) == 1
    profile = options(graph.nodes[run_of("sign-1").format(seed=2)].words)["--profile"]
    assert profile.endswith("entropic/layers-3/profile.json")


def test_with_fewer_than_three_seeds_the_signs_are_given(tmp_path):
    graph = plan(experiment(tmp_path, seeds=2), ENTROPIC)
    words = graph.nodes[run_of("reversed").format(seed=1)].words
    assert f"--signs={entropic.SIGNS}" in words and "--profile" not in words
    assert "--profile" in graph.nodes[run_of("match").format(seed=1)].words


def layer(adversarial, control):
    return {"adversarial": adversarial, "control": control, "sign": 1}


def profile(graph, name, layers):
    """A profile of three seeds, with the hashes of the networks that it names."""
    node = graph.nodes[f"{ENTROPIC}/{name}-3/profile.json"]
    node.folder.mkdir(parents=True, exist_ok=True)
    quantities = dict.fromkeys(("activation", "information", "unit", "binned"), layers)
    node.outputs[0].write_text(json.dumps({"networks": {}, "quantities": quantities}))


@pytest.fixture
def made(tmp_path):
    """Three seeds: sign mode with lam 1 has the best held-out score and 60 points more under AA."""
    graph = plan(experiment(tmp_path, seeds=3), ENTROPIC)
    right = {"natural": 2, "adversarial": 120, "control": 4, "reversed": 3, "sign-1": 124}
    profile(graph, "layers", {"a": layer([0.5] * 3, [0.9, 0.8, 0.9])})
    for row in (*TRAININGS, "sign-1", "sign-3", "reversed"):
        for seed in (1, 2, 3):
            run = run_of(row).format(seed=seed)
            train(graph, run)
            rate = 1000 if row == "adversarial" else 5900
            score = {"sign-1": 60, "sign-3": 50}.get(row, 40)
            line = {"epoch": 1, "score": score, "images_per_second": rate}
            write_csv(graph.nodes[run].folder / "metrics.csv", [line])
    for row, robust in right.items():
        for seed in (1, 2, 3):
            run = run_of(row).format(seed=seed)
            found = {
                attack: outcomes_of(robust, N, seed) for attack in ("pgd-40", "pgd-margin-100x5")
            }
            found |= {"none": outcomes_of(190 if row != "sign-1" else 189, N, 7)}
            evaluate(graph, f"{run}/white.json", found)
            evaluate(graph, f"{run}/white-aa.json", {"aa": outcomes_of(robust, N, seed)})
    return graph


def test_the_lam_with_the_best_held_out_score_is_chosen(made):
    assert entropic_table.chosen(made) == "sign-1"


def test_a_gain_under_autoattack_that_reversed_signs_lack_holds(made):
    found = entropic_table.robust(made, "sign-1")
    assert found.verdict == "holds" and "AA +60.0 (" in found.why and "detectable" in found.why


def test_no_gain_is_undecided_and_a_loss_fails():
    assert entropic_table.decided(-1.0, 2.0, 0.0) == "undecided"
    assert entropic_table.decided(-3.0, -1.0, 0.0) == "fails"
    assert entropic_table.decided(0.1, 2.0, 0.0) == "holds"


def test_the_cost_is_that_of_the_passes(made):
    found = entropic_table.cheap(made, "sign-1")
    assert "an epoch takes 0.169 of" in found.why and "1/(K + 1) = 0.167" in found.why
    assert found.verdict == "holds"


def test_natural_accuracy_within_a_point(made):
    found = entropic_table.accurate(made, "sign-1")
    assert "-0.5 (" in found.why and found.verdict == "undecided"


def test_layers_that_come_nearer_by_every_quantity_mimic(made):
    profile(made, "sign-1", {"a": layer([0.5] * 3, [0.6, 0.5, 0.5])})
    found = entropic_table.mimics(made, "sign-1")
    assert found.verdict == "holds" and "activation 0.00333 against 0.137" in found.why
    profile(made, "sign-1", {"a": layer([0.5] * 3, [1.6, 1.5, 1.5])})
    assert entropic_table.mimics(made, "sign-1").verdict == "fails"


def test_the_files_of_the_table(made):
    content = entropic_table.write(made)
    folder = made.experiment.root / "tables"
    page = (folder / "entropic.md").read_text()
    assert "| sign mode, lam 1, chosen | 94.5 ± 0.0 | 62.0 ± 0.0 |" in page
    assert "| less costly | holds |" in page
    assert len(content["rows"]) == len(TRAININGS) + len(ROWS)
    assert json.loads((folder / "entropic.json").read_text())["claims"][0]["verdict"] == "holds"
    assert "sign-1,aa,1,200,124" in (folder / "entropic.csv").read_text()


def test_nothing_is_written_where_nothing_was_run(tmp_path):
    assert entropic_table.write(plan(experiment(tmp_path), ENTROPIC)) is None


def test_a_profile_of_another_network_is_stale(made):
    node = made.nodes[f"{ENTROPIC}/layers-3/profile.json"]
    content = json.loads(node.outputs[0].read_text())
    content["networks"] = {"natural": [{"name": "x", "hash": "0" * 16}]}
    node.outputs[0].write_text(json.dumps(content))
    assert "made from another network of seed1/entropic/natural" in made.why(node.name)
