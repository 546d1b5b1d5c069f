"""What each step of training costs: time, arithmetic, memory, on this machine; ours beside the naive arrangement.

    ./run bench                     # small networks, for a CPU, a few minutes
    ./run bench --full              # full width, batches of 1024 and 256, for a GPU
    ./run bench --full --arch wrn34-10 --parts pgd at namid --precision bf16
    ./run bench --growth            # how time and memory grow with batch, image size, units and number of images

Every case is timed once a round, case after case, so that a machine that drifts slows all alike; a ratio is the median over
rounds of the quotient within a round. Timed are the steps of the training scripts, with zero_grad, backward and optimizer, on
random images (benchmarks/steps.py). The first batch size takes every precision and layout and the naive steps, the others the
last precision in the first layout. Written to --output: bench.json and bench.csv, or growth.csv and growth.png.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks import PARTS
from utils.settings.command_line import flat, parse
from utils.settings.options import Arch, Count, need

os.environ.setdefault(
    "KINETO_LOG_LEVEL", "99"
)  # before torch is imported: the profiler, which measures memory, is silent

SMALL = {"arch": ("resnet18",), "width": 16, "size": 16, "batch_size": (128, 32), "n_units": 256}
FULL = {"arch": ("resnet18", "wrn34-10"), "size": 32, "batch_size": (1024, 256), "n_units": 2048}


@dataclass
class Settings:
    """Options of the bench. What is not given is chosen for a small bench, or for a full one with --full."""

    full: bool = False
    """Full size, meant for a GPU."""
    growth: bool = False
    """Measure growth in place of the table, on the first architecture, batch size and the last precision."""
    arch: tuple[Arch, ...] = ()
    """Target networks (small: resnet18; full: also wrn34-10)."""
    width: Count = None
    """Channels of the target's first stage (small: 16; full: the architecture's own)."""
    size: Count = None
    """Height and width of the images in pixels (small: 16; full: 32)."""
    batch_size: tuple[int, ...] = ()
    """Images in a batch (small: 128 and 32; full: 1024 and 256)."""
    n_units: Count = None
    """Units of the MI estimators (small: 256; full: 2048)."""
    parts: tuple[Literal[tuple(PARTS)], ...] = tuple(PARTS)
    """What to time."""
    precision: tuple[Literal["fp32", "bf16"], ...] = ()
    """Of the networks in training; when not given fp32, and bf16 where the device has it."""
    layout: tuple[Literal["channels-last", "contiguous"], ...] = ("channels-last", "contiguous")
    """How tensors lie in memory. The naive steps are always contiguous."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Compiled besides: auto the attack, the AT and the NAMID step in the last precision and the first layout; on every part."""
    runs: int = 10
    """Timed rounds."""
    warmup: int = 2
    """Untimed rounds before them."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the first CUDA device, or the CPU."""
    output: Path = Path("runs/bench")
    """The folder for the results."""

    def check(self) -> None:
        for option, value in (FULL if self.full else SMALL).items():
            if getattr(self, option) in (None, ()):
                setattr(self, option, value)
        need(self.width is None or self.width > 0, "width", self.width, "give 1 or more channels")
        need(
            self.size >= 16 and self.size % 4 == 0,
            "size",
            self.size,
            "give a multiple of 4 from 16 up",
        )
        need(min(self.batch_size) > 1, "batch_size", min(self.batch_size), "give 2 or more images")
        need(self.n_units > 0, "n_units", self.n_units, "give 1 or more")
        need(self.runs > 1, "runs", self.runs, "give 2 or more: one run has no spread")
        need(self.warmup >= 0, "warmup", self.warmup, "give 0 or more")
        for option in ("parts", "layout"):
            need(bool(getattr(self, option)), option, "", "name at least one")


if __name__ == "__main__":
    settings = parse(Settings, __doc__)  # before torch is imported, so that --help answers at once

from dataclasses import asdict, replace

import torch
import torch._dynamo

from benchmarks import growth, measure, report
from benchmarks.steps import SEED, Sizes, Variant, Workbench, count_flops, made_up
from common.files import make_folder
from utils import devices, provenance
from utils.provenance import git_commit
from utils.scripts import run_script

COMPILED = (
    "pgd",
    "at",
    "namid",
)  # with --compile auto: on a CPU a network takes a minute to compile


