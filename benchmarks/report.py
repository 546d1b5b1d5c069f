"""The bench's rows as a table, as files, and against the targets.

A row is what one part took in one variant:

    part, arch, width, size, batch, n_units; precision, channels_last, compile
    seconds     {"median", "q1", "q3", "min", "max"} of a unit: a batch of the loader and of the evaluation, a step of the others
    runs        the seconds of each timed round
    to_at       the time as a multiple of the AT step's in the same round and variant; None where that was not timed
    images_per_second, flops (of a unit), flop_per_second (at the median), peak_bytes (beyond the networks and optimizers)
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
    """The row of a part with the sizes and, where not given otherwise, the variant of the row `like`."""
    wanted = {name: like[name] for name in (*SAME, *VARIANT)} | {"part": part} | variant
    return next(
        (row for row in rows if all(row[name] == value for name, value in wanted.items())), None
    )


def add_ratios(rows: list[dict]) -> None:
    """Fill in `to_at`."""
    for row in rows:
        at = find(rows, "at", row)
        row["to_at"] = ratio(row["runs"], at["runs"]) if at else None


def layout(row: dict) -> str:
    return "channels last" if row["channels_last"] else "contiguous"


def milliseconds(seconds: float) -> str:
    """With four digits, or all before the point where there are more."""
    return f"{1000 * seconds:.4g}" if seconds < 1 else f"{1000 * seconds:.0f}"


def show(rows: list[dict]) -> str:
    """The table: median and quartiles in milliseconds, and the rest."""

    def cells(row):
        times = [milliseconds(row["seconds"][name]) for name in ("median", "q1", "q3")]
        return [
            PARTS[row["part"]],
            str(row["batch"]),
            row["precision"],
            layout(row),
            "yes" if row["compile"] else "no",
            times[0],
            f"{times[1]}-{times[2]}",
            "" if row["to_at"] is None else f"{row['to_at']:.3g}",
            f"{row['images_per_second']:.0f}",
            *(
                [f"{row['flops'] / 1e9:.4g}", f"{row['flop_per_second'] / 1e9:.0f}"]
                if row["flops"]
                else ["", ""]
            ),
            f"{row['peak_bytes'] / 2**20:.1f}",
        ]

    return table(
        [
            "part",
            "batch",
            "precision",
            "layout",
            "compiled",
            "ms",
            "quartiles",
            "AT = 1",
            "images/s",
            "GFLOP",
            "GFLOP/s",
            "peak MiB",
        ],
        list(map(cells, rows)),
    )


def targets(rows: list[dict], hardware: str) -> list[dict]:
    """{"target", "where", "bound", "measured", "holds"} for each target whose rows were measured. Ours in channels last; naive
    contiguous; not compiled unless said."""
    found = []

    def add(target, where, sign, bound, measured):
        holds = measured <= bound if sign == "<=" else measured >= bound
        found.append(
            {
                "target": target,
                "where": where,
                "bound": f"{sign} {bound:g}",
                "measured": measured,
                "holds": holds,
            }
        )

    def compare(target, where, row, other, bound, memory=False):
        if row and other:
            measured = (
                row["peak_bytes"] / other["peak_bytes"]
                if memory
                else ratio(row["runs"], other["runs"])
            )
            add(target, where, "<=", bound, measured)

    for row in rows:
        name = f"{row['arch']}, batch {row['batch']}, {row['precision']}{', compiled' if row['compile'] else ''}"
        if row["part"] == "namid" and row["channels_last"]:
            at = find(rows, "at", row)
            naive = find(rows, "naive-namid", row, channels_last=False, compile=False)
            compare("time, NAMID step / AT step", name, row, at, 1.25)
            compare("time, NAMID step / naive", name, row, naive, 0.65)
            compare("memory, NAMID step / AT step", name, row, at, 2.3, memory=True)
            compare("memory, NAMID step / naive", name, row, naive, 0.42, memory=True)
        if row["part"] == "stage2" and row["channels_last"]:
            compare(
                "time, stage-2 step / naive",
                name,
                row,
                find(rows, "naive-stage2", row, channels_last=False, compile=False),
                0.45,
            )
        if row["part"] == "loader" and row["channels_last"]:
            compare("time, loader's batch / AT step", name, row, find(rows, "at", row), 0.02)
        if row["part"] == "naive-namid" and row["precision"] == "fp32":
            ours = [
                other
                for other in rows
                if other["part"] == "namid" and all(other[key] == row[key] for key in SAME)
            ]
            if ours:
                best = min(ours, key=lambda other: other["seconds"]["median"])
                compare(
                    "time, fastest NAMID step / naive in fp32",
                    f"{row['arch']}, batch {row['batch']}: {best['precision']}, "
                    f"{layout(best)}{', compiled' if best['compile'] else ''}",
                    best,
                    row,
                    0.33,
                )
    if "H200" in hardware:
        paper = {
            "part": "namid",
            "width": None,
            "size": 32,
            "n_units": 2048,
            "batch": 1024,
            "precision": "bf16",
        }
        for arch, bound in (("resnet18", 200), ("wrn34-10", 300)):
            ours = [
                row
                for row in rows
                if row["arch"] == arch and all(row[key] == value for key, value in paper.items())
            ]
            if ours:
                best = min(ours, key=lambda row: row["seconds"]["median"])
                where = f"{arch}, batch 1024, bf16, {layout(best)}{', compiled' if best['compile'] else ''}"
                add("NAMID step, TFLOP/s", where, ">=", bound, best["flop_per_second"] / 1e12)
                if arch == "resnet18":
                    add(
                        "seconds for 50,000 images",
                        where,
                        "<=",
                        8,
                        50_000 / best["images_per_second"],
                    )
    return found


def show_targets(found: list[dict]) -> str:
    rows = [
        [
            each["target"],
            each["where"],
            each["bound"],
            f"{each['measured']:.3g}",
            "yes" if each["holds"] else "no",
        ]
        for each in found
    ]
    return table(["target", "where", "bound", "measured", "holds"], rows)


def write(folder: Path, machine: dict, options: dict, rows: list[dict], failed: list[str]) -> None:
    """bench.json, with everything, and bench.csv, a line per row."""
    content = {
        "machine": machine,
        "options": options,
        "rows": rows,
        "targets": targets(rows, machine["hardware"]),
        "failed": failed,
    }
    write_text(folder / "bench.json", json.dumps(content, indent=1) + "\n")
    flat = [
        {name: value for name, value in row.items() if name not in ("seconds", "runs")}
        | {"n_runs": len(row["runs"])}
        | {f"seconds_{name}": value for name, value in row["seconds"].items()}
        for row in rows
    ]
    write_csv(folder / "bench.csv", flat)
