"""Tables from made-up results: every number is known beforehand."""

import csv
import io
import json
import statistics

import made_up
import pytest
from made_up import evaluate, everything, experiment, outcomes_of, train

from reproduction import intervals
from reproduction.cells import Cell, cell, compare, in_order
from reproduction.paper import PAPER
from reproduction.plan import plan
from reproduction.table_files import comma_separated, markdown, write_tables
from reproduction.tables import half, table

any_number_of_images = made_up.any_number_of_images


def measured(
    tmp_path, defense="namid", seeds=1, attack="pgd-40", norm="linf", outcomes=None, n=20, **options
):
    """The graph of table 1 with one evaluation of `defense` per seed, {attack: marks}; 5 images stand by default."""
    graph = plan(experiment(tmp_path, seeds=seeds, **options), "table1")
    for seed in range(1, seeds + 1):
        name = f"seed{seed}/{norm}/{defense}/white.json"
        evaluate(
            graph,
            name,
            dict.fromkeys(graph.nodes[name].attacks, outcomes_of(5, n))
            | (outcomes(seed) if outcomes else {}),
        )
    return graph


def the_cell(content, defense, heading):
    part = content["halves"][0]
    number = next(i for i, text in enumerate(part["columns"]) if text.startswith(heading))
    return next(row for row in part["rows"] if row["defense"] == defense)["cells"][number]


def test_mean_deviation_and_difference(tmp_path):
    right = {1: 8, 2: 11, 3: 14}  # of 20: 40, 55 and 70 %
    graph = measured(
        tmp_path, seeds=3, outcomes=lambda seed: {"pgd-40": outcomes_of(right[seed], 20, seed)}
    )
    each = the_cell(table(graph, "table1"), "namid", "PGD-40")
    printed = PAPER["white_box_linf"]["cifar10"]["namid"]["pgd-40"]
    assert (
        each["mean"] == pytest.approx(55)
        and each["deviation"] == pytest.approx(15)
        and each["values"] == pytest.approx([40, 55, 70])
    )
    assert each["difference"] == pytest.approx(55 - printed[0]) and each["printed"] == tuple(
        printed
    )
    assert each["text"] == "55.0 ± 15.0" and each["images"] == [20] and each["seeds"] == [1, 2, 3]
    outcomes = [[each == "r" for each in outcomes_of(right[seed], 20, seed)] for seed in right]
    assert each["interval"] == pytest.approx(intervals.of_a_mean(outcomes))
    assert each["interval"][0] < 55 - 4.302653 * 15 / 3**0.5  # Student's over the seeds alone


def test_one_seed_has_wilsons_interval(tmp_path):
    each = the_cell(table(measured(tmp_path), "table1"), "namid", "PGD-40")
    low, high = intervals.of_a_share(5, 20)
    assert (
        each["deviation"] is None
        and each["interval"] == pytest.approx((low, high))
        and each["text"] == f"25.0 ({low:.1f} to {high:.1f})"
    )


def test_minimum_norm_attacks_stand_by_the_printed_value_at_any_norm(tmp_path):
    """10 images: 3 right, 4 fallen beyond the budget, 2 within it, 1 wrong before."""
    graph = measured(
        tmp_path,
        norm="l2",
        outcomes=lambda seed: dict.fromkeys(("none", "pgd-40", "cw-20", "ddn-20"), "rrroooowff"),
    )
    part = table(graph, "table4")["halves"][0]
    row = next(row for row in part["rows"] if row["defense"] == "namid")
    anywhere, within = (
        row["cells"][part["columns"].index(f"CW, {text} (n = 10)")]
        for text in ("any norm", "within 0.5")
    )
    assert anywhere["mean"] == 30 and within["mean"] == 70
    assert anywhere["difference"] == pytest.approx(
        30 - PAPER["white_box_l2"]["cifar10"]["namid"]["cw-20"][0]
    )
    assert within["printed"] is None and within["difference"] is None


def test_a_cell_that_was_not_run_or_diverged_says_so(tmp_path):
    graph = measured(tmp_path, "standard", seeds=2)
    for seed in (1, 2):
        name = f"seed{seed}/linf/standard-estimators"
        train(graph, name)
        graph.nodes[name].diverged_note.write_text("")
    content = table(graph, "table1")
    assert (
        the_cell(content, "wmim", "PGD-40")["text"] == "not run"
        and the_cell(content, "namid", "PGD-40")["text"] == "diverged"
    )
    assert the_cell(content, "standard", "AA")["text"] == "not run"
    page = markdown(content)
    assert "| WMIM | measured | not run |" in page and "| NAMID | measured | diverged |" in page
    assert all(
        row["cells"][0]["text"] == "not run" for row in content["halves"][1]["rows"]
    )  # the other norm
    assert "namid,pgd-40,within the budget,diverged,0,none,,,,," in comma_separated(content)


