"""Print tables and draw figures of runs."""

from pathlib import Path

import matplotlib.pyplot as plt

from common.writing import atomic

# Okabe and Ito's palette is distinct for any colour vision; the line styles also in grey.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
STYLES = ["-", "--", "-.", ":", (0, (5, 1, 1, 1)), (0, (3, 1)), (0, (1, 1))]
MI_NAMES = {
    "natural_mi_of_natural": "natural MI of natural samples, $E_n(x; h(x))$",
    "natural_mi_of_adversarial": r"natural MI of adversarial samples, $E_n(x; h(\tilde{x}))$",
    "adversarial_mi_of_natural": "adversarial MI of natural samples, $E_a(n; h(x))$",
    "adversarial_mi_of_adversarial": (
        r"adversarial MI of adversarial samples, $E_a(n; h(\tilde{x}))$"
    ),
}


def table(header: list[str], rows: list[list[str]]) -> str:
    """Format rows as aligned text: the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(cells):
        return "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths))
        ).rstrip()

    return "\n".join([line(header), "  ".join("-" * width for width in widths), *map(line, rows)])


def plot_curves(rows: list[dict], path: Path, title: str) -> None:
    """Plot loss, accuracies and MI values over epochs, and write them as a PNG file.

    Panels without values in the rows of metrics.csv are left out.
    """
    panels = [
        (
            "loss per image",
            {
                "loss": "loss",
                "adv_loss": r"$L_{adv}$",
                "mi_loss": r"$L_{mi}$",
                "natural_loss": "natural estimator",
                "adversarial_loss": "adversarial estimator",
            },
        ),
        (
            "accuracy on held-out images (%)",
            {"natural_accuracy": "natural", "robust_accuracy": "under PGD"},
        ),
        (
            "J on held-out images (nats)",
            {"J1": "natural images", "J2": "images attacked for low MI"},
        ),
        (
            "information on held-out images (bits)",
            {"rate_bits": "rate E R", "label_bits": "lower bound of I(Y;T)"},
        ),
        ("MI over W, fooled (nats)", {f"{name}_W": text for name, text in MI_NAMES.items()}),
        ("MI over R, robust (nats)", {f"{name}_R": text for name, text in MI_NAMES.items()}),
    ]
    found = []
    for label, names in panels:
        series = {text: _points(rows, name) for name, text in names.items()}
        series = {text: points for text, points in series.items() if points}
        if series:
            found.append((label, series))
    figure, axes = plt.subplots(
        1, len(found), figsize=(4.6 * len(found), 3.9), squeeze=False, layout="constrained"
    )
    for axis, (label, series) in zip(axes[0], found):
        for i, (text, points) in enumerate(series.items()):
            axis.plot(
                *zip(*points),
                label=text,
                color=COLOURS[i],
                linestyle=STYLES[i],
                marker="." if len(points) < 40 else None,
            )
        axis.set(xlabel="epoch", ylabel=label)
        if "%" in label:
            axis.set_ylim(0, 100)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    figure.suptitle(title)
    save_figure(figure, path)


def _points(rows: list[dict], name: str) -> list[tuple[int, float]]:
    return [(row["epoch"], row[name]) for row in rows if row.get(name) is not None]


def plot_sweep(curves: dict[str, list[tuple[float, float]]], norm: str, n: int, path: Path) -> None:
    """Plot accuracy in percent against the budget, and write it as a PNG file.

    Args:
        curves: {attack: [(epsilon, accuracy)]}.
        norm: "linf" or "l2".
        n: the number of images.
        path: the file.
    """
    unit, budget = 1, "budget, L2 norm in pixel units"
    if norm == "linf":
        unit, budget = 255, "budget, grey levels of 255 (Linf)"
    figure, axis = plt.subplots(figsize=(5.2, 3.8), layout="constrained")
    for i, (name, points) in enumerate(curves.items()):
        axis.plot(
            [unit * epsilon for epsilon, _ in points],
            [accuracy for _, accuracy in points],
            label=name,
            marker="o",
            color=COLOURS[i % len(COLOURS)],
            linestyle=STYLES[i % len(STYLES)],
        )
    axis.set(xlabel=budget, ylabel="accuracy (%)", ylim=(0, None), title=f"{n} images")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    save_figure(figure, path)


def plot_examples(  # noqa: PLR0913
    x, x_adv, labels, said, said_adv, path: Path, title: str, class_names: list[str] | None = None
) -> None:
    """Draw a row for each image: natural image, both patterns, adversarial image, predictions.

    The natural pattern is the image itself. The adversarial pattern n = x~ - x is scaled to be
    visible, and the factor is printed.

    Args:
        x, x_adv: images (N,3,H,W) in [0,1].
        labels: (N,) labels.
        said, said_adv: (N,) predictions on x and on x~.
        path: the PNG file.
        title: the figure's title.
        class_names: names to print instead of label numbers.
    """
    x, x_adv = x.cpu().float(), x_adv.cpu().float()
    largest = max(int(values.max()) for values in (labels, said, said_adv))
    names = class_names or [str(i) for i in range(1 + largest)]
    noise = x_adv - x
    scale = 0.5 / max(noise.abs().max().item(), 1e-12)
    columns = [
        "natural image x",
        "natural pattern x",
        f"adversarial pattern n\n(0.5 + {scale:.2g} n)",
        "adversarial image x + n",
    ]
    figure, axes = plt.subplots(
        len(x), 4, figsize=(6.4, 1.62 * len(x) + 0.9), squeeze=False, layout="constrained"
    )
    for i, row in enumerate(axes):
        shown = [x[i], x[i], 0.5 + scale * noise[i], x_adv[i]]
        for axis, image in zip(row, shown):
            axis.imshow(image.clamp(0, 1).permute(1, 2, 0).numpy(), interpolation="nearest")
            axis.set(xticks=[], yticks=[])
        for axis, label in ((row[0], said[i]), (row[3], said_adv[i])):
            text, colour = f"predicted {names[int(label)]}", COLOURS[2]
            if int(label) != int(labels[i]):
                text, colour = f"{text}, true {names[int(labels[i])]}", COLOURS[1]
            axis.set_xlabel(text, fontsize=8, color=colour)
    for axis, text in zip(axes[0], columns):
        axis.set_title(text, fontsize=8)
    figure.suptitle(title, fontsize=9)
    save_figure(figure, path)


def save_figure(figure, path: Path, dpi: int = 130, **options) -> None:
    """Write a figure, in the format of the file's suffix, and close it.

    options: of `Figure.savefig`.
    """
    with atomic(path) as file:
        figure.savefig(file, format=path.suffix.removeprefix("."), dpi=dpi, **options)
    plt.close(figure)
