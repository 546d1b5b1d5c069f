"""What was doubtful about a number, and where and when it was made, stand beside it."""

import csv
import io
import json
import os

import made_up
import pytest
from made_up import MADE, evaluate, everything, experiment, outcomes_of
from test_stability import record

from reproduction import figures, stability_table, warned
from reproduction.experiment import remember
from reproduction.plan import STABILITY, plan
from reproduction.provenance import provenance
from reproduction.report import report
from reproduction.table_files import comma_separated, markdown
from reproduction.tables import table
from reproduction.warned import Warned
from utils.evaluation import stored

any_number_of_images = made_up.any_number_of_images

RISES = "fwa-40: 20 more steps raise the loss from {} to {}: it has not converged; use more steps"


def change(graph, name, attack, **values):
    """Change values of a row."""
    path = graph.nodes[name].outputs[-1]
    content = json.loads(path.read_text())
    content["attacks"][attack] |= values
    path.write_text(json.dumps(content))


def as_before(graph, name, warnings):
    """Write a results file as it was before rows had warnings, commits and dates of their own."""
    path = graph.nodes[name].outputs[-1]
    content = json.loads(path.read_text())
    rows = {
        attack: {"standing": row["outcomes"], **({"settings": {}} if attack == "tidim" else {})}
        for attack, row in content["attacks"].items()
    }
    path.write_text(json.dumps(content | {"attacks": rows, "warnings": warnings}))


@pytest.fixture
def graph(tmp_path):
    """Standard AT and NAMID with two seeds; FWA-40 has not converged for three of the four networks."""
    graph = plan(experiment(tmp_path, seeds=2), "table3", defenses=["standard", "namid"])
    for number, name in enumerate(name for name, node in graph.nodes.items() if node.attacks):
        evaluate(
            graph,
            name,
            dict.fromkeys(graph.nodes[name].attacks, outcomes_of(3 + number, 20, number)),
        )
    for name, numbers in (
        ("seed1/linf/standard", (1.25, 1.31)),
        ("seed1/linf/namid", (1.18, 1.20)),
        ("seed2/linf/namid", (1.2, 1.4)),
    ):
        change(graph, f"{name}/white.json", "fwa-40", warnings=[RISES.format(*numbers)])
    return graph


def test_a_table_marks_the_cell_and_says_each_warning_once(graph):
    content = table(graph, "table3")
    part = content["halves"][0]
    cells = {
        row["defense"]: {each["attack"]: each for each in row["cells"]} for row in part["rows"]
    }
    assert cells["namid"]["fwa-40"]["marks"] == cells["standard"]["fwa-40"]["marks"] == ["a"]
    assert cells["namid"]["pgd-40"]["marks"] == [] and cells["namid"]["pgd-40"]["warnings"] == {}
    assert cells["namid"]["fwa-40"]["warnings"] == {
        RISES.format(1.18, 1.2): [1],
        RISES.format(1.2, 1.4): [2],
    }
    line = "[a] " + RISES.format("1.18–1.25", "1.2–1.4") + " (3 networks, 2 seeds)"
    assert [note["line"] for note in part["notes"]] == [line]
    page = markdown(content)
    assert (
        page.count(line) == 1
        and f"{cells['namid']['fwa-40']['text']} [a] |" in page
        and page.count("[a] |") == 2
    )
    rows = list(csv.DictReader(io.StringIO(comma_separated(content))))
    said = {(row["defense"], row["attack"]): row["warnings"] for row in rows}
    assert (
        said["namid", "fwa-40"] == "; ".join(cells["namid"]["fwa-40"]["warnings"])
        and said["namid", "none"] == ""
    )


def test_an_old_file_gives_each_row_its_warnings(graph):
    name = "seed1/linf/namid/white.json"
    as_before(
        graph,
        name,
        [RISES.format(1, 2), "the outputs are probabilities", "pgd-40: 3 of 9 images fall"],
    )
    assert graph.state(name) == "finished"
    rows = stored.rows(json.loads(graph.product(name).read_text()))
    assert rows["fwa-40"]["warnings"] == [RISES.format(1, 2), "the outputs are probabilities"]
    assert rows["pgd-40"]["warnings"] == [
        "the outputs are probabilities",
        "pgd-40: 3 of 9 images fall",
    ]
    assert rows["none"]["warnings"] == ["the outputs are probabilities"]
    row = next(
        row for row in table(graph, "table3")["halves"][0]["rows"] if row["defense"] == "namid"
    )
    assert [each["marks"] for each in row["cells"]] == [
        ["b"],
        ["b", "c"],
        [],
        ["a", "b"],
        ["b"],
        [],
        [],
        [],
    ]