def test_a_seed_that_lacks_or_diverged_is_said_beside_the_number(tmp_path):
    graph = measured(tmp_path, "standard", seeds=1)
    graph = plan(experiment(tmp_path, seeds=3), "table1")
    assert (
        cell(graph, "seed{seed}/linf/standard", "white", "pgd-40")
        .text(3)
        .endswith("[1 of 3 seeds]")
    )
    graph.nodes["seed2/linf/standard"].folder.mkdir(parents=True)
    graph.nodes["seed2/linf/standard"].diverged_note.write_text("")
    assert (
        cell(graph, "seed{seed}/linf/standard", "white", "pgd-40")
        .text(3)
        .endswith("[1 of 3 seeds, 1 diverged]")
    )


def test_other_data_are_not_subtracted_from_the_papers(tmp_path):
    each = the_cell(table(measured(tmp_path, dataset="digits"), "table1"), "namid", "PGD-40")
    assert each["printed"] and each["difference"] is None
    tiny = table(measured(tmp_path / "t", dataset="tiny-imagenet"), "table1")
    assert the_cell(tiny, "namid", "PGD-40")["printed"] == tuple(
        PAPER["white_box_linf"]["tiny-imagenet"]["namid"]["pgd-40"]
    )


def cells(**right) -> dict[str, Cell]:
    """{defense: a cell} of 100 images for each seed, the first of them right; printed as the paper's PGD-40."""
    return {
        name: Cell(
            "pgd-40",
            False,
            {seed: [i < n for i in range(100)] for seed, n in enumerate(numbers, 1)},
            printed=PAPER["white_box_linf"]["cifar10"][name]["pgd-40"],
        )
        for name, numbers in right.items()
    }


def verdicts(found):
    return {row["defense"]: row["verdict"] for row in found}


def test_whether_the_order_holds():
    """Printed under PGD-40: WMIM below standard AT, NAMID above it."""
    assert verdicts(compare(cells(standard=[40], wmim=[20], namid=[60]))) == {
        "wmim": "holds",
        "namid": "holds",
    }
    assert verdicts(compare(cells(standard=[40], wmim=[60], namid=[20]))) == {
        "wmim": "reversed",
        "namid": "reversed",
    }
    assert verdicts(compare(cells(standard=[40], wmim=[41], namid=[41]))) == {
        "wmim": "not decided",
        "namid": "not decided",
    }
    # over seeds: the same mean difference of 8, steady and not
    assert verdicts(compare(cells(standard=[40, 42, 44], namid=[48, 50, 52]))) == {"namid": "holds"}
    assert verdicts(compare(cells(standard=[40, 42, 44], namid=[60, 40, 50]))) == {
        "namid": "not decided"
    }


def test_differences_are_paired_by_seed():
    """A seed that one of the two lacks does not count."""
    found = cells(standard=[40, 50, 60], namid=[48, 58])
    (row,) = compare(found)
    assert (
        row["seeds"] == 2
        and row["difference"] == pytest.approx(8)
        and row["printed"] == pytest.approx(44.79 - 42.38, abs=0.005)
    )
    del found["standard"].outcomes[1], found["standard"].outcomes[2]
    assert verdicts(compare(found)) == {"namid": "not run"}
    found["namid"].outcomes.clear()
    found["namid"].diverged.append(1)
    assert verdicts(compare(found)) == {"namid": "diverged"}


def test_pairs_in_the_printed_order():
    """Printed: wmim < standard < namid < trades."""
    assert in_order(cells(wmim=[1], standard=[2], namid=[3], trades=[4])) == (6, 6)
    assert in_order(cells(wmim=[4], standard=[3], namid=[2], trades=[1])) == (0, 6)
    assert in_order(cells(wmim=[1], standard=[3], namid=[3], trades=[9])) == (
        5,
        6,
    )  # a tie is no order
    assert in_order(cells(wmim=[1], standard=[], namid=[3])) == (1, 1)


def test_all_tables_whole(tmp_path):
    graph = everything(tmp_path, seeds=2)
    (graph.experiment.root / "tables").mkdir()
    contents = write_tables(graph)
    assert [content["name"] for content in contents] == [f"table{i}" for i in range(1, 7)]
    for content in contents:
        folder = graph.experiment.root / "tables"
        assert (
            json.loads((folder / f"{content['name']}.json").read_text())["caption"]
            == content["caption"]
        )
        rows = list(csv.DictReader(io.StringIO((folder / f"{content['name']}.csv").read_text())))
        own = {"standard", "trades", "mart"}  # have no estimators
        apart = [row for row in rows if row["defense"] in own and row["attack"].startswith("mi-")]
        assert {row["state"] for row in apart} <= {"no estimators"}
        rest = [row for row in rows if row not in apart]
        assert {(row["state"], row["seeds"]) for row in rest} == {("measured", "2")}
        assert len(rows) == sum(
            len(row["cells"]) for part in content["halves"] for row in part["rows"]
        )
        page = (folder / f"{content['name']}.md").read_text()
        assert page.count("| measured |") == len(
            [row for part in content["halves"] for row in part["rows"]]
        ) + len([1 for part in content["halves"] for _ in part["orders"][0]["comparisons"]])
        widths = [line.count("|") for line in page.splitlines() if line.startswith("|")]
        assert len(set(widths)) <= 4  # a table and its order for each norm
    # tables 1 and 3 show the same numbers
    assert (
        contents[0]["halves"][0] == contents[2]["halves"][0]
        and contents[0]["halves"][1] == contents[3]["halves"][0]
    )


