"""The bench as a user runs it, and what it says of made-up times: ratios, targets, growth, overhead."""

import csv
import json
import math
import shlex
import subprocess
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, run_script, succeed

from benchmarks import PARTS, bench, growth, measure, report, steps
from benchmarks.steps import count_flops
from utils.settings.command_line import check, parse

CPU = torch.device("cpu")


def test_cases_are_timed_in_turn_after_the_warm_up(monkeypatch):
    calls, now = [], iter(range(1000))

    def case(name):
        def run():
            calls.append(name)
            if name == "b" and len(calls) > 4:
                raise torch.OutOfMemoryError("no memory\nfor this")

        return lambda: run

    monkeypatch.setattr(
        measure, "time", SimpleNamespace(perf_counter=lambda: next(now) ** 2)
    )  # no two intervals are equal
    seconds, failed = measure.in_turn(
        {name: case(name) for name in "abc"}, runs=2, warmup=1, device=CPU
    )
    assert "".join(calls) == "abcabcac"
    assert failed == {"b": "OutOfMemoryError: no memory"} and seconds.keys() == {"a", "c"}
    assert seconds["a"] == [13, 23] and seconds["c"] == [
        19,
        27,
    ]  # (k+1)^2 - k^2 at k = 6, 11 and 9, 13; b's end was never read


def made_up_row(part, runs, peak=100, **variant):
    runs = list(map(float, runs))
    sizes = {"arch": "resnet18", "width": None, "size": 32, "batch": 1024, "n_units": 2048}
    variant = {"precision": "bf16", "channels_last": True, "compile": False} | variant
    took = measure.summary(runs)
    return {
        "part": part,
        **sizes,
        **variant,
        "seconds": took,
        "runs": runs,
        "images_per_second": 1024 / took["median"],
        "flops": 6e12,
        "flop_per_second": 6e12 / took["median"],
        "peak_bytes": peak,
    }


def test_ratios_are_taken_within_rounds():
    drifting = [1, 2, 4, 8]  # a machine that slows down to an eighth
    rows = [
        made_up_row("at", drifting),
        made_up_row("namid", [1.2 * t for t in drifting]),
        made_up_row("at", [3, 3, 3, 3], precision="fp32"),
        made_up_row("namid", [3, 6, 9, 3], precision="fp32"),
        made_up_row("stage2", [2, 2, 8, 8]),
        made_up_row("namid", drifting, compile=True),
    ]
    report.add_ratios(rows)
    assert [row["to_at"] for row in rows] == [
        1,
        pytest.approx(1.2),
        1,
        1.5,
        1.5,
        None,
    ]  # 1.5: not 5/3, the quotient of medians
    assert measure.summary([5.0, 1, 2, 3, 4]) == {"median": 3, "q1": 2, "q3": 4, "min": 1, "max": 5}


def test_targets_are_judged_by_what_was_measured():
    naive_layout = {"channels_last": False}
    rows = [
        made_up_row("loader", [0.03] * 3),
        made_up_row("at", [1] * 3, peak=100),
        made_up_row("namid", [1.2] * 3, peak=240),
        made_up_row("naive-namid", [2] * 3, peak=600, **naive_layout),
        made_up_row("stage2", [2.3] * 3),
        made_up_row("naive-stage2", [5] * 3, **naive_layout),
        made_up_row("namid", [0.5] * 3, compile=True),
        made_up_row("naive-namid", [2] * 3, precision="fp32", **naive_layout),
    ]
    found = {
        (each["target"], "compiled" in each["where"]): (each["measured"], each["holds"])
        for each in report.targets(rows, "NVIDIA H200")
    }
    expected = {
        ("time, loader's batch / AT step", False): (0.03, False),
        ("time, NAMID step / AT step", False): (1.2, True),
        ("time, NAMID step / naive", False): (0.6, True),
        ("time, NAMID step / naive", True): (0.25, True),
        ("memory, NAMID step / AT step", False): (2.4, False),
        ("memory, NAMID step / naive", False): (0.4, True),
        ("memory, NAMID step / naive", True): (100 / 600, True),
        ("time, stage-2 step / naive", False): (0.46, False),
        ("time, fastest NAMID step / naive in fp32", True): (0.25, True),
        ("NAMID step, TFLOP/s", True): (12, False),
        ("seconds for 50,000 images", True): (50_000 / 2048, False),
    }
    assert found.keys() == expected.keys()
    for key, (measured, holds) in expected.items():
        assert found[key] == (pytest.approx(measured), holds), key
    assert not any("TFLOP" in each["target"] for each in report.targets(rows, "another device"))


def test_the_first_batch_takes_every_variant_and_the_others_one():
    settings = bench.Settings(precision=("fp32", "bf16"))
    check(settings)
    (sizes, first), (other_sizes, other) = bench.plan(settings)
    assert (sizes.batch, other_sizes) == (128, replace(sizes, batch=32))
    assert len(first) == len(set(first))
    parts = Counter(part for _, part in first)
    #               precisions x layouts, the compiled one of "auto" beside
    assert parts == {
        "loader": 4,
        "worst-case": 4,
        "vib": 4,
        "entropic": 4,
        "pgd": 5,
        "at": 5,
        "namid": 5,
        "stage2": 4,
        "evaluation": 2,
        "naive-namid": 2,
        "naive-stage2": 2,
    }
    assert {variant.precision for variant, part in first if part == "evaluation"} == {"fp32"}
    assert not any(variant.channels_last for variant, part in first if "naive" in part)
    assert [part for _, part in other] == [part for part in PARTS if "naive" not in part]
    assert (
        sum(variant.compile for variant, _ in bench.plan(replace(settings, compile="on"))[0][1])
        == 7 * 4 + 2
    )
    assert not any(
        variant.compile for variant, _ in bench.plan(replace(settings, compile="off"))[0][1]
    )


