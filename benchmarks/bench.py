"""Measure the time, arithmetic and memory of each step of training, beside the naive arrangement.

    ./run bench                     # small networks, for a CPU, a few minutes
    ./run bench --full              # full width, batches of 1024 and 256, for a GPU
    ./run bench --full --arch wrn34-10 --parts pgd at namid --precision bf16
    ./run bench --growth            # growth with batch, image size, units and number of images

Each round times every case once, so that a machine that drifts slows all cases alike; a ratio is
the median over rounds of the quotient within a round. The timed steps are those of the training
scripts, with zero_grad, backward and optimizer, on random images (benchmarks/steps.py). The first
batch size is measured in every precision and layout and with the naive steps, the others in the
last precision and the first layout. The bench writes bench.json and bench.csv, or growth.csv and
growth.png, to --output.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks import PARTS
from utils.settings.command_line import flat, parse
from utils.settings.options import Arch, Count, need

# Set before torch is imported, so that the profiler, which measures memory, is silent.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

SMALL = {"arch": ("resnet18",), "width": 16, "size": 16, "batch_size": (128, 32), "n_units": 256}
FULL = {"arch": ("resnet18", "wrn34-10"), "size": 32, "batch_size": (1024, 256), "n_units": 2048}


@dataclass
class Settings:
    """Options of the bench.

    An option that is not given has its value for a small bench, or with --full for a full one.
    """

    full: bool = False
    """Full size, meant for a GPU."""
    growth: bool = False
    """Measure growth instead of the table, on the first architecture and batch size, in the last
    precision."""
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
    """The networks' precision in training; when not given fp32, and bf16 if the device has it."""
    layout: tuple[Literal["channels-last", "contiguous"], ...] = ("channels-last", "contiguous")
    """The memory layout of tensors. The naive steps are always contiguous."""
    compile: Literal["auto", "on", "off"] = "auto"
    """What to measure compiled as well. auto: the attack, the AT step and the NAMID step in the
    last precision and the first layout; on: every part; off: nothing."""
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
        right = "give a multiple of 4 from 16 up"
        need(self.size >= 16 and self.size % 4 == 0, "size", self.size, right)
        need(min(self.batch_size) > 1, "batch_size", min(self.batch_size), "give 2 or more images")
        need(self.n_units > 0, "n_units", self.n_units, "give 1 or more")
        need(self.runs > 1, "runs", self.runs, "give 2 or more: one run has no spread")
        need(self.warmup >= 0, "warmup", self.warmup, "give 0 or more")
        for option in ("parts", "layout"):
            need(bool(getattr(self, option)), option, "", "name at least one")


if __name__ == "__main__":
    settings = parse(Settings, __doc__)  # before torch is imported, so that --help answers at once

from dataclasses import asdict, replace
from functools import partial

import torch
import torch._dynamo

from benchmarks import growth, measure, report
from benchmarks.sizes import SEED, Sizes, Variant, made_up
from benchmarks.steps import Workbench, count_flops
from common.files import make_folder
from utils import devices, provenance
from utils.provenance import git_commit
from utils.scripts import run_script

# The parts that --compile auto compiles: on a CPU a network takes a minute to compile.
COMPILED = ("pgd", "at", "namid")


def plan(settings: Settings) -> list[tuple[Sizes, list[tuple[Variant, str]]]]:
    """Return the cases by sizes; those of equal sizes are timed in turn."""
    groups = []
    for arch in settings.arch:
        for number, batch in enumerate(settings.batch_size):
            sizes = Sizes(arch, settings.width, settings.size, batch, settings.n_units)
            cases = _cases(settings, every=number == 0)
            groups.append((sizes, list(dict.fromkeys(map(as_measured, cases)))))
    return groups


def _cases(settings: Settings, every: bool) -> list[tuple[Variant, str]]:
    """Return every variant of every part, or the best variant of all but the naive parts."""
    layouts = [layout == "channels-last" for layout in settings.layout]
    best = Variant(settings.precision[-1], layouts[0])
    if not every:
        return [(best, part) for part in settings.parts if "naive" not in part]
    variants = [
        Variant(precision, layout) for precision in settings.precision for layout in layouts
    ]
    cases = [(variant, part) for variant in variants for part in settings.parts]
    compiled = []
    if settings.compile == "on":
        compiled = cases
    elif settings.compile == "auto":
        compiled = [(best, part) for part in settings.parts if part in COMPILED]
    return cases + [(replace(variant, compile=True), part) for variant, part in compiled]


def as_measured(case: tuple[Variant, str]) -> tuple[Variant, str]:
    """Return the variant in which a part is measured.

    Evaluation is always in float32, the naive steps are contiguous and not compiled, and the
    loader has no network to compile.
    """
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
    """Measure cases of equal sizes; return a row for each, and a line for each that failed."""
    torch.manual_seed(SEED)
    images = made_up(sizes, device)
    variants = dict.fromkeys(variant for variant, _ in cases)
    benches = {variant: Workbench(sizes, variant, *images) for variant in variants}
    flops = count_flops(sizes, list(dict.fromkeys(part for _, part in cases)))
    ready = {(variant, part): partial(benches[variant].part, part) for variant, part in cases}
    # The limit is per architecture, not per network.
    with torch._dynamo.config.patch(recompile_limit=64):
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
            row = {
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
            rows.append(row)
    report.add_ratios(rows)
    lines = []
    for (variant, part), why in failed.items():
        case = f"{PARTS[part]}, {sizes.arch}, batch {sizes.batch}, {variant.precision}"
        lines.append(f"{case}{', compiled' * variant.compile}: {why}")
    return rows, lines


def machine(device: torch.device) -> dict:
    """Return the machine, versions and settings that the numbers hold for."""
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
    tf32 = "on" if about["matmul_tf32"] else "off"
    print(
        f"{about['hardware']}; torch {about['versions']['torch']}, TF32 {tf32}; {about['date']}; "
        f"commit {about['git_commit']}",
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
                f"\n{sizes.arch} of width {sizes.width or 'its own'}, {sizes.size}x{sizes.size} "
                f"images, {sizes.n_units} units; median of {settings.runs} rounds, per step or "
                f"batch:\n\n{report.show(more)}",
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