def test_the_caption_says_what_a_reader_must_know(tmp_path):
    graph = measured(
        tmp_path, seeds=2, dataset="digits", data_note="Made of JPEG images.", alpha=0.25
    )
    said = table(graph, "table1")["caption"]
    for text in (
        "n = 20 test images",
        "2 seeds",
        "scale tiny",
        "Linf 0.12 and L2 1",
        "5 epochs",
        "alpha 0.25 instead of the paper's 5",
        "Made of JPEG images.",
        "an abacus",
        "2026-01-02",
        "another data set",
    ):
        assert text in said, said
    other = table(measured(tmp_path / "b", "standard", scale="full"), "table1")["caption"]
    assert not any(text in other for text in ("JPEG", "alpha", "surrogate", "another data set"))
    # the surrogate after its best epoch, by score
    assert (
        "The surrogate gets 61 % of its held-out images right"
        in table(everything(tmp_path / "c"), "table2")["caption"]
    )
    assert "5 epochs; surrogate 5 epochs;" in table(everything(tmp_path / "c"), "table2")["caption"]


def test_half_knows_its_own_columns(tmp_path):
    graph = plan(experiment(tmp_path), "all")
    assert half(graph, "black", "linf").columns == [
        (name, False) for name in ("none", "pgd-40", "aa", "fwa-40", "tidim")
    ]
    assert half(graph, "white", "l2").columns == [
        ("none", False),
        ("pgd-40", False),
        ("cw-20", True),
        ("cw-20", False),
        ("ddn-20", True),
        ("ddn-20", False),
        ("mi-40", False),
        ("mi-values-40", False),
        ("worst case", False),
    ]
    assert list(half(graph, "black", "l2").rows) == ["standard", "wmim", "namid"]
    assert table(graph, "table1") is None  # nothing was run


def test_statistics_of_a_cell():
    each = cells(standard=[40, 44])["standard"]
    assert each.mean == statistics.mean([40, 44]) and each.deviation == pytest.approx(
        statistics.stdev([40, 44])
    )


def test_a_defense_with_estimators_is_attacked_with_them_and_the_worst_case_counts_it(tmp_path):
    """60 of 100 images are right under the paper's attacks, of the first 50, which AutoAttack saw,
    30; 12 under mi-40."""
    graph = plan(experiment(tmp_path), "table1", ("linf",))
    right = "r" * 30 + "f" * 20 + "r" * 30 + "f" * 20
    for defense in ("standard", "namid"):
        run = f"seed1/linf/{defense}"
        found = dict.fromkeys(graph.nodes[f"{run}/white.json"].attacks, right)
        evaluate(graph, f"{run}/white.json", found | {"none": "r" * 100})
        evaluate(graph, f"{run}/white-aa.json", {"aa": "r" * 50})
    assert "seed1/linf/standard/white-mi.json" not in graph.nodes
    before = table(graph, "table3")
    assert the_cell(before, "namid", "worst case")["state"] == "not run"
    adaptive = {"mi-40": "f" * 18 + right[18:], "mi-values-40": right}
    evaluate(graph, "seed1/linf/namid/white-mi.json", adaptive)
    content = table(graph, "table3")
    assert the_cell(content, "standard", "MI-40")["text"] == "no estimators"
    assert the_cell(content, "namid", "MI-40")["mean"] == 42
    assert the_cell(content, "namid", "MI-values-40")["mean"] == 60
    for defense, share in (("standard", 60), ("namid", 24)):
        worst = the_cell(content, defense, "worst case")
        assert worst["mean"] == share and worst["images"] == [50] and worst["printed"] is None
    assert [column["attack"] for column in content["halves"][0]["orders"]] == [
        "none", "pgd-40", "aa", "fwa-40", "tidim",
    ]  # fmt: skip


def test_rows_of_other_estimators_are_stale(tmp_path):
    graph = plan(experiment(tmp_path), "table3")
    name = "seed1/linf/wmim/white-mi.json"
    evaluate(graph, name, dict.fromkeys(graph.nodes[name].attacks, "rf"))
    assert graph.state(name) == "finished"
    folder = graph.nodes["seed1/linf/standard-estimators_max"].folder
    (folder / "local_a_model.pth").write_bytes(b"WMIM does not read it")
    assert graph.state(name) == "finished"
    changed = json.loads(graph.product(name).read_text())
    changed["attacks"]["mi-40"]["settings"]["estimators"]["pre_local_n"] = "another"
    graph.product(name).write_text(json.dumps(changed))
    assert "mi-40: made with estimators" in graph.why(name)
