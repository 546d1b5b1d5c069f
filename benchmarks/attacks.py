"""Measure what an attack costs beyond its own passes through the network.

    python -m benchmarks.attacks            # ResNet-18 at full width, a few minutes on two cores
    python -m benchmarks.attacks --attacks pgd-40,fwa-40,aa --device cuda --batch-size 256

Each attack is run, then replayed: the same number of forward and backward passes, on images of the
same sizes in the same order, with nothing between them. The overhead is the time of the attack
divided by the time of the replay, minus 1; the median is over rounds of the overhead within a
round. No image leaves early, and the network is untrained: neither changes what a pass costs.
"""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from utils.attacks import registry
from utils.settings.command_line import parse
from utils.settings.options import Arch, Count, need


def benched() -> list[str]:
    """List the attacks that are timed unless told others."""
    families = registry.FAMILIES.items()
    timed = {name: family.benched for name, family in families if family.benched is not None}
    return [f"{name}-{steps}" if steps else name for name, steps in timed.items()]


@dataclass
class Settings:
    """Options of the bench of attacks."""

    attacks: str = ",".join(benched())
    """Names separated by commas, as test_comparison.py takes them."""
    arch: Arch = "resnet18"
    """The network."""
    width: Count = None
    """Channels of the network's first stage; when not given the architecture's own."""
    size: int = 32
    """Height and width of the images in pixels."""
    batch_size: int = 32
    """Images attacked at once."""
    runs: int = 5
    """Timed rounds."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the first CUDA device, or the CPU."""
    output: Path = Path("runs/bench/attacks.json")
    """The results file."""

    def check(self) -> None:
        for name in self.attacks.split(","):
            registry.parse(name)
        need(self.size >= 16, "size", self.size, "give 16 or more pixels")
        need(self.batch_size > 0, "batch_size", self.batch_size, "give 1 or more images")
        need(self.runs > 1, "runs", self.runs, "give 2 or more: one run has no spread")


if __name__ == "__main__":
    settings = parse(Settings, __doc__)  # before torch is imported, so that --help answers at once

import torch

import models
from benchmarks import measure
from common.files import make_folder, write_text
from utils import devices, provenance
from utils.plots import table
from utils.provenance import git_commit
from utils.scripts import run_script


class Recorded(torch.nn.Module):
    """A network that logs each pass: the shape of the images, and how many gradients they get."""

    def __init__(self, network: torch.nn.Module):
        super().__init__()
        self.network, self.passes = network, []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shape_and_gradients = [tuple(x.shape), 0]
        self.passes.append(shape_and_gradients)
        logits = self.network(x)
        if logits.requires_grad:

            def count(_):
                shape_and_gradients[1] += 1

            logits.register_hook(count)
        return logits


def replay(
    network: torch.nn.Module, passes: list[tuple[tuple[int, ...], int]], device: torch.device
) -> None:
    """Run passes, (shape, number of gradients in the images), and nothing else."""
    images = {shape: torch.rand(shape, device=device) for shape, _ in passes}
    for shape, back in passes:
        with torch.set_grad_enabled(back > 0):
            x = images[shape].requires_grad_(back > 0)
            total = network(x).sum()
            for left in range(back, 0, -1):
                torch.autograd.grad(total, x, retain_graph=left > 1)


def main(settings: Settings) -> None:
    compute = devices.compute(settings.device)
    make_folder(settings.output.parent, "--output: the folder")
    torch.manual_seed(1)
    network = compute.prepare(models.build(settings.arch, width=settings.width))
    network = network.eval().requires_grad_(False)
    x = torch.rand(settings.batch_size, 3, settings.size, settings.size, device=compute.device)
    y = network(x).argmax(1)
    rows = []
    for name in settings.attacks.split(","):
        spec, recorded = registry.parse(name), Recorded(network)
        norm = spec.norms[0]
        epsilon = {"linf": 8 / 255, "l2": 0.5}[norm]

        def attack(spec=spec, model=network, norm=norm, epsilon=epsilon):
            registry.attack(spec.name, model, x, y, norm, epsilon)

        attack(model=recorded)
        # Each entry returns, untimed, the function to time; its defaults bind this round's values.
        ready = {
            "attack": lambda attack=attack: attack,
            "replay": lambda passes=recorded.passes: partial(
                replay, network, passes, compute.device
            ),
        }
        seconds, failed = measure.in_turn(ready, settings.runs, 1, compute.device)
        if failed:
            print(f"{name}: not measured: {'; '.join(failed.values())}")
            continue
        taken = [one / other - 1 for one, other in zip(seconds["attack"], seconds["replay"])]
        row = {
            "attack": spec.name,
            "norm": norm,
            "passes": len(recorded.passes),
            "backward": sum(back for _, back in recorded.passes),
            "seconds": measure.summary(seconds["attack"]),
            "replay_seconds": measure.summary(seconds["replay"]),
            "overhead": measure.summary(taken),
        }
        rows.append(row)
    facts = {
        "arch": settings.arch,
        "width": network.options["width"],
        "size": settings.size,
        "batch": settings.batch_size,
        "runs": settings.runs,
        "hardware": provenance.hardware(compute.device),
        "versions": provenance.versions(),
        "git_commit": git_commit(),
        "rows": rows,
    }
    write_text(settings.output, json.dumps(facts, indent=1) + "\n")
    print(show(rows))
    print(
        f"{settings.arch}, width {network.options['width']}, batch {settings.batch_size}, "
        f"{settings.size}x{settings.size}, float32; {facts['hardware']}; written: {settings.output}"
    )


HEADER = ["attack", "passes", "of them back", "seconds", "passes alone", "overhead %", "quartiles"]


def show(rows: list[dict]) -> str:
    """Return the rows as a table."""
    lines = []
    for row in rows:
        overhead = {name: 100 * value for name, value in row["overhead"].items()}
        line = [row["attack"], str(row["passes"]), str(row["backward"])]
        line += [f"{row[name]['median']:.2f}" for name in ("seconds", "replay_seconds")]
        line += [f"{overhead['median']:.1f}", f"{overhead['q1']:.1f} to {overhead['q3']:.1f}"]
        lines.append(line)
    return table(HEADER, lines)


if __name__ == "__main__":
    run_script(main, settings)
