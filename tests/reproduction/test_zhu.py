"""The tables and figures of Zhu et al.: their runs, and files whose numbers are known."""

import json

import numpy
import pytest
import torch
from conftest import run_script
from made_up import (  # noqa: F401  a fixture
    any_number_of_images,
    evaluate,
    experiment,
    train,
)

import models
from models.encoder import Encoder
from reproduction import zhu, zhu_figures, zhu_tables
from reproduction.graph import Graph
from reproduction.plan import plan
from reproduction.zhu_saliency import saliency
from reproduction.zhu_units import PATCH, Unit, patches_of

pytestmark = pytest.mark.usefixtures("any_number_of_images")


def test_printed_numbers():
    """Some of each table, and the text's own: PGD accuracy of ours / robust, MLP."""
    tables = zhu.PAPER["tables"]
    assert zhu.TABLES == {
        "zhu-table1": "cifar10",
        "zhu-table3": "mnist",
        "zhu-table4": "fashion-mnist",
        "zhu-table5": "svhn",
    }
    for table in tables.values():
        assert list(table["rows"]) == list(zhu.ROWS)
        for row in table["rows"].values():
            for classifier in zhu.CLASSIFIERS:
                natural, adversarial = (row[classifier][k][0] for k in ("natural", "adversarial"))
                assert 0 <= adversarial <= natural <= 100
    assert tables["zhu-table1"]["rows"]["worst-robust"]["mlp"]["adversarial"] == [31.52, 0.31]
    assert tables["zhu-table3"]["rows"]["end-robust"]["linear"]["natural"] == [99.21, 0.06]
    assert tables["zhu-table5"]["rows"]["hjelm-natural"]["mlp"]["natural"] == [50.15, 0.89]


@pytest.mark.parametrize("target", zhu.TARGETS)
@pytest.mark.parametrize("scale", ["tiny", "small", "full"])
def test_each_run_comes_after_what_it_needs(target, scale, tmp_path):
    graph = plan(experiment(tmp_path, scale=scale, seeds=2), target)
    done = set()
    for name, node in graph.nodes.items():
        assert set(node.needs) <= done, name
        done.add(name)
    assert {name.split("/")[0] for name in done} == {"seed1", "seed2"}


def test_a_table_has_each_network_once(tmp_path):
    graph = plan(experiment(tmp_path), "zhu-table1")
    trained = [node for node in graph.nodes.values() if node.trains]
    scripts = [node.words[0] for node in trained]
    assert scripts.count("train_worst_case_MI.py") == 2  # normal and worst
    assert scripts.count("train_classifier.py") == 2 * 2 * 2
    assert scripts.count("train_standard.py") == 2 * 2
    evaluations = [node for node in graph.nodes.values() if node.attacks]
    assert len(evaluations) == 2 * 2 * len(zhu.ROWS)  # AutoAttack has its own
    early = "seed1/zhu/worst-mlp-natural/white.json"
    assert "--which" not in graph.nodes[early].words
    last = graph.nodes["seed1/zhu/worst-mlp-natural/last.json"].words
    assert last[last.index("--which") + 1] == "last"


@pytest.mark.parametrize("dataset", zhu.BUDGETS)
def test_the_papers_budgets_at_full_scale(dataset, tmp_path):
    graph = plan(experiment(tmp_path, scale="full", dataset=dataset), "zhu-table1")
    words = graph.nodes["seed1/zhu/encoder-worst"].words
    budget = zhu.BUDGETS[dataset].split()
    assert all(words[words.index(budget[i]) + 1] == budget[i + 1] for i in (0, 2, 4))
    steps = budget[budget.index("--num-steps") + 1]
    assert zhu.attacks(graph) == ("none", f"pgd-{steps}", "pgd-40", "aa")


def measured(tmp_path):
    """A graph of Table 1 in which ours / robust, MLP, is measured."""
    graph = plan(experiment(tmp_path), "zhu-table1")
    run = "seed1/zhu/worst-mlp-robust"
    train(graph, "seed1/zhu/encoder-worst", b"g")
    train(graph, run, b"h")
    return graph, run


def test_measured_cells_stand_beside_printed_ones(tmp_path):
    graph, run = measured(tmp_path)
    right = {"none": 15, "pgd-7": 10, "pgd-40": 9}
    right = {attack: right.get(attack, 10) for attack in zhu.attacks(graph)[:3]}
    evaluate(graph, f"{run}/last.json", {a: "r" * n + "f" * (20 - n) for a, n in right.items()})
    (content,) = zhu_tables.write(graph)
    assert (
        content["name"] == "zhu-table1"
        and "Printed: the paper's, on cifar10." in content["caption"]
    )
    row = content["rows"].index(
        next(r for r in content["rows"] if r[0] == "worst-case MI / robust")
    )
    said, printed = content["rows"][row], content["rows"][row + 1]
    assert said[2].startswith("75.0 (") and said[3].startswith("50.0 (") and said[5] == "not run"
    assert printed[2:6] == ["52.34 ± 0.17", "31.52 ± 0.31", "", ""]
    folder = graph.experiment.root / "tables"
    assert "52.34 ± 0.17" in (folder / "zhu-table1.md").read_text()
    assert (folder / "zhu-table1.csv").read_text().count("worst-robust") == 3


def test_nothing_measured_writes_nothing(tmp_path):
    graph, _ = measured(tmp_path)
    assert zhu_tables.write(graph) == []
    graph.experiment.root.mkdir(exist_ok=True, parents=True)
    assert zhu_figures.write(zhu.everything(Graph(graph.experiment))) == []