def test_other_warnings_are_other_notes():
    found = warned.notes(
        [
            Warned("a: 1 of 9", "x", 1),
            Warned("b", "x", 1),
            Warned("a: -2.5 of 9", "y", 1),
            Warned("pgd-10: 1", "x", 2),
            Warned("pgd-40: 1", "x", 2),
        ]
    )
    assert [note.line() for note in found] == [
        "[a] a: -2.5–1 of 9 (2 networks, 1 seed)",
        "[b] b (1 network, 1 seed)",
        "[c] pgd-10: 1 (1 network, 1 seed)",
        "[d] pgd-40: 1 (1 network, 1 seed)",
    ]
    assert [warned.mark(number) for number in (0, 25, 26, 27)] == ["a", "z", "aa", "ab"]


def test_figures_and_the_report_say_warnings(tmp_path):
    graph = everything(tmp_path)
    remember(graph.experiment)
    change(graph, "seed1/linf/namid/white.json", "fwa-40", warnings=[RISES.format(1, "2 & more")])
    path = report(tmp_path)
    line = "[a] " + RISES.format(1, "2 & more") + " (1 network, 1 seed)"
    folder = graph.experiment.root / "figures"
    content = json.loads((folder / "figure5.json").read_text())
    assert content["warnings"] == [line] and line in content["caption"]
    assert json.loads((folder / "figure7.json").read_text())["warnings"] == []
    rows = list(csv.DictReader(io.StringIO((folder / "figure5.csv").read_text())))
    assert [row["run"] for row in rows if row["warnings"]] == ["namid"]
    page = path.read_text()
    assert page.count(line.replace("&", "&amp;")) == 2  # below Table 1, in the caption of Figure 5
    assert "[a]</td>" in page


def test_figures_of_mi_say_the_warnings_of_their_images(tmp_path):
    graph = plan(experiment(tmp_path), "figure4")
    for name in graph.nodes:
        if "/mi-" in name:
            made_up.measure(graph, name, {"pgd-40": {"n": 3, "natural_mi_of_natural": 1.0}})
    change(graph, "seed1/linf/standard/images.json", "pgd-40", warnings=["pgd-40: a doubt"])
    (written,) = figures.write_figures(graph)
    assert written["warnings"] == ["[a] pgd-40: a doubt (1 network, 1 seed)"]


def test_the_sweep_says_warnings(tmp_path):
    graph = plan(experiment(tmp_path, dataset="digits", scale="sweep"), STABILITY)
    name = "seed1/stability/standard-batch40/white.json"
    evaluate(graph, name, {"none": outcomes_of(30, 40), "pgd-40": outcomes_of(10, 40)})
    record(graph, "seed1/stability/standard-batch40", (60, 0.1, 5, 1.5, 0.5, 1, 2))
    change(graph, name, "pgd-40", warnings=["pgd-40: a doubt"])
    content = stability_table.write(graph)
    page = (graph.experiment.root / "tables/stability.md").read_text()
    assert (
        content["rows"][1][2].endswith(" [a]")
        and "- [a] pgd-40: a doubt (1 network, 1 seed)" in page
    )


def test_dates_are_those_of_the_results_not_of_the_files(graph):
    name = "seed1/linf/standard/white.json"
    assert provenance(graph, name)["dates"] == [MADE["date"]]
    change(graph, name, "tidim", made=MADE | {"date": "2026-03-04 05:06:07 +0000"})
    os.utime(graph.product(name), (1e9, 1e9))
    assert provenance(graph, name)["dates"] == [MADE["date"], "2026-03-04 05:06:07 +0000"]
    assert "2026-01-02 and 2026-03-04." in table(graph, "table3")["caption"]
    as_before(graph, name, [])
    assert provenance(graph, name)["dates"] == ["2026-01-02 03:04:05 +0000"]  # the file's
    remember(graph.experiment)
    page = report(graph.experiment.out).read_text()
    assert "2026-01-02 03:04:05 +0000" in page and "2001-09-09" not in page


def test_mi_values_without_a_date_have_that_of_their_run(tmp_path):
    graph = plan(experiment(tmp_path), "figure4")
    name = "seed1/linf/standard/mi-estimators.json"
    made_up.measure(graph, name, {"pgd-40": {"n": 3}})
    content = json.loads(graph.product(name).read_text())
    del content["date"]
    graph.product(name).write_text(json.dumps(content))
    assert provenance(graph, name)["dates"] == [made_up.SETTINGS["date"]]


def test_a_caption_says_that_rows_were_made_at_different_commits_and_on_different_hardware(graph):
    assert "different" not in table(graph, "table3")["caption"]
    change(
        graph,
        "seed1/linf/standard/white.json",
        "tidim",
        made=MADE | {"git_commit": "beef" * 10 + "+changes", "hardware": "a slide rule"},
    )
    said = table(graph, "table3")["caption"]
    assert "The rows were made at different commits: beefbeefbeef+changes and c0ffeec0ffee." in said
    assert "The rows were made on different hardware: a slide rule and an abacus." in said
