"""Show the bench's rows as a table, write them to files, and compare them with the targets.

A row has the measurements of one part in one variant:

    part, arch, width, size, batch, n_units; precision, channels_last, compile
    seconds     {"median", "q1", "q3", "min", "max"} of a unit: a batch of the loader and of the
                evaluation, a step of the others
    runs        the seconds of each timed round
    to_at       the time as a multiple of the AT step's in the same round and variant; None where
                that was not timed
    images_per_second, flops (of a unit), flop_per_second (at the median),
    peak_bytes (beyond the networks and optimizers)
"""

import json
from pathlib import Path

from benchmarks import PARTS
from benchmarks.measure import ratio
from common.files import write_csv, write_text
from utils.plots import table

SAME = ("arch", "width", "size", "batch", "n_units")
VARIANT = ("precision", "channels_last", "compile")


def find(rows: list[dict], part: str, like: dict, **variant) -> dict | None:
    """Return the row of a part with the sizes and the variant of the row `like`; None without one.

    variant: values that differ from those of `like`.
    """
    wanted = {name: like[name] for name in (*SAME, *VARIANT)} | {"part": part} | variant
    return next(
        (row for row in rows if all(row[name] == value for name, value in wanted.items())), None
    )


def add_ratios(rows: list[dict]) -> None:
    """Add `to_at` to each row."""
    for row in rows:
        at = find(rows, "at", row)
        row["to_at"] = ratio(row["runs"], at["runs"]) if at else None


def layout(row: dict) -> str:
    """Return the memory layout of a row in words."""
    return "channels last" if row["channels_last"] else "contiguous"


def milliseconds(seconds: float) -> str:
    """Return milliseconds with four digits, or as a whole number from a second on."""
    return f"{1000 * seconds:.4g}" if seconds < 1 else f"{1000 * seconds:.0f}"


def show(rows: list[dict]) -> str:
    """Return the table of the rows, with median and quartiles in milliseconds."""
    return table(HEADER, list(map(_line, rows)))


HEADER = [
    *("part", "batch", "precision", "layout", "compiled", "ms", "quartiles", "AT = 1"),
    *("images/s", "GFLOP", "GFLOP/s", "peak MiB"),
]


def _line(row: dict) -> list[str]:
    """Return a row as texts under HEADER."""
    median, low, high = (milliseconds(row["seconds"][name]) for name in ("median", "q1", "q3"))
    work = ["", ""]
    if row["flops"]:
        work = [f"{row['flops'] / 1e9:.4g}", f"{row['flop_per_second'] / 1e9:.0f}"]
    return [
        PARTS[row["part"]],
        str(row["batch"]),
        row["precision"],
        layout(row),
        "yes" if row["compile"] else "no",
        median,
        f"{low}-{high}",
        "" if row["to_at"] is None else f"{row['to_at']:.3g}",
        f"{row['images_per_second']:.0f}",
        *work,
        f"{row['peak_bytes'] / 2**20:.1f}",
    ]


# (target, quantity, part, other part, largest quotient)
TARGETS = [
    ("time, NAMID step / AT step", "runs", "namid", "at", 1.25),
    ("time, NAMID step / naive", "runs", "namid", "naive-namid", 0.65),
    ("memory, NAMID step / AT step", "peak_bytes", "namid", "at", 2.3),
    ("memory, NAMID step / naive", "peak_bytes", "namid", "naive-namid", 0.42),
    ("time, stage-2 step / naive", "runs", "stage2", "naive-stage2", 0.45),
    ("time, loader's batch / AT step", "runs", "loader", "at", 0.02),
]


def targets(rows: list[dict], hardware: str) -> list[dict]:
    """Compare the rows with the targets, as far as they were measured.

    Returns {"target", "where", "bound", "measured", "holds"} for each target. Our steps are in
    channels last, the naive ones contiguous; none is compiled where `where` does not say so.
    """
    found = []
    for row in rows:
        where = f"{row['arch']}, batch {row['batch']}, {row['precision']}{_compiled(row)}"
        for target, quantity, part, other_part, bound in TARGETS:
            if row["part"] == part and row["channels_last"]:
                naive = {"channels_last": False, "compile": False} if "naive" in other_part else {}
                if other := find(rows, other_part, row, **naive):
                    found.append(
                        _target(target, where, "<=", bound, _quotient(row, other, quantity))
                    )
        if row["part"] == "naive-namid" and row["precision"] == "fp32":
            best = fastest(rows, {"part": "namid"} | {key: row[key] for key in SAME})
            if best:
                where = f"{row['arch']}, batch {row['batch']}: {best['precision']}, "
                where += f"{layout(best)}{_compiled(best)}"
                target = "time, fastest NAMID step / naive in fp32"
                found.append(_target(target, where, "<=", 0.33, _quotient(best, row, "runs")))
    return found + (_targets_at_full_size(rows) if "H200" in hardware else [])


def _targets_at_full_size(rows: list[dict]) -> list[dict]:
    """Compare the NAMID step of the paper's sizes with the targets for an H200."""
    found = []
    paper = {"part": "namid", "width": None, "size": 32, "n_units": 2048, "batch": 1024}
    for arch, bound in (("resnet18", 200), ("wrn34-10", 300)):
        if best := fastest(rows, paper | {"precision": "bf16", "arch": arch}):
            where = f"{arch}, batch 1024, bf16, {layout(best)}{_compiled(best)}"
            rate = best["flop_per_second"] / 1e12
            found.append(_target("NAMID step, TFLOP/s", where, ">=", bound, rate))
            if arch == "resnet18":
                seconds = 50_000 / best["images_per_second"]
                found.append(_target("seconds for 50,000 images", where, "<=", 8, seconds))
    return found


def fastest(rows: list[dict], wanted: dict) -> dict | None:
    """Return the row with the values `wanted` that has the smallest median; None without one."""
    found = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    return min(found, key=lambda row: row["seconds"]["median"], default=None)


def _compiled(row: dict) -> str:
    return ", compiled" if row["compile"] else ""


def _quotient(row: dict, other: dict, quantity: str) -> float:
    if quantity == "runs":
        return ratio(row["runs"], other["runs"])
    return row[quantity] / other[quantity]


def _target(target: str, where: str, sign: str, bound: float, measured: float) -> dict:
    """Return a comparison; sign: "<=" or ">=", of the measured value with the bound."""
    return {
        "target": target,
        "where": where,
        "bound": f"{sign} {bound:g}",
        "measured": measured,
        "holds": measured <= bound if sign == "<=" else measured >= bound,
    }


def show_targets(found: list[dict]) -> str:
    """Return the comparisons with the targets as a table."""
    rows = []
    for each in found:
        holds = "yes" if each["holds"] else "no"
        row = [each["target"], each["where"], each["bound"], f"{each['measured']:.3g}", holds]
        rows.append(row)
    return table(["target", "where", "bound", "measured", "holds"], rows)


def write(folder: Path, machine: dict, options: dict, rows: list[dict], failed: list[str]) -> None:
    """Write bench.json, with everything, and bench.csv, with a line for each row."""
    content = {
        "machine": machine,
        "options": options,
        "rows": rows,
        "targets": targets(rows, machine["hardware"]),
        "failed": failed,
    }
    write_text(folder / "bench.json", json.dumps(content, indent=1) + "\n")
    lines = []
    for row in rows:
        line = {name: value for name, value in row.items() if name not in ("seconds", "runs")}
        line["n_runs"] = len(row["runs"])
        lines.append(line | {f"seconds_{name}": value for name, value in row["seconds"].items()})
    write_csv(folder / "bench.csv", lines)