def vulnerable(graph, name, **changes):
    """The results file of a finished measurement of `name`, as its command would write it."""
    node = graph.nodes[name]
    from reproduction.now import data_of, file_hash, options

    given = options(node.words)
    found = data_of(graph.experiment, given.get("--limit-train"), given.get("--limit-test"))
    content = {
        "model_hash": file_hash(graph.product(node.needs[0])),
        "command": " ".join(node.words),
        "n": 40,
        **{"hardware": "an abacus", "date": "2026-01-02 03:04:05 +0000", "git_commit": None},
        **({"data_fingerprint": found[0]} if found else {}),
    }
    for path in node.outputs:
        path.write_text("")
    node.outputs[-1].write_text(json.dumps(content | changes))


VALUES = {
    **{"J1": 1.5, "J2": 0.5, "RV": 1.0, "RV_sd": 0.1, "adversarial_gap": 0.8, "critics": []},
    **{"adversarial_accuracy": 10.0, "cap_percent": 51.8, "cap_fano_percent": 45.0},
    "warnings": ["a doubt"],
}


def test_figures_from_known_values(tmp_path):
    graph = zhu.everything(Graph(experiment(tmp_path)))
    run = "seed1/zhu/baseline-h-natural"
    train(graph, run, b"h")
    vulnerable(graph, f"{run}/vulnerability.json", **VALUES)
    rows = [{"unit": 0, "J1": 0.3, "J2": 0.1, "RV": 0.2}]
    vulnerable(graph, f"{run}/units.json", units=rows)
    vulnerable(graph, f"{run}/saliency.json", saliency={})
    images = numpy.zeros((8, 3, 16, 16))
    numpy.savez(graph.nodes[f"{run}/saliency.json"].outputs[0], images=images, maps=images + 1)
    found = {content["name"]: content for content in zhu_figures.write(graph)}
    assert list(found) == list(zhu.FIGURES)
    folder = graph.experiment.root / "figures"
    line = (folder / "zhu-figure1.csv").read_text().splitlines()[1]
    assert line.startswith("baseline-h,natural,1,1.5,0.5,1,0.1,0.8,10,51.8,45,")
    assert "printed_RV" in (folder / "zhu-figure1.csv").read_text().splitlines()[0]
    assert "Warnings: [a] a doubt (1 network, 1 seed)." in found["zhu-figure2"]["caption"]
    assert all((folder / f"{name}.png").stat().st_size > 5000 for name in found)


@pytest.mark.parametrize(
    "changes, why",
    [
        ({}, None),
        ({"model_hash": "0123"}, "made with model_hash 0123"),
        ({"command": "analyze_MI.py vulnerability --epochs 9"}, "made by another command"),
        ({"data_fingerprint": "0123"}, "made from other data"),
    ],
)
def test_a_measurement_of_something_else_is_stale(tmp_path, changes, why):
    graph = zhu.everything(Graph(experiment(tmp_path, dataset="digits")))
    run = "seed1/zhu/baseline-h-natural"
    train(graph, run, b"h")
    name = f"{run}/vulnerability.json"
    vulnerable(graph, name, **VALUES | changes)
    assert graph.state(name) == ("stale" if why else "finished")
    assert (graph.why(name) or "").startswith(why or "")


def test_a_unit_sees_its_patch_alone():
    """The value for a patch is that of the second convolution at the patch's place in the image."""
    torch.manual_seed(0)
    encoder = Encoder(4, (32, 32)).double().eval()
    image = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    whole = encoder.maps(image)["layer3"]
    for row, column in ((1, 1), (3, 2), (5, 6)):  # unit (r, c) sees from pixel 4 r - 3 on
        top, left = 4 * row - 3, 4 * column - 3
        patch = image[:, :, top : top + PATCH, left : left + PATCH]
        for unit in (0, 7):
            value = Unit(encoder, unit)(patch)
            torch.testing.assert_close(value[:, 0], whole[:, unit, row, column])


def test_patches_are_cut_out_of_the_images():
    images = torch.randint(256, (5, 3, 16, 20), dtype=torch.uint8)
    cut = patches_of(images, seed=3)
    assert cut.shape == (5, 3, PATCH, PATCH) and torch.equal(cut, patches_of(images, seed=3))
    for image, patch in zip(images, cut):
        windows = image.unfold(1, PATCH, 1).unfold(2, PATCH, 1)
        assert (windows == patch[:, None, None]).all(-1).all(-1).all(0).any()


def test_saliency_is_the_gradient_of_the_loss():
    torch.manual_seed(0)
    net = models.build("baseline-h", width=4, size=(16, 16)).double().eval()
    x, y = torch.rand(2, 3, 16, 16, dtype=torch.float64), torch.tensor([1, 4])
    maps = saliency(net, x, y)
    step = torch.zeros_like(x)
    step[0, 1, 5, 7] = 1e-6

    def loss(x):
        return torch.nn.functional.cross_entropy(net(x), y, reduction="sum").item()

    slope = (loss(x + step) - loss(x - step)) / 2e-6
    assert maps[0, 1, 5, 7].item() == pytest.approx(slope, rel=1e-4)


@pytest.mark.parametrize(
    "words, message",
    [
        (["zhu-table1", "--norm", "l2"], "--norm l2: zhu-table1 is about linf only"),
        (["zhu-figure1", "--alpha", "1"], "--alpha 1.0: zhu-figure1 sets it itself"),
        (["zhu-table2"], "zhu-table1"),
    ],
)
def test_mistakes(words, message):
    result = run_script("reproduce.py", *words)
    assert result.status == 2 and message in result.err
    assert len(result.err.strip().splitlines()) == 1
