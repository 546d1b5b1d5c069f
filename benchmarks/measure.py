"""Time, arithmetic and memory of a function without arguments, and what is said of repeated times."""

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
    """Seconds that `run` takes until the device has finished: by events on CUDA, by wall time on a CPU."""
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
    """Bytes that PyTorch's allocator holds at the peak of `run`, beyond what it held before. On a CPU what oneDNN takes for
    itself is not seen."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as record:
        run()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        record.export_chrome_trace(str(path))
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
    """Floating-point operations of the matrix products and convolutions in `run`, a multiply-add counted as two."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def release() -> None:
    """Give back the memory of what nothing refers to any more."""
    gc.collect()
    torch.cuda.empty_cache()


def in_turn(
    cases: dict[object, Callable[[], Run]], runs: int, warmup: int, device: torch.device
) -> tuple[dict[object, list[float]], dict[object, str]]:
    """Time `runs` rounds of all cases after `warmup` untimed ones, each case once a round, so that a machine that
    drifts slows all of them alike.

    cases: {key: ready}; ready(), which is not timed, returns the function that is.
    Returns {key: seconds of each round} and {key: why it failed}: a case that runs out of memory or cannot be compiled, a
    RuntimeError, is left out from there on.
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
    """Median, quartiles and extremes."""
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "q1": low, "q3": high, "min": min(values), "max": max(values)}


def ratio(values: list[float], reference: list[float]) -> float:
    """The median over rounds of a round's value by its reference: what the machine did to both in that round cancels."""
    return statistics.median(value / other for value, other in zip(values, reference, strict=True))
