"""Write one HTML page of all results in a folder: tables, figures, curves and pictures.

The page needs no other file: pictures are data URIs, there is no script, and nothing is fetched.
Wide tables and figures scroll in boxes of their own, so that the page itself never does.
"""

import base64
import io
import shlex
import time
from html import escape
from pathlib import Path

from PIL import Image

from common.files import write_text
from reproduction import (
    bottleneck_tables,
    entropic_table,
    stability_table,
    zhu,
    zhu_figures,
    zhu_tables,
)
from reproduction.entropic import ENTROPIC
from reproduction.experiment import recall
from reproduction.figures import write_figures
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
th, td { padding: .25rem .6rem; text-align: right; white-space: nowrap; }
th, td { border-bottom: 1px solid #ddd; }
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
    """Write the tables and figures of every experiment below `out`, and the page report.html.

    Returns the page's path; None where there is no experiment.
    """
    sections, contents = [], []
    for path in sorted(out.glob("*/experiment.json")):
        graph, sweep = plan(recall(path), "all"), plan(recall(path), STABILITY)
        tables, figures = write_tables(graph), write_figures(graph)
        # Where the tables and the sweep evaluate the same network, the tables' node has more
        # attacks: the sweep's node is finished as soon as it has its own.
        for name, node in sweep.nodes.items():
            if name not in graph.nodes or graph.state(name) != "finished":
                graph.nodes[name] = node
        others = zhu.everything(Graph(graph.experiment))
        figures += zhu_figures.write(others)
        grids = [each for each in [stability_table.write(sweep)] if each] + zhu_tables.write(others)
        retrained = plan(recall(path), ENTROPIC)
        grids += [each for each in [entropic_table.write(retrained)] if each]
        bottlenecks, ran = bottleneck_tables.write_measured(graph.experiment)
        grids += bottlenecks
        others.nodes |= retrained.nodes
        graph.nodes |= {name: node for name, node in others.nodes.items() if others.ran(name)}
        graph.nodes |= ran
        sections.append(section(graph, tables, figures, grids))
        contents.append(link(graph.experiment.root.name, graph.experiment.root.name))
    if not sections:
        return None
    commit = (git_commit() or "(no checkout)")[:12]
    made = f"Written {time.strftime('%Y-%m-%d %H:%M %z')} at commit {commit}."
    items = "".join(f"<li>{each}</li>" for each in contents)
    page = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>NAMID: results</title>\n<style>{STYLE}</style>\n</head>\n<body>",
        "<h1>NAMID: the paper's tables and figures, measured</h1>",
        f"<p>{escape(made)} Each number is from a file beside this page; the name of a row leads "
        "to the commands that made it.</p>",
        f"<nav><ul>{items}</ul></nav>",
        *sections,
        "</body>\n</html>\n",
    ]
    write_text(out / "report.html", "\n".join(page))
    return out / "report.html"


def section(graph: Graph, tables: list[dict], figures: list[dict], grids: list[dict]) -> str:
    """Return the part of the page about one experiment.

    Args:
        graph: the experiment's runs, those of all targets.
        tables: the contents of the tables of NAMID's paper.
        figures: the contents of its figures and of those of Zhu et al.
        grids: the contents of the tables of the other methods and of the sweep.
    """
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
        drawn = picture(root / "figures" / f"{content['name']}.png", content["title"])
        text = f"{escape(content['caption'])} Made by {made_by}."
        parts.append(f"<h3>{escape(content['title'])}</h3>\n<figure>{scrolling(drawn)}")
        parts[-1] += f'<figcaption class="caption">{text}</figcaption></figure>'
    for content in grids:
        parts.append(heading_of(content))
        parts[-1] += grid(content["header"], linked(graph, content["rows"], content["sources"]))
        parts[-1] += notes_below(content["notes"])
        path = root / "figures" / f"{content['name']}.png"
        if path.is_file():  # the sweep's
            parts[-1] += f"<figure>{scrolling(picture(path, content['title']))}</figure>"
    nodes = graph.nodes.values()
    curves = {node.purpose: node.folder / "curves.png" for node in nodes if node.trains}
    others = {}
    for folder in dict.fromkeys(node.folder for node in nodes):
        for path in sorted(folder.glob("*.png")):
            if path.name != "curves.png":
                others[str(path.relative_to(root))] = path
    parts += [folded("Training curves", curves, colours=64)]
    parts += [folded("Adversarial images", others), origins(graph)]
    return "\n".join(parts)


def heading_of(content: dict) -> str:
    """Return the title and the caption of a table."""
    caption = f'<p class="caption">{escape(content["caption"])}</p>'
    return f"<h3>{escape(content['title'])}</h3>\n{caption}\n"


def linked(graph: Graph, rows: list[list[str]], sources: dict[str, list[str]]) -> list[list[str]]:
    """Return rows of texts as HTML; a row's name leads to the first of its sources."""
    found = []
    for name, *texts in rows:
        first = escape(name)
        if sources.get(name):
            first = link(anchor(graph, sources[name][0]), name)
        found.append([first, *map(escape, texts)])
    return found


