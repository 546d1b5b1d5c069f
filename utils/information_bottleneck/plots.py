"""Draw what analyze_IB.py measured, from the rows of its CSV files."""

from collections.abc import Callable, Iterable
from pathlib import Path

import matplotlib.pyplot as plt

from utils.plots import COLOURS, STYLES, save_figure


def panels(number: int):
    """Return a figure with `number` axes in a row."""
    return plt.subplots(1, number, figsize=(4.6 * number, 3.9), squeeze=False, layout="constrained")


def finish(figure, axes: Iterable, path: Path, title: str) -> None:
    """Add grids and legends, and write the figure."""
    for axis in axes:
        axis.grid(alpha=0.3)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=7)
    figure.suptitle(title, fontsize=9)
    save_figure(figure, path)


def lines(axis, rows: list[dict], x: str, columns: dict[str, str]) -> None:
    """Draw a line for each column over x, where the rows have it."""
    for i, (name, label) in enumerate(columns.items()):
        points = sorted((row[x], row[name]) for row in rows if row.get(name) is not None)
        if points:
            style = {"color": COLOURS[i % 7], "linestyle": STYLES[i % 7], "marker": "o"}
            axis.plot(*zip(*points), label=label, markersize=4, **style)


def plot_plane(rows: list[dict], path: Path, title: str) -> None:
    """Draw information and accuracies over beta (Figure 1)."""
    figure, axes = panels(3)
    first, second, third = axes[0]
    lines(
        first,
        rows,
        "beta",
        {
            "rate_bits": "rate E R of x",
            "rate_bits_adversarial": "rate E R of x'",
            "input_bits_upper": "I(X;T), upper bracket",
            "input_bits_lower": "I(X;T), lower bracket",
        },
    )
    lines(
        second,
        rows,
        "beta",
        {
            "label_bits": "I(Y;T), H(Y) - CE",
            "label_bits_lower": "I(Y;T), lower bracket",
            "label_bits_upper": "I(Y;T), upper bracket",
        },
    )
    lines(
        third,
        rows,
        "beta",
        {
            "benign_accuracy": "benign",
            "adversarial_accuracy": "adversarial",
            "gap": "training minus adversarial",
        },
    )
    for axis, label in zip(axes[0], ("bits", "bits", "percent")):
        axis.set(xlabel="beta", ylabel=label, xscale="log")
    first.set_yscale("log")
    finish(figure, axes[0], path, title)


def scatter(
    axis, rows: list[dict], x: str, y: str, group: Callable, labels: tuple[str, str]
) -> None:
    """Draw a point for each row, in a colour for each group."""
    names = list(dict.fromkeys(group(row) for row in rows))
    for i, name in enumerate(names):
        points = [(row[x], row[y]) for row in rows if group(row) == name]
        axis.scatter(
            *zip(*points), label=str(name), color=COLOURS[i % 7], s=18, marker="osD^v<>"[i % 7]
        )
    axis.set(xlabel=labels[0], ylabel=labels[1])


def plot_bound(rows: list[dict], path: Path, title: str) -> None:
    """Draw the gap over the Lipschitz product and over the information (Figure 2)."""
    figure, axes = panels(2)
    label = "training minus adversarial accuracy (%)"
    texts = {"lipschitz": "Lipschitz product L", "rate_bits": "rate E R (bits)"}
    for axis, (name, text) in zip(axes[0], texts.items()):
        scatter(axis, rows, name, "gap", lambda row: row["run"], (text, label))
    axes[0][0].set_xscale("log")
    finish(figure, axes[0], path, title)


def plot_transfer(rows: list[dict], path: Path, title: str) -> None:
    """Draw delta' - delta over L, and tau over beta (Figure 3)."""
    figure, axes = panels(2)
    first, second = axes[0]

    def group(row):
        return f"beta {row['beta']:g}, {row['head']}, {row['attack']}"

    scatter(first, rows, "lipschitz", "gap", group, ("Lipschitz product L", "delta' - delta"))
    scatter(second, rows, "beta", "tau", group, ("beta", "tau, the larger benign error"))
    first.set_xscale("log")
    second.set_xscale("log")
    finish(figure, axes[0], path, title)


def plot_entropy(rows: list[dict], path: Path, title: str) -> None:
    """Draw the entropy of features and the adversarial accuracy over the share of adversarial
    training images (Figure 4), a panel for each attack.
    """
    attacks = list(dict.fromkeys(row["attack"] for row in rows))
    figure, axes = panels(len(attacks))
    for axis, attack in zip(axes[0], attacks):
        some = [row for row in rows if row["attack"] == attack]
        names = {
            f"{images}_unit_{estimator}": f"{images}, {label}"
            for images in ("natural", "adversarial")
            for estimator, label in (("maximum_likelihood", "ML"), ("jvhw", "JVHW"))
        }
        lines(axis, some, "adversarial_fraction", names)
        axis.set(xlabel="share of adversarial training images", ylabel="entropy per unit (bits)")
        axis.set_title(attack, fontsize=9)
        other = axis.twinx()
        points = sorted((row["adversarial_fraction"], row["adversarial_accuracy"]) for row in some)
        other.plot(*zip(*points), color="tab:red", marker="x", label="adversarial accuracy")
        other.set(ylabel="adversarial accuracy (%)", ylim=(0, 100))
    finish(figure, axes[0], path, title)


def plot_gaussian(rows: list[dict], path: Path, title: str) -> None:
    """Draw both informations of the trained and of the optimal bottleneck, over beta."""
    figure, axes = panels(2)
    first, second = axes[0]
    lines(
        first,
        rows,
        "beta",
        {
            "optimal_x": "I(X;T), optimal",
            "information_x": "I(X;T), trained",
            "rate": "rate, trained",
            "optimal_y": "I(Y;T), optimal",
            "information_y": "I(Y;T), trained",
        },
    )
    lines(second, rows, "beta", {"least_loss": "least loss", "loss": "trained"})
    for axis in axes[0]:
        axis.set(xlabel="beta", ylabel="nats")
    finish(figure, axes[0], path, title)


def plot_estimators(rows: list[dict], path: Path, title: str) -> None:
    """Draw the bias of each estimator over n, a panel for each distribution."""
    names = list(dict.fromkeys(row["distribution"] for row in rows))
    figure, axes = panels(len(names))
    for axis, name in zip(axes[0], names):
        for i, estimator in enumerate(dict.fromkeys(row["estimator"] for row in rows)):
            some = [r for r in rows if r["distribution"] == name and r["estimator"] == estimator]
            points = [[row[key] for row in some] for key in ("n", "bias", "sd")]
            style = {"color": COLOURS[i], "linestyle": STYLES[i], "marker": "osD"[i]}
            axis.errorbar(*points, label=estimator.replace("_", " "), markersize=4, **style)
        axis.set(xlabel="samples n", ylabel="bias (bits)", xscale="log", title=name)
        axis.axhline(0, color="0.5", linewidth=0.8)
    finish(figure, axes[0], path, title)
