"""Measure time, arithmetic and memory of a function without arguments, and summarize times."""

import gc
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

Run = Callable[[], object]


def clock(run: Run, device: torch.device) -> float:
    """Return the seconds that `run` takes until the device has finished.

    They are measured by events on CUDA and by wall time on a CPU.
    """
    if device.type == "cuda":
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize(device)
        start.record()
        run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000  # from milliseconds
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def peak_memory(run: Run, device: torch.device) -> int:
    """Return the bytes that PyTorch's allocator has at the peak of `run`, beyond those before it.

    On a CPU the memory that oneDNN allocates itself is not included.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        run()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(path))
        events = [
            event
            for event in json.loads(path.read_text())["traceEvents"]
            if event.get("name") == "[memory]"
        ]
    live, now, peak = {}, 0, 0
    for event in sorted(events, key=lambda event: event["ts"]):
        size, address = event["args"]["Bytes"], event["args"]["Addr"]
        if size > 0:
            live[address] = size
            now += size
            peak = max(peak, now)
        else:
            now -= live.pop(address, 0)  # 0: it was there before
    return peak


def flops(run: Run) -> int:
    """Count the floating-point operations of `run`, a multiply-add as two.

    Only matrix products and convolutions count.
    """
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def release() -> None:
    """Release the memory of objects without references."""
    gc.collect()
    torch.cuda.empty_cache()


def in_turn(
    cases: dict[object, Callable[[], Run]], runs: int, warmup: int, device: torch.device
) -> tuple[dict[object, list[float]], dict[object, str]]:
    """Time `runs` rounds of all cases after `warmup` untimed ones.

    Each case runs once a round, so that a machine that drifts slows all cases alike.

    Args:
        cases: {key: ready}; ready(), which is not timed, returns the function to time.
        runs: the number of timed rounds.
        warmup: the number of untimed rounds.
        device: the device that the functions run on.

    Returns:
        {key: seconds of each round} and {key: why it failed}. A case that raises a RuntimeError,
        as it runs out of memory or cannot be compiled, is left out from there on.
    """
    seconds, failed = {key: [] for key in cases}, {}
    with tqdm(
        total=(warmup + runs) * len(cases), unit="run", disable=not sys.stderr.isatty(), leave=False
    ) as bar:
        for turn in range(warmup + runs):
            for key, ready in cases.items():
                bar.update()
                if key in failed:
                    continue
                try:
                    taken = clock(ready(), device)
                except RuntimeError as error:
                    failed[key] = (
                        f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
                    )
                else:
                    if turn >= warmup:
                        seconds[key].append(taken)
                if key in failed:  # the exception, which held the tensors, is gone here
                    release()
    return {key: taken for key, taken in seconds.items() if key not in failed}, failed


def summary(values: list[float]) -> dict[str, float]:
    """Return median, quartiles and extremes."""
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "q1": low, "q3": high, "min": min(values), "max": max(values)}


def ratio(values: list[float], reference: list[float]) -> float:
    """Return the median over rounds of value / reference.

    What slows both in a round cancels.
    """
    return statistics.median(value / other for value, other in zip(values, reference, strict=True))