def html_table(graph: Graph, content: dict, shown: dict) -> str:
    """Return a table with the order of its defenses, and add what it shows to `shown`.

    A table whose numbers are all in an earlier table names that table instead: Tables 3 to 5
    repeat Tables 1 and 2, with deviations.

    shown: {(box, norm): the table that shows it}.
    """
    halves = [(part["box"], part["norm"]) for part in content["halves"]]
    if all(half in shown for half in halves):
        text = f"Its numbers are among those of {shown[halves[0]]}."
        return f"<h3>{escape(content['title'])}</h3>\n<p>{text}</p>"
    shown |= {half: content["title"].split(":")[0] for half in halves}
    parts = [heading_of(content).rstrip()]
    for part in content["halves"]:
        sources = {row["label"]: row["sources"] for row in part["rows"]}
        parts += [f"<h4>{escape(part['title'])}</h4>"]
        parts += [grid(["defense", "", *part["columns"]], linked(graph, body(part), sources))]
        parts += [notes_below([note["line"] for note in part["notes"]])]
        header, comparisons = orders(part)
        if comparisons:
            parts += [grid(header, [list(map(escape, row)) for row in comparisons])]
    return "\n".join(parts)


def notes_below(lines: list[str]) -> str:
    """Return what the marks of a table mean."""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<ul class="notes">{items}</ul>' if lines else ""


def grid(header: list[str], rows: list[list[str]], ids: list[str] | None = None) -> str:
    """Return a table that scrolls in a box of its own; cells are HTML, header cells are text.

    A row whose first cell is filled begins a group. ids: the anchors of the rows.
    """
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    lines = []
    for row, anchor_id in zip(rows, ids or [""] * len(rows)):
        attributes = " class=first" if row[0] else ""
        attributes += f' id="{escape(anchor_id)}"' if anchor_id else ""
        cells = "".join(f"<td>{cell}</td>" for cell in row)
        lines.append(f"<tr{attributes}>{cells}</tr>")
    text = "\n".join(lines)
    return scrolling(f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>{text}</tbody></table>")


def scrolling(content: str) -> str:
    """Put HTML into a box that scrolls by itself, by keyboard too."""
    attributes = 'class="wide" tabindex="0" role="region" aria-label="scrolls sideways"'
    return f"<div {attributes}>{content}</div>"


def folded(title: str, pictures: dict[str, Path], colours: int | None = None) -> str:
    """Return a heading and the pictures that exist, each folded.

    pictures: {text: file}. colours: the number of colours to reduce them to; None: unchanged.
    """
    shown = []
    for text, path in pictures.items():
        if path.is_file():
            content = scrolling(picture(path, text, colours))
            shown.append(f"<details><summary>{escape(text)}</summary>{content}</details>")
    return f"<h3>{title}</h3>\n" + ("\n".join(shown) or "<p>None.</p>")


def origins(graph: Graph) -> str:
    """Return the table of the commands that are finished, diverged or stale, with their origin."""
    seconds, rows, ids = recorded(graph.experiment), [], []
    for name, node in graph.nodes.items():
        state = graph.state(name)
        if state == "not run":
            continue
        made, when = {"command": shlex.join(node.words)}, graph.why(name) or state
        if state == "finished":
            made = provenance(graph, name)
            when = listed(_ends(made["dates"]))
        hardware = listed(made["hardwares"]) if "hardwares" in made else ""
        cells = [name, when, f"{seconds[name]:.0f}" if name in seconds else "", hardware]
        commits = "<br>".join(f"<code>{escape(each)}</code>" for each in made.get("commits", []))
        rows.append([*map(escape, cells), commits, f"<code>{escape(made['command'])}</code>"])
        ids.append(anchor(graph, name))
    header = ["run", "date", "seconds", "hardware", "commit (+: changed)", "command"]
    return "<h3>Where each number is from</h3>\n" + grid(header, rows, ids)


def _ends(dates: list[str]) -> list[str]:
    """Return the first and the last of some dates."""
    return list(dict.fromkeys([dates[0], dates[-1]]))


def anchor(graph: Graph, name: str) -> str:
    """Return the anchor of a node."""
    return f"{graph.experiment.root.name}/{name}"


def link(to: str, text: str) -> str:
    """Return a link to an anchor of the page."""
    return f'<a href="#{escape(to)}">{escape(text)}</a>'


def picture(path: Path, text: str, colours: int | None = None) -> str:
    """Return an image element that contains a PNG file.

    colours: the number of colours to reduce it to; with 64, curves look the same at a quarter of
    their size.
    """
    content = path.read_bytes()
    if colours:
        smaller = io.BytesIO()
        Image.open(path).convert("RGB").quantize(colours).save(smaller, "png", optimize=True)
        content = smaller.getvalue()
    data = base64.b64encode(content).decode()
    return f'<img alt="{escape(text)}" src="data:image/png;base64,{data}">'
