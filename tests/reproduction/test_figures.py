"""Figures from made-up measurements: what is drawn is what was measured, with the offset that the caption names."""

import csv
import io
import json

import made_up
import pytest
from made_up import everything, experiment, measure
from matplotlib.container import BarContainer

from reproduction import figures
from reproduction.paper import RADAR
from reproduction.plan import plan

any_number_of_images = made_up.any_number_of_images

VALUES = (
    "standard_mi_of_adversarial",
    "natural_mi_of_natural",
    "natural_mi_of_adversarial",
    "adversarial_mi_of_natural",
    "adversarial_mi_of_adversarial",
)


def with_mi(graph, value) -> None:
    """Every measurement of MI, value(seed, kind, attack, name)."""
    for name in graph.nodes:
        if "/mi-" in name:
            seed, kind = int(name[4]), name.split("mi-")[1].removesuffix(".json")
            attacks = RADAR if "natural" in name else ("pgd-40",)
            measure(
                graph,
                name,
                {
                    attack: {
                        "n": 30 + seed,
                        **{each: value(seed, kind, attack, each) for each in VALUES},
                    }
                    for attack in attacks
                },
            )


def rows(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_figure_2_is_drawn_from_the_raw_values(tmp_path):
    graph = plan(experiment(tmp_path, seeds=2), "figure2")

    def value(seed, kind, attack, name):
        return -3.0 - RADAR.index(attack) - 10 * VALUES.index(name) + (seed - 1.5)

    with_mi(graph, value)
    figure, text, what, *_ = figures.figure2(graph)
    drawn = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
    assert len(drawn) == 3
    for i, (name, label) in enumerate(figures.RADAR_SERIES.items()):
        expected = [
            -3.0 - j - 10 * VALUES.index(name) + 47 for j in range(5)
        ]  # the smallest is -3 - 4 - 40
        assert (
            list(drawn[label][:5]) == pytest.approx(expected) and drawn[label][0] == drawn[label][5]
        ), i
    assert "+47 nats" in what and "31 to 32 images" in what
    table = rows(text)
    assert (
        len(table) == 3 * 5 * 2
        and float(table[0]["mi_nats"]) == -3.5
        and table[0]["images"] == "31"
    )
    styles = {(line.get_linestyle(), line.get_color()) for line in figure.axes[0].lines}
    assert len(styles) == 3


def test_figure_4_has_an_offset_for_each_kind_of_estimators(tmp_path):
    graph = plan(experiment(tmp_path), "figure4")
    with_mi(
        graph,
        lambda seed, kind, attack, name: (
            (100.0 if kind == "estimators_max" else 1.0) * (1 + VALUES.index(name))
        ),
    )
    figure, text, what, *_ = figures.figure4(graph)
    for axis, scale in zip(figure.axes, (100, 1)):
        natural, adversarial = (
            [bar.get_height() for bar in group]
            for group in axis.containers
            if isinstance(group, BarContainer)
        )
        assert natural == pytest.approx([0, 2 * scale]) and adversarial == pytest.approx(
            [scale, 3 * scale]
        )
    assert (
        not figure.axes[0].texts
        and "-200 (estimators by Eq. 4), -2 (estimators by the mechanism) nats" in what
        and len(rows(text)) == 8
    )


def test_figure_4_without_a_fooled_image_says_so(tmp_path):
    graph = plan(experiment(tmp_path), "figure4")
    with_mi(graph, lambda seed, kind, attack, name: None if kind == "estimators" else 1.0)
    figure, text, *_ = figures.figure4(graph)
    assert [len(axis.texts) for axis in figure.axes] == [0, 4] and len(rows(text)) == 4
    figure.savefig(tmp_path / "a.png")  # where there is no value, the words leave room for the axes


def test_figure_5_and_7_show_what_was_measured_and_say_what_was_not(tmp_path):
    graph = everything(tmp_path)
    for name, bars in (("figure5", 5 * 2), ("figure7", 2 * 4)):
        figure, text, _, sources, _ = figures.DRAW[name](graph)
        table = rows(text)
        assert len(table) == bars and {row["state"] for row in table} == {"measured"}
        heights = [bar.get_height() for bar in figure.axes[0].patches]
        assert (
            sorted(heights) == pytest.approx(sorted(float(row["accuracy"]) for row in table))
            and sources
        )
    graph.nodes["seed1/linf/namid_ii"].diverged_note.write_text("")
    graph.product("seed1/linf/namid_i/white.json").unlink()
    figure, text, *_ = figures.figure5(graph)
    assert {row["run"]: row["state"] for row in rows(text)} == {
        "standard": "measured",
        "namid_i": "not run",
        "namid_ii": "diverged",
        "namid_iii": "measured",
        "namid": "measured",
    }
    assert (
        sorted(text.get_text() for text in figure.axes[0].texts)
        == ["diverged"] * 2 + ["not run"] * 2
    )


def test_bars_are_told_apart_in_grey(tmp_path):
    figure, *_ = figures.figure5(everything(tmp_path))
    assert (
        len({bar.get_hatch() for bar in figure.axes[0].patches}) == 5
        and len({bar.get_facecolor() for bar in figure.axes[0].patches}) == 5
    )


def test_figures_are_files(tmp_path):
    graph = everything(tmp_path)
    with_mi(graph, lambda *_: 1.0)
    written = figures.write_figures(graph)
    assert [content["name"] for content in written] == ["figure2", "figure4", "figure5", "figure7"]
    folder = graph.experiment.root / "figures"
    for content in written:
        assert (folder / f"{content['name']}.png").read_bytes()[:4] == b"\x89PNG" and (
            folder / f"{content['name']}.pdf"
        ).read_bytes()[:4] == b"%PDF"
        assert (
            json.loads((folder / f"{content['name']}.json").read_text()) == content
            and "test images" in content["caption"]
        )
        assert rows((folder / f"{content['name']}.csv").read_text())


def test_nothing_measured_draws_nothing(tmp_path):
    graph = plan(experiment(tmp_path), "all")
    graph.experiment.root.mkdir()
    assert figures.write_figures(graph) == []
