"""The options of `analyze_MI.py theorem1`."""

from dataclasses import dataclass
from pathlib import Path

from utils.settings.values import need, need_memory


@dataclass
class Theorem1:
    """Theorem 1's terms on joint Gaussians, in closed form."""

    dim: int = 5
    """Components of the patterns x and n."""
    outputs: int = 3
    """Components of the output z."""
    seed: int = 1
    """Seed of the random covariances and maps."""
    output: Path = Path("runs/mi-theorem1")
    """The folder for theorem1.csv."""

    def check(self) -> None:
        need(self.dim > 0, "dim", self.dim, "give 1 or more")
        need(self.outputs > 0, "outputs", self.outputs, "give 1 or more")
        for option in ("dim", "outputs"):
            need_memory(option, getattr(self, option), 2 * getattr(self, option) ** 2)
        need(self.seed >= 0, "seed", self.seed, "give 0 or more")
