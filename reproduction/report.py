"""One HTML page of all the results in a folder: tables, figures, curves, galleries, and where each number is from.

Everything is in the page: pictures are data URIs, there is no script, and nothing is fetched. Wide tables scroll in boxes of
their own, so that the page itself never does.
"""

import base64
import io
import shlex
import time
from html import escape
from pathlib import Path

from PIL import Image

from common.files import write_text
from reproduction import stability_table
from reproduction.experiment import recall
from reproduction.graph import Graph
from reproduction.paper import FIGURES, TABLES
from reproduction.plan import STABILITY, plan
from reproduction.provenance import listed, provenance
from reproduction.run import recorded
from reproduction.table_files import body, orders, write_tables
from utils.provenance import git_commit

STYLE = """
:root { color: #1a1a1a; background: #fff; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 72rem; margin: 0 auto; padding: 0 1rem 4rem; overflow-wrap: break-word; }
h1, h2, h3 { line-height: 1.2; margin: 2em 0 .5em; }
h1 { margin-top: 1em; }
nav ul { padding-left: 1.2rem; }
.caption { max-width: 46rem; color: #444; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2) { text-align: left; }
thead th { border-bottom: 2px solid #888; }
tr.first td { border-top: 1px solid #888; }
tr:not(.first) td { color: #555; }
.notes { max-width: 46rem; color: #444; font-size: .9rem; list-style: none; padding: 0; }
figure { margin: 1.5rem 0; }
img { max-width: 100%; height: auto; }
figure .wide { max-width: 50rem; }
figure img { min-width: 34rem; }
details { margin: .5rem 0; }
details img { min-width: 60rem; }
summary { cursor: pointer; }
code { font-size: .85em; }
"""


def report(out: Path) -> Path | None:
    """Write the tables and figures of every experiment below `out`, and report.html; None where there is no experiment."""
    from reproduction.figures import write_figures

    sections, contents = [], []
    for path in sorted(out.glob("*/experiment.json")):
        graph, sweep = plan(recall(path), "all"), plan(recall(path), STABILITY)
        tables, figures = write_tables(graph), write_figures(graph)
        # Where both evaluate a network the tables' node asks for more attacks: the sweep's is done when those that it needs are.
        graph.nodes |= {
            name: node
            for name, node in sweep.nodes.items()
            if name not in graph.nodes or graph.state(name) != "finished"
        }
        sections.append(section(graph, tables, figures, stability_table.write(sweep)))
        contents.append(link(graph.experiment.root.name, graph.experiment.root.name))
    if not sections:
        return None
    made = f"Written {time.strftime('%Y-%m-%d %H:%M %z')} at commit {(git_commit() or '(no checkout)')[:12]}."
    page = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>NAMID: results</title>\n<style>{STYLE}</style>\n</head>\n<body>",
        f"<h1>NAMID: the paper's tables and figures, measured</h1>\n<p>{escape(made)} Each number is from a file beside this "
        "page; the name of a row leads to the commands that made it.</p>",
        f"<nav><ul>{''.join(f'<li>{each}</li>' for each in contents)}</ul></nav>",
        *sections,
        "</body>\n</html>\n",
    ]
    write_text(out / "report.html", "\n".join(page))
    return out / "report.html"


def section(graph: Graph, tables: list[dict], figures: list[dict], sweep: dict | None) -> str:
    """All there is of one experiment."""
    root = graph.experiment.root
    parts = [f'<h2 id="{escape(root.name)}">{escape(root.name)}</h2>']
    shown = {content["name"] for content in tables + figures}
    lacking = [name for name in (*TABLES, *FIGURES) if name not in shown]
    parts += [f"<p>Not run: {', '.join(lacking)}.</p>"] if lacking else []
    first = {}  # (box, norm): the table that shows it
    for content in tables:
        parts.append(html_table(graph, content, first))
    for content in figures:
        made_by = ", ".join(link(anchor(graph, source), source) for source in content["sources"])
        parts.append(
            f"<h3>{escape(content['title'])}</h3>\n<figure>"
            + scrolling(picture(root / "figures" / f"{content['name']}.png", content["title"]))
            + f'<figcaption class="caption">{escape(content["caption"])} Made by {made_by}.</figcaption></figure>'
        )
    if sweep:
        rows = [
            [
                link(anchor(graph, sweep["sources"][first][0]), first)
                if sweep["sources"][first]
                else escape(first),
                *map(escape, rest),
            ]
            for first, *rest in sweep["rows"]
        ]
        parts.append(
            f'<h3>{escape(sweep["title"])}</h3>\n<p class="caption">{escape(sweep["caption"])}</p>\n'
            + grid(sweep["header"], rows)
            + notes_below(sweep["notes"])
            + f"<figure>{scrolling(picture(root / 'figures/stability.png', sweep['title']))}</figure>"
        )
    trainings = {
        node.purpose: node.folder / "curves.png" for node in graph.nodes.values() if node.trains
    }
    others = {
        str(path.relative_to(root)): path
        for folder in dict.fromkeys(node.folder for node in graph.nodes.values())
        for path in sorted(folder.glob("*.png"))
        if path.name != "curves.png"
    }
    parts += [
        folded("Training curves", trainings, colours=64),
        folded("Adversarial images", others),
        origins(graph),
    ]
    return "\n".join(parts)


