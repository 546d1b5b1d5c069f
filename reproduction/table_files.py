"""A table as rows of texts, and as Markdown, CSV and JSON files."""

import csv
import io
import json

from common.files import write_text
from reproduction.graph import Graph
from reproduction.paper import DEFENSES, TABLES
from reproduction.provenance import listed
from reproduction.tables import table
from utils.attacks import registry

COLUMNS = (
    *("table", "box", "norm", "defense", "attack", "counted", "state", "seeds", "images"),
    *("mean", "deviation", "low", "high", "printed_mean", "printed_deviation", "difference"),
    "warnings",
)  # of the CSV file


def marked(each: dict) -> str:
    """Return a cell's text with the marks of its warnings."""
    return each["text"] + "".join(f" [{mark}]" for mark in each["marks"])


def body(part: dict) -> list[list[str]]:
    """Return the rows of a half as texts.

    Each defense has a row for what was measured, for what was printed and for the difference.
    """
    rows = []
    for row in part["rows"]:
        cells = row["cells"]
        printed = [
            "{:.2f} ± {:.2f}".format(*each["printed"]) if each["printed"] else "" for each in cells
        ]
        rows.append([row["label"], "measured", *map(marked, cells)])
        rows.append(["", "printed", *printed])
        differences = [each["difference"] for each in cells]
        if any(each is not None for each in differences):
            texts = ["" if each is None else f"{each:+.1f}" for each in differences]
            rows.append(["", "difference", *texts])
    return rows


def orders(part: dict) -> tuple[list[str], list[list[str]]]:
    """Return the order of the defenses as (header, rows) of texts, a column for each attack.

    Each defense and its baseline have the measured difference, the printed one and the verdict.
    There are no rows where no pair was measured.
    """

    def text(each):
        if each["difference"] is None:
            return each["verdict"]
        return "{:+.1f} ({:+.1f} to {:+.1f})".format(each["difference"], *each["interval"])

    labels = [
        registry.parse(column["attack"]).label + ", any norm" * column["anywhere"]
        for column in part["orders"]
    ]
    header = ["comparison", "", *labels]
    rows = []
    for comparisons in zip(*(column["comparisons"] for column in part["orders"])):
        if any(each["difference"] is not None for each in comparisons):
            names = [DEFENSES[comparisons[0][role]].label for role in ("defense", "baseline")]
            rows.append([" minus ".join(names), "measured", *map(text, comparisons)])
            rows.append(["", "printed", *(f"{each['printed']:+.2f}" for each in comparisons)])
            rows.append(["", "the order", *(each["verdict"] for each in comparisons)])
    if rows:
        counts = ("{} of {}".format(*column["in_printed_order"]) for column in part["orders"])
        rows.append(["pairs in the printed order", "", *counts])
    return header, rows


def markdown_lines(header: list[str], rows: list[list[str]]) -> list[str]:
    """Return a table of texts as lines of Markdown."""
    return ["| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *rows)]


def notes_below(lines: list[str]) -> list[str]:
    """Return the lines of a page that say what the marks of a table mean."""
    title = ["Warnings of the evaluations:", ""]
    return [*title, *(f"- {line}" for line in lines), ""] if lines else []


def markdown(content: dict) -> str:
    """Return the page of a table."""
    page = [f"# {content['title']}", "", content["caption"], ""]
    for part in content["halves"]:
        lines = markdown_lines(["defense", "", *part["columns"]], body(part))
        page += [f"## {part['title']}", "", *lines, ""]
        page += notes_below([note["line"] for note in part["notes"]])
        header, rows = orders(part)
        page += [*markdown_lines(header, rows), ""] if rows else []
    return "\n".join(page)


def comma_separated(content: dict) -> str:
    """Return a table as CSV, a line for each cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for part in content["halves"]:
        for row in part["rows"]:
            beginning = [content["name"], part["box"], part["norm"], row["defense"]]
            writer.writerows([*beginning, *_line(each)] for each in row["cells"])
    return text.getvalue()


def _line(each: dict) -> list:
    """Return the entries of a cell in a line of CSV, from "attack" on."""
    numbers = [
        each["mean"],
        each["deviation"],
        *(each["interval"] or (None, None)),
        *(each["printed"] or (None, None)),
        each["difference"],
    ]
    return [
        each["attack"],
        "any norm" if each["anywhere"] else "within the budget",
        each["state"],
        len(each["seeds"]),
        listed(each["images"]),
        *("" if number is None else f"{number:.4f}" for number in numbers),
        "; ".join(each["warnings"]),
    ]


def write_tables(graph: Graph) -> list[dict]:
    """Write every table that has a measured cell as .md, .csv and .json; return the tables."""
    folder, written = graph.experiment.root / "tables", []
    folder.mkdir(exist_ok=True)
    for name in TABLES:
        content = table(graph, name)
        if content:
            write_text(folder / f"{name}.md", markdown(content))
            write_text(folder / f"{name}.csv", comma_separated(content))
            write_text(folder / f"{name}.json", json.dumps(content, indent=1) + "\n")
            written.append(content)
    return written
