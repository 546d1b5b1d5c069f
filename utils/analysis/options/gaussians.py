"""The options of `analyze_MI.py gaussians`."""

from dataclasses import dataclass
from pathlib import Path

from utils.settings.values import need, need_memory


@dataclass
class Gaussians:
    """Each MI bound against the known MI of correlated Gaussians: bias and deviation."""

    dim: int = 4
    """Components of x and of y."""
    mi: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0)
    """True mutual information, in nats."""
    samples: tuple[int, ...] = (16, 64, 256)
    """Batch sizes N."""
    repetitions: int = 100
    """Fresh batches for each bias and deviation."""
    steps: int = 500
    """Training steps of the trained critic."""
    seed: int = 1
    """Seed of the draws and of the critics' first weights."""
    output: Path = Path("runs/mi-gaussians")
    """The folder for gaussians.csv and a plot for each critic."""

    def check(self) -> None:
        need(self.dim > 0, "dim", self.dim, "give 1 or more")
        need_memory("dim", self.dim, 8 * self.dim)
        need(
            bool(self.mi) and all(0 < mi < 8 * self.dim for mi in self.mi),
            "mi",
            self.mi,
            "give values above 0 and below 8 nats per component; 1 - rho^2 is rounded beyond",
        )
        need(
            bool(self.samples) and all(n > 1 for n in self.samples),
            "samples",
            self.samples,
            "give batch sizes of 2 or more",
        )
        for n in self.samples:
            need_memory("samples", n, n**2)
        need(self.repetitions > 1, "repetitions", self.repetitions, "give 2 or more")
        need(self.steps > 0, "steps", self.steps, "give 1 or more")
        need(self.seed >= 0, "seed", self.seed, "give 0 or more")
