"""Measure what is known in closed form on a Gaussian mixture: `analyze_MI.py mixture`."""

import json
import math
import statistics
from pathlib import Path

import torch
from torch import nn

from common.files import make_folder, write_text
from utils import devices
from utils.analysis.options.mixture import MixtureTraining
from utils.mi.fitting import mean_and_sd
from utils.mi.mixture import closed_form, dual_norm, worst_shift
from utils.plots import table

DIRECTION = (0.6, 0.8)  # w, of length 1; the mixture has S = s^2 I and theta = a w
HIDDEN, LEARNING_RATE = 64, 2e-3  # of the trained critics
REPORTED = 200  # batches drawn afresh on which a trained critic is judged


class MixtureCritic(nn.Module):
    """Compute J of points x (N,2) and labels z = +-1 (N,) by a network T(x, z): 3-64-64-1.

    J is `utils.mi.batch_bound` over all pairs. As z has two values, the N x N pairs have 2 N
    scores, each of which counts as often as its label occurs.
    """

    def __init__(self):
        super().__init__()
        layers = [nn.Linear(3, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU()]
        self.net = nn.Sequential(*layers, nn.Linear(HIDDEN, 1))

    def scores(self, x: torch.Tensor) -> torch.Tensor:
        """Score each point against both labels: T(x, -1) and T(x, 1), (N,2)."""
        labels = [x.new_full((len(x), 1), label) for label in (-1.0, 1.0)]
        return torch.cat([self.net(torch.cat([x, label], 1)) for label in labels], 1)

    def forward(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        scores, of_label = self.scores(x), torch.stack([z < 0, z > 0], 1).to(x)
        positives = (scores * of_label).sum(1)
        weighted = scores + of_label.mean(0).log()  # -inf for a label that does not occur
        return positives.mean() - weighted.logsumexp((0, 1)) + math.log(len(x))


def draw(n: int, margin: float, spread: float, offset: torch.Tensor, generator) -> tuple:
    """Draw n points x (n,2), moved by `offset`, and their labels z = sgn(w.x) (n,)."""
    w = torch.tensor(DIRECTION)
    y = 2 * torch.randint(2, (n, 1), generator=generator) - 1
    x = margin * y * w + spread * torch.randn(n, 2, generator=generator) + offset
    return x, (x @ w).sign()


def estimate(
    margin: float, spread: float, offset: torch.Tensor, steps: int, batch_size: int, seed: int
) -> float:
    """Train a critic on points moved by `offset`, and return its mean J on fresh batches."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        critic = MixtureCritic()
    generator = torch.Generator().manual_seed(devices.mix(seed, 0))
    optimizer = torch.optim.Adam(critic.parameters(), LEARNING_RATE, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        loss = -critic(*draw(batch_size, margin, spread, offset, generator))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    fresh = torch.Generator().manual_seed(devices.mix(seed, 1))
    with torch.no_grad():
        batches = (draw(batch_size, margin, spread, offset, fresh) for _ in range(REPORTED))
        return statistics.mean(critic(*batch).item() for batch in batches)


def measure(
    margin: float, spread: float, shift: float, training: MixtureTraining, output: Path
) -> None:
    """Compute the closed forms, train the critics; write mixture.json and print both.

    Args:
        margin, spread, shift: a, s and b of `utils.mi.mixture`.
        output: the folder of the file.
    """
    devices.compute("cpu")
    make_folder(output, "--output")
    known = closed_form(margin, spread, shift)
    w = torch.tensor(DIRECTION, dtype=torch.float64).numpy()
    # Linf: epsilon |w|_1 = shift. One shift of all points attains I_worst.
    worst = torch.tensor(-shift / dual_norm(w, math.inf) * worst_shift(w, math.inf)).float()
    offsets = {"J1": torch.zeros(2), "J2": worst}
    found: dict[str, list[float]] = {name: [] for name in (*offsets, "RV")}
    for seed in range(training.seed, training.seed + training.critics):
        for name, offset in offsets.items():
            plan = (training.steps, training.batch_size, seed)
            found[name].append(estimate(margin, spread, offset, *plan))
        found["RV"].append(found["J1"][-1] - found["J2"][-1])
    estimates = {name: mean_and_sd(values) for name, values in found.items() if values}
    asked = {"margin": margin, "spread": spread, "shift": shift}
    content = asked | known | {"estimates": estimates} | vars(training)
    write_text(output / "mixture.json", json.dumps(content, indent=1) + "\n")
    truth = {"J1": known["I"], "J2": known["I_worst"], "RV": known["RV"]}
    print(table(["closed form", "value"], [[name, f"{v:.6f}"] for name, v in known.items()]))
    lines = [
        [name, f"{truth[name]:.3f}", f"{mean:.3f}", "" if sd is None else f"{sd:.3f}"]
        for name, (mean, sd) in estimates.items()
    ]
    if lines:
        print(f"\nTrained critics, {training.steps} steps of {training.batch_size} points:\n")
        print(table(["in nats", "truth", "estimate", f"sd over {training.critics}"], lines))
    print(f"\nwritten: {output}/mixture.json")