def plan(settings: Settings) -> list[tuple[Sizes, list[tuple[Variant, str]]]]:
    """The cases by sizes; those of equal sizes are timed in turn."""
    layouts = [layout == "channels-last" for layout in settings.layout]
    best, groups = Variant(settings.precision[-1], layouts[0]), []
    for arch in settings.arch:
        for number, batch in enumerate(settings.batch_size):
            if number == 0:
                variants = [
                    Variant(precision, layout)
                    for precision in settings.precision
                    for layout in layouts
                ]
                cases = [(variant, part) for variant in variants for part in settings.parts]
                cases += [
                    (replace(variant, compile=True), part)
                    for variant, part in cases
                    if settings.compile == "on"
                    or (settings.compile == "auto" and variant == best and part in COMPILED)
                ]
            else:
                cases = [(best, part) for part in settings.parts if "naive" not in part]
            sizes = Sizes(arch, settings.width, settings.size, batch, settings.n_units)
            groups.append((sizes, list(dict.fromkeys(map(as_it_is, cases)))))
    return groups


def as_it_is(case: tuple[Variant, str]) -> tuple[Variant, str]:
    """The case that is measured: evaluation is always in float32, the naive steps are contiguous and not compiled, and the
    loader has no network to compile."""
    variant, part = case
    if part == "evaluation":
        variant = replace(variant, precision="fp32")
    if "naive" in part:
        variant = replace(variant, channels_last=False, compile=False)
    if part == "loader":
        variant = replace(variant, compile=False)
    return variant, part


def bench(
    sizes: Sizes, cases: list[tuple[Variant, str]], settings: Settings, device: torch.device
) -> tuple[list[dict], list[str]]:
    """A row for each case, and a line for each that failed."""
    torch.manual_seed(SEED)
    images = made_up(sizes, device)
    benches = {
        variant: Workbench(sizes, variant, *images)
        for variant in dict.fromkeys(variant for variant, _ in cases)
    }
    flops = count_flops(sizes, list(dict.fromkeys(part for _, part in cases)))
    ready = {
        (variant, part): (lambda bench=benches[variant], part=part: bench.part(part))
        for variant, part in cases
    }
    with torch._dynamo.config.patch(
        recompile_limit=64
    ):  # the limit is per architecture, not per network
        seconds, failed = measure.in_turn(ready, settings.runs, settings.warmup, device)
        rows = []
        for (variant, part), runs in seconds.items():
            workbench = benches[variant]
            run = ready[variant, part]()
            workbench.clear()
            peak = measure.peak_memory(run, device)
            workbench.clear()
            units = workbench.units(part)
            runs = [taken / units for taken in runs]
            took = measure.summary(runs)
            work = flops[part] / units if part in flops else None
            rows.append(
                {
                    "part": part,
                    **asdict(sizes),
                    **asdict(variant),
                    "seconds": took,
                    "runs": runs,
                    "images_per_second": sizes.batch / took["median"],
                    "flops": work,
                    "flop_per_second": work and work / took["median"],
                    "peak_bytes": peak,
                }
            )
    report.add_ratios(rows)
    return rows, [
        f"{PARTS[part]}, {sizes.arch}, batch {sizes.batch}, {variant.precision}{', compiled' * variant.compile}: {why}"
        for (variant, part), why in failed.items()
    ]


def machine(device: torch.device) -> dict:
    """What the numbers hold for."""
    return {
        "hardware": provenance.hardware(device),
        "device": device.type,
        "threads": torch.get_num_threads(),
        "versions": provenance.versions(),
        "git_commit": git_commit(),
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "matmul_tf32": torch.backends.cuda.matmul.allow_tf32,
        "cudnn_tf32": torch.backends.cudnn.allow_tf32,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
    }


def main(settings: Settings) -> None:
    compute = devices.compute(settings.device, "auto")
    settings.precision = settings.precision or tuple(dict.fromkeys(("fp32", compute.precision)))
    make_folder(settings.output, "--output")
    about = machine(compute.device)
    print(
        f"{about['hardware']}; torch {about['versions']['torch']}, TF32 {'on' if about['matmul_tf32'] else 'off'}; "
        f"{about['date']}; commit {about['git_commit']}",
        flush=True,
    )
    if settings.growth:
        growth.run(settings, compute.device, about)
        return
    rows, failed = [], []
    for sizes, cases in plan(settings):
        more, wrong = bench(sizes, cases, settings, compute.device)
        torch.compiler.reset()
        measure.release()
        rows, failed = rows + more, failed + wrong
        if more:
            print(
                f"\n{sizes.arch} of width {sizes.width or 'its own'}, {sizes.size}x{sizes.size} images, {sizes.n_units} units; "
                f"median of {settings.runs} rounds, per step or batch:\n\n{report.show(more)}",
                flush=True,
            )
        report.write(settings.output, about, flat(settings), rows, failed)
    for line in failed:
        print(f"warning: not measured: {line}")
    if found := report.targets(rows, about["hardware"]):
        print(f"\n{report.show_targets(found)}")
    print(f"\ndone: {settings.output}/bench.json and bench.csv")


if __name__ == "__main__":
    run_script(main, settings)
