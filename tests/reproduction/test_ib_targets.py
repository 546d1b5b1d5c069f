"""The targets ib-...: their plans, and tables from made-up results files."""

import csv
import importlib
import json
import re

import pytest

from common.errors import InputError
from reproduction import bottleneck, bottleneck_tables
from reproduction.experiment import Experiment, remember
from reproduction.graph import NETWORK
from reproduction.plan import plan
from reproduction.report import report
from utils.settings.command_line import parse


def graph_of(target, tmp_path, scale="tiny", seeds=1):
    dataset = bottleneck.dataset(target, scale)
    return plan(Experiment(tmp_path, dataset, scale, seeds), target)


@pytest.mark.parametrize("scale", bottleneck.SCALES)
@pytest.mark.parametrize("target", bottleneck.TARGETS)
def test_each_command_of_a_plan_can_be_read_and_its_needs_come_before(target, scale, tmp_path):
    graph, before, read = graph_of(target, tmp_path, scale), set(), set()
    for name, node in graph.nodes.items():
        assert set(node.needs) <= before
        before.add(name)
        given = [word for word in node.words if word.startswith("--")]
        assert len(given) == len(set(given)), node.command
        kind = (node.words[0], *given)
        if scale == "tiny" and kind not in read:
            script = importlib.import_module(node.words[0].removesuffix(".py"))
            parse(script.Settings, "", node.words[1:])
        read.add(kind)
    assert any(node.trains for node in graph.nodes.values())
    if target in bottleneck.FIGURES:
        assert list(graph.nodes.values())[-1].analyzes


def test_printed_columns_name_attacks_and_budgets():
    assert bottleneck.columns("ib-table1") == [("fgsm", 0.3), ("bim", 0.3), ("pgd-40", 0.3)]
    found = bottleneck.columns("ib-table2")
    assert found[0] == ("none", None) and found[3] == ("fgsm", 0.5)
    assert found[4:6] == [(bottleneck.DEEPFOOL, None), (bottleneck.CW, None)]
    for table in ("table2", "table3"):
        assert all(len(bottleneck.PRINTED[table][name]) == 8 for name in bottleneck.NETWORKS)


def test_a_scale_without_these_targets_is_refused(tmp_path):
    with pytest.raises(InputError, match="--scale sweep: the ib- targets have tiny, small, full"):
        bottleneck.dataset("ib-table1", "sweep")
    assert bottleneck.dataset("ib-table3", "full") == "cifar10"


def test_an_image_counts_at_its_worst():
    assert bottleneck_tables.counted(["rrfow", "rofrw"]) == (3, 5)
    assert bottleneck_tables.counted(["rrfow"]) == (3, 5)
    assert bottleneck_tables.counted(["rrfow"], anywhere=True) == (2, 5)


def finish(graph, name, rows):
    """Write a model or results file as its command leaves it, as far as the state of a node looks at it."""
    node = graph.nodes[name]
    for path in node.outputs:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    if node.trains:
        told = {"command": " ".join(node.words), "options": {"epochs": 5}}
        (node.folder / "settings.json").write_text(json.dumps(told))
        return
    n = len(next(iter(rows.values())))
    made = {key: None for key in ("date", "command", "git_commit", "hardware", "versions")}
    content = {
        "attacks": {
            attack: {"outcomes": text, "made": made, "warnings": []}
            for attack, text in rows.items()
        },
        "n": n,
        "warnings": [],
        "worst_case": {"attacks": list(rows)},
    }
    node.outputs[-1].write_text(json.dumps(content))


def test_a_table_shows_printed_and_measured_side_by_side(tmp_path, monkeypatch):
    graph = graph_of("ib-table2", tmp_path)
    monkeypatch.setattr(type(graph), "why", lambda self, name: None)
    monkeypatch.setattr("reproduction.finished.by_date", lambda node, graph: False)
    run = "seed1/ib/ce"
    finish(graph, run, {})
    finish(graph, f"{run}/printed-0.25.json", {"none": "rrrw", "fgsm": "rffw"})
    names = ("none", *bottleneck.PANEL)
    panel = dict.fromkeys(names, "rrrw") | {"pgd-100x10": "rrfw", "grey": "rffw"}
    finish(graph, f"{run}/panel-0.25.json", panel)
    finish(graph, f"{run}/transfer-0.25.json", {"none": "rrrw", "pgd-40": "frrw"})
    bottleneck_tables.write(graph, "ib-table2")
    with open(tmp_path / "digits-tiny/tables/ib-table2.csv", newline="") as file:
        header, *rows = list(csv.reader(file))
    column = header.index("fgsm 0.5")
    start = next(i for i, row in enumerate(rows) if row[0] == "CE")
    shown = {row[1]: row[column] for row in rows[start : start + 4]}
    assert shown["printed"] == "1.04"
    assert shown["its attacks"].startswith("25.0 (")  # one of four
    assert shown["panel"].startswith("0.0 (")  # the image that fgsm leaves falls to the transfer
    assert shown["grey"].startswith("25.0 (")
    other = header.index("fgsm 0.1")
    assert rows[start + 1][other] == "not run"
    assert (tmp_path / "digits-tiny/tables/ib-table2.md").read_text().count("| CE |") == 1
    assert NETWORK == ("best_model.pth", "last_model.pth")

    remember(graph.experiment)
    page = report(tmp_path).read_text()
    assert "<h3>Information bottleneck, Table 2: digits-tiny</h3>" in page
    assert "Printed values are of CIFAR-10, measured ones of digits." in page  # Table 3
    assert "Information bottleneck, Table 1" not in page  # none of its evaluations has run
    (place,) = set(re.findall('<a href="#([^"]+)">CE</a>', page))
    assert f'id="{place}"' in page  # the name of a row leads to its commands