def html_table(graph: Graph, content: dict, shown: dict) -> str:
    """A table with its order of defenses, or where its numbers are, {(box, norm): table}, if some table before has them: Tables 3
    to 5 repeat 1 and 2, with deviations. What it shows is added to `shown`."""
    halves = [(part["box"], part["norm"]) for part in content["halves"]]
    heading = f"<h3>{escape(content['title'])}</h3>"
    if all(half in shown for half in halves):
        return f"{heading}\n<p>Its numbers are among those of {shown[halves[0]]}.</p>"
    shown |= {half: content["title"].split(":")[0] for half in halves}
    parts = [f'{heading}\n<p class="caption">{escape(content["caption"])}</p>']
    for part in content["halves"]:
        sources = {row["label"]: row["sources"] for row in part["rows"]}
        rows = [
            [
                link(anchor(graph, sources[first][0]), first)
                if sources.get(first)
                else escape(first),
                *map(escape, rest),
            ]
            for first, *rest in body(part)
        ]
        parts += [
            f"<h4>{escape(part['title'])}</h4>",
            grid(["defense", "", *part["columns"]], rows),
            notes_below([note["line"] for note in part["notes"]]),
        ]
        header, comparisons = orders(part)
        parts += (
            [grid(header, [list(map(escape, row)) for row in comparisons])] if comparisons else []
        )
    return "\n".join(parts)


def notes_below(lines: list[str]) -> str:
    """Return what the marks of a table mean."""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<ul class="notes">{items}</ul>' if lines else ""


def grid(header: list[str], rows: list[list[str]], ids: list[str] | None = None) -> str:
    """A table that scrolls in a box of its own; cells are HTML. A row whose first cell is filled begins a group; `ids` are
    anchors of the rows."""
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    lines = [
        f"<tr{' class=first' * bool(row[0])}{f' id={chr(34)}{escape(id_)}{chr(34)}' if id_ else ''}>"
        + "".join(f"<td>{cell}</td>" for cell in row)
        + "</tr>"
        for row, id_ in zip(rows, ids or [""] * len(rows))
    ]
    return scrolling(
        f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>" + "\n".join(lines) + "</tbody></table>"
    )


def scrolling(content: str) -> str:
    """In a box that scrolls by itself, by keyboard too."""
    return f'<div class="wide" tabindex="0" role="region" aria-label="scrolls sideways">{content}</div>'


def folded(title: str, pictures: dict[str, Path], colours: int | None = None) -> str:
    """A heading and the pictures that there are, {text: file}, each to be unfolded."""
    shown = [
        f"<details><summary>{escape(text)}</summary>{scrolling(picture(path, text, colours))}</details>"
        for text, path in pictures.items()
        if path.is_file()
    ]
    return f"<h3>{title}</h3>\n" + ("\n".join(shown) or "<p>None.</p>")


def origins(graph: Graph) -> str:
    """Return where each number is from: the commands that are finished, diverged or stale."""
    seconds, rows, ids = recorded(graph.experiment), [], []
    for name, node in graph.nodes.items():
        state = graph.state(name)
        if state == "not run":
            continue
        made = (
            provenance(graph, name) if state == "finished" else {"command": shlex.join(node.words)}
        )
        when = listed(_ends(made["dates"])) if state == "finished" else graph.why(name) or state
        cells = [
            name,
            when,
            f"{seconds[name]:.0f}" if name in seconds else "",
            listed(made.get("hardwares", [])).replace("none", ""),
        ]
        commits = "<br>".join(f"<code>{escape(each)}</code>" for each in made.get("commits", []))
        rows.append([*map(escape, cells), commits, f"<code>{escape(made['command'])}</code>"])
        ids.append(anchor(graph, name))
    header = ["run", "date", "seconds", "hardware", "commit (+: changed)", "command"]
    return "<h3>Where each number is from</h3>\n" + grid(header, rows, ids)


def _ends(dates: list[str]) -> list[str]:
    """Return the first and the last of some dates."""
    return list(dict.fromkeys([dates[0], dates[-1]]))


def anchor(graph: Graph, name: str) -> str:
    return f"{graph.experiment.root.name}/{name}"


def link(to: str, text: str) -> str:
    return f'<a href="#{escape(to)}">{escape(text)}</a>'


def picture(path: Path, text: str, colours: int | None = None) -> str:
    """An image element that holds the PNG file; curves keep their looks, and a quarter of their size, in 64 colours."""
    content = path.read_bytes()
    if colours:
        smaller = io.BytesIO()
        Image.open(path).convert("RGB").quantize(colours).save(smaller, "png", optimize=True)
        content = smaller.getvalue()
    return f'<img alt="{escape(text)}" src="data:image/png;base64,{base64.b64encode(content).decode()}">'
