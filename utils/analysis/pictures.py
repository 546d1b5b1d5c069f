"""Draw worst-case mutual information: J1 and J2 with their cap, and RV against adversarial gap."""

from pathlib import Path

import matplotlib.pyplot as plt

from utils.plots import COLOURS, save_figure


def plot_vulnerability(content: dict, path: Path) -> None:
    """Draw a measured network: J1 and J2 of each pair of critics, and RV against its gap.

    content: that of vulnerability.json. The second panel is left out for an encoder, which has no
    adversarial gap.
    """
    points = [(content["model"], content["RV"], content["RV_sd"], content["adversarial_gap"])]
    panels = 1 if content["adversarial_gap"] is None else 2
    figure, axes = plt.subplots(
        1, panels, figsize=(4.4 * panels, 3.8), squeeze=False, layout="constrained"
    )
    axis, rows = axes[0][0], content["critics"]
    for number, (name, text) in enumerate((("J1", "J1, natural"), ("J2", "J2, attacked"))):
        values = [row[name] for row in rows]
        axis.plot(range(1, len(rows) + 1), values, "o", color=COLOURS[number], label=text)
    if content["pairs"] == "all":
        axis.axhline(content["log_B"], color="grey", linestyle=":", label="log B")
    axis.set(xlabel="pair of critics", ylabel="nats", xticks=range(1, len(rows) + 1))
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    if panels == 2:
        scatter(axes[0][1], points)
    kind = f"{content['representation']}, {content['n']} test images of {content['dataset']}"
    figure.suptitle(f"{kind}, {content['norm']} {content['epsilon']:.4g}", fontsize=9)
    save_figure(figure, path)


def scatter(axis, points: list[tuple[str, float, float | None, float]]) -> None:
    """Draw RV against adversarial gap.

    points: (label, RV, its deviation or None, gap in [0,1]) of each network.
    """
    for number, (label, rv, deviation, gap) in enumerate(points):
        axis.errorbar(
            rv,
            gap,
            xerr=deviation,
            fmt="o",
            capsize=3,
            color=COLOURS[number % len(COLOURS)],
            label=label,
        )
    axis.set(xlabel="RV (nats)", ylabel="adversarial gap", ylim=(-0.02, 1.02))
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)
