"""Compare the MI bounds with known mutual information: `analyze_MI.py gaussians`."""

import sys
from pathlib import Path

from tqdm import tqdm

from common.files import make_folder, write_csv
from utils import devices
from utils.mi.gaussians import CRITICS, Study, plot_study
from utils.mi.names import BOUNDS
from utils.plots import table


def measure(
    dim: int,
    mi: tuple[float, ...],
    samples: tuple[int, ...],
    repetitions: int,
    steps: int,
    seed: int,
    output: Path,
) -> None:
    """Compute bias and deviation of each bound on the CPU; write, plot and print them.

    The optimal critic is in float64, the trained ones in float32.

    Args:
        dim: components of x and of y.
        mi: true mutual information, in nats.
        samples: batch sizes N.
        repetitions: fresh batches for each bias and deviation.
        steps: training steps of the trained critic.
        seed: seed of the draws and of the critics' first weights.
        output: the folder of the files.
    """
    devices.compute("cpu")
    make_folder(output, "--output")
    study = Study(dim, mi, samples, repetitions, steps, seed)
    silent = not sys.stderr.isatty()
    rows = list(tqdm(study.rows(), total=len(study), unit="cell", disable=silent, leave=False))
    write_csv(output / "gaussians.csv", rows)
    how = {
        "optimal": "the log density ratio",
        "trained": f"<g(x), f(y)>, two networks, {steps} steps",
    }
    sizes = f"{dim} components, {repetitions} repetitions"
    for critic in CRITICS:
        of_critic = [row for row in rows if row["critic"] == critic]
        title = f"{critic} critic ({how[critic]}); {sizes}"
        plot_study(of_critic, output / f"gaussians-{critic}.png", title)
        print(f"\n{title}: bias (standard deviation) in nats against the true mutual information\n")
        print(_table(of_critic, mi, samples))
    print(f"\n{_limits(rows)}")
    pictures = ", ".join(f"gaussians-{critic}.png" for critic in CRITICS)
    print(f"\nwritten: {output}/gaussians.csv, {pictures}")


def _table(rows: list[dict], mi: tuple[float, ...], samples: tuple[int, ...]) -> str:
    """Format the rows of one critic: a line for each bound and N, a column for each true MI."""
    cells = {}
    for row in rows:
        cells[row["bound"], row["n"], row["mi"]] = f"{row['bias']:+.3f} ({row['sd']:.3f})"
    lines = []
    for bound in BOUNDS:
        for n in samples:
            lines.append([f"{bound}, {n}", *(cells[bound, n, value] for value in mi)])
    return table(["bound, N", *(f"I = {value:g}" for value in mi)], lines)


def _limits(rows: list[dict]) -> str:
    """State which bounds have a limit besides the mutual information."""
    limits = {row["mi"]: row["limit"] for row in rows if row["bound"] == "fd"}
    values = ", ".join(f"{most:.3f} at I = {mi:g}" for mi, most in limits.items())
    return (
        f"nce cannot exceed log N. fd estimates twice a Jensen-Shannon divergence, not I: {values}."
    )