TINY = "--device cpu --runs 2 --warmup 0 --width 4 --size 16 --batch-size 8 --n-units 8 --precision fp32".split()


def test_the_bench_runs_and_its_files_hold_what_it_shows(tmp_path, monkeypatch):
    """FLOPs are counted for one part and taken for all; test_steps.py counts the others, at full size."""

    def count_one(sizes, parts):
        return dict.fromkeys(parts, count_flops(sizes, ["pgd"])["pgd"])

    monkeypatch.setattr(steps, "count_flops", count_one)
    parts = [part for part in PARTS if part != "naive-stage2"]
    said = succeed(
        "benchmarks/bench.py",
        *TINY,
        "--layout",
        "channels-last",
        "--compile",
        "off",
        "--output",
        tmp_path,
        "--parts",
        *parts,
    ).out
    found = json.loads((tmp_path / "bench.json").read_text())
    rows = found["rows"]
    assert sorted(row["part"] for row in rows) == sorted(parts) and not found["failed"]
    lines = said.splitlines()
    for row in rows:
        assert len(row["runs"]) == 2 and row["seconds"]["median"] == pytest.approx(
            sum(row["runs"]) / 2
        )
        line = next(line for line in lines if line.startswith(f"{PARTS[row['part']]}  "))
        shown = line.removeprefix(PARTS[row["part"]]).split()
        assert shown[:2] == ["8", "fp32"] and report.milliseconds(row["seconds"]["median"]) in shown
        assert row["images_per_second"] == pytest.approx(8 / row["seconds"]["median"])
        assert row["peak_bytes"] > 0
        if row["part"] != "loader":
            assert row["flop_per_second"] == pytest.approx(row["flops"] / row["seconds"]["median"])
    assert (
        found["targets"] == report.targets(rows, found["machine"]["hardware"])
        and len(found["targets"]) == 6
    )
    assert all(each["target"] in said for each in found["targets"])
    assert (
        found["machine"]["versions"]["torch"] == torch.__version__
        and found["machine"]["hardware"] in said
    )
    with open(tmp_path / "bench.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [line["part"] for line in table] == [row["part"] for row in rows]
    assert [float(line["seconds_median"]) for line in table] == pytest.approx(
        [row["seconds"]["median"] for row in rows], rel=1e-5
    )


def test_growth_is_measured_and_drawn(tmp_path, monkeypatch):
    for name, values in (
        ("BATCHES", (1, 2)),
        ("SIDES", (16, 20)),
        ("UNITS", (8, 16)),
        ("IMAGES", (1, 2)),
    ):
        monkeypatch.setattr(growth, name, values)
    said = succeed("benchmarks/bench.py", *TINY, "--growth", "--output", tmp_path).out
    with open(tmp_path / "growth.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["axis"], int(row["value"])) for row in rows if row["step"] == "mi"} == {
        ("batch", 8),
        ("batch", 16),
        ("pixels", 256),
        ("pixels", 400),
        ("units", 8),
        ("units", 16),
    }
    assert {(row["axis"], int(row["value"])) for row in rows if row["step"] == "loader"} == {
        ("images", 392),
        ("images", 784),
    }
    memory = {
        row["value"]: float(row["peak_bytes"])
        for row in rows
        if (row["axis"], row["step"]) == ("batch", "namid")
    }
    assert f"{math.log2(memory['16'] / memory['8']):.2f}" in next(
        line
        for line in said.splitlines()
        if line.startswith("NAMID step against images in a batch")
    )
    assert (tmp_path / "growth.png").read_bytes()[:4] == b"\x89PNG"


def test_a_slope_is_the_power():
    assert growth.slope([1, 2, 4, 8], [3 * n**1.5 for n in (1, 2, 4, 8)]) == pytest.approx(1.5)


@pytest.mark.parametrize(
    "words",
    [
        "--runs 1",
        "--batch-size 8 1",
        "--size 18",
        "--n-units 0",
        "--precision fp16",
        "--parts nosuch",
    ],
)
def test_a_wrong_option_is_named_in_one_line(words):
    ended = run_script("benchmarks/bench.py", *words.split())
    assert (
        ended.status == 2
        and ended.err.count("\n") == 1
        and words.split()[0].strip("-") in ended.err
    )


def test_the_commands_of_the_docstring_are_understood():
    commands = [
        shlex.split(line, comments=True)
        for line in bench.__doc__.splitlines()
        if line.strip().startswith("./run bench")
    ]
    assert len(commands) == 4
    for words in commands:
        parse(bench.Settings, "", words[2:])


def test_run_names_the_bench():
    assert (
        "./run bench"
        in subprocess.run(["bash", ROOT / "run"], capture_output=True, text=True).stderr
    )


def test_the_overhead_of_attacks_is_measured(tmp_path):
    """Every pass is replayed, and the files hold what is shown; what the times are is the machine's business."""
    said = succeed(
        "benchmarks/attacks.py",
        "--width",
        4,
        "--size",
        16,
        "--batch-size",
        4,
        "--runs",
        2,
        "--attacks",
        "fgsm,pgd-3,ddn-3,fwa-2",
        "--output",
        tmp_path / "attacks.json",
    ).out
    rows = json.loads((tmp_path / "attacks.json").read_text())["rows"]
    assert [(row["attack"], row["passes"], row["backward"]) for row in rows][:2] == [
        ("fgsm", 1, 1),
        ("pgd-3", 3, 3),
    ]
    for row in rows:
        assert (
            row["attack"] in said
            and row["overhead"]["median"] > -1
            and row["backward"] <= row["passes"]
        )
