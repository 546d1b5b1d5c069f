"""The table of ./reproduce.py entropic, and what it says of each claim.

A claim holds or fails where a 95 % interval decides it; otherwise it is undecided, and the half
width of the interval is the smallest difference that would have been detected.
"""

import csv
import json
import statistics
from dataclasses import asdict, dataclass

from common.files import write_csv, write_text
from reproduction import intervals, warned
from reproduction.cells import Cell, cell, paired
from reproduction.entropic import ENTROPIC, LAMS, ROWS, TRAININGS, radius, run_of
from reproduction.graph import Graph
from reproduction.now import options, read
from reproduction.table_files import markdown_lines, notes_below
from reproduction.tables import COVERS, caption
from utils.attacks import registry
from utils.mi.names import LAYER_QUANTITIES
from utils.mi.profiles import compare

ATTACKS = ("none", "pgd-40", "pgd-margin-100x5", "aa")
LABELS = {name: label for name, (label, _) in TRAININGS.items()}
LABELS |= {name: row.label for name, row in ROWS.items()}
HEADER = [
    "training",
    "natural",
    *(registry.parse(attack).label for attack in ATTACKS[1:]),
    "PGD-40 crafted on h_ctl",
    "AA minus h_ctl's",
    "images/s",
]
WHAT = (
    "Networks trained further from one naturally trained network (h_0), by our reading of entropic "
    "retraining, by adversarial training and by controls. Accuracy in percent on the test images, "
    "mean ± deviation over the seeds, of the epoch that is best on held-out images under PGD: "
    "adversarial images serve that choice, and no gradient of entropic retraining. The difference "
    "is paired by seed and image, with its 95 % interval. Images/s: of training alone. " + COVERS
)
NEAR = 1.5  # a cost of up to so many times 1/(K + 1) is near it
LOSS = -1.0  # points of natural accuracy that may be lost


@dataclass
class Verdict:
    """What the runs say of a claim: "holds", "fails", "undecided" or "not measured", and why."""

    claim: str
    verdict: str
    why: str


def decided(low: float, high: float, bound: float) -> str:
    """Say whether an interval lies above the bound."""
    if low > bound:
        return "holds"
    return "fails" if high < bound else "undecided"


def difference(graph: Graph, one: str, other: str, attack: str) -> tuple | None:
    """Return the mean difference of two rows in points and its interval; None where not run."""
    cells = [cell(graph, run_of(row), "white", attack) for row in (one, other)]
    pairs = paired(*cells)
    return intervals.of_a_difference(pairs) if pairs else None


def told(found: tuple) -> str:
    """Write a difference with its interval."""
    mean, (low, high) = found
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"


def metrics(graph: Graph, row: str, column: str) -> list[list[float]]:
    """Return a column of metrics.csv for each finished seed."""
    found = []
    for seed in range(1, graph.experiment.seeds + 1):
        run = run_of(row).format(seed=seed)
        if graph.state(run) == "finished":
            with open(graph.nodes[run].folder / "metrics.csv", newline="") as file:
                found.append([float(line[column]) for line in csv.DictReader(file)])
    return found


def speed(graph: Graph, row: str) -> float | None:
    """Return the images per second of a row's trainings, the median epoch's; None where not run."""
    rates = [rate for run in metrics(graph, row, "images_per_second") for rate in run]
    return statistics.median(rates) if rates else None


def chosen(graph: Graph) -> str | None:
    """Return the row of the lam with the best held-out score, the mean over seeds."""
    scores = {}
    for lam in LAMS:
        if runs := metrics(graph, f"sign-{lam}", "score"):
            scores[f"sign-{lam}"] = statistics.mean(max(run) for run in runs)
    return max(scores, key=lambda row: scores[row]) if scores else None


def distance(graph: Graph, place: str, quantity: str) -> list[float] | None:
    """Compute sum_l (Q_l - Q_l(h_adv))^2 of each seed's control in a profile; None without it."""
    node = f"{ENTROPIC}/{place}-{graph.experiment.seeds}/profile.json"
    entries = read(graph.product(node)).get("quantities", {}).get(quantity)
    if not entries:
        return None
    layers = [zip(entry["control"], entry["adversarial"]) for entry in entries.values()]
    squares = [[(one - aim) ** 2 for one, aim in layer] for layer in layers]
    return [sum(of_seed) for of_seed in zip(*squares)]


def robust(graph: Graph, row: str) -> Verdict:
    """Judge whether natural data alone make the network robust."""
    claim = "robust from natural data alone"
    gains = {attack: difference(graph, row, "control", attack) for attack in ATTACKS[1:]}
    other = difference(graph, "reversed", "control", "aa")
    if not gains["aa"] or not other:
        return Verdict(claim, "not measured", "")
    verdict = decided(*gains["aa"][1], 0.0)
    if verdict == "holds" and other[1][0] > 0:
        verdict = "fails"  # the opposite signs do it as well
    texts = [f"{registry.parse(attack).label} {told(found)}" for attack, found in gains.items()]
    half = (gains["aa"][1][1] - gains["aa"][1][0]) / 2
    why = f"{ROWS[row].label} minus h_ctl: {', '.join(texts)}; reversed signs, AA {told(other)}"
    return Verdict(claim, verdict, f"{why}; detectable under AA: {half:.1f} points")


def mimics(graph: Graph, row: str) -> Verdict:
    """Judge whether the layers come nearer to h_adv's by the quantities that were not trained."""
    claim, texts, verdicts = "mimics adversarial training", [], []
    for quantity in LAYER_QUANTITIES:
        near, far = distance(graph, row, quantity), distance(graph, "layers", quantity)
        if not near or not far or len(near) != len(far):
            return Verdict(claim, "not measured", "")
        found = compare(near, far)
        text = f"{quantity} {statistics.mean(near):.3g} against {statistics.mean(far):.3g}"
        if found["interval"]:
            low, high = found["interval"]
            text += f" (difference {low:+.3g} to {high:+.3g})"
            if quantity != "activation":
                verdicts.append(decided(-high, -low, 0.0))
        texts.append(text)
    verdict = "undecided" if not verdicts or len(set(verdicts)) > 1 else verdicts[0]
    if "fails" in verdicts:
        verdict = "fails"
    return Verdict(claim, verdict, "squared distance from h_adv, of h_ctl: " + "; ".join(texts))


def cheap(graph: Graph, row: str) -> Verdict:
    """Judge whether an epoch costs about 1/(K + 1) of one of adversarial training."""
    claim, rates = "less costly", [speed(graph, name) for name in ("adversarial", row)]
    if None in rates:
        return Verdict(claim, "not measured", "")
    run = graph.nodes[run_of("adversarial").format(seed=1)]
    steps = int(options(run.words).get("--num-steps", 10))
    share = rates[0] / rates[1]
    verdict = "holds" if share <= NEAR / (steps + 1) else "fails"
    why = f"an epoch takes {share:.3f} of adversarial training's; 1/(K + 1) = {1 / (steps + 1):.3f}"
    return Verdict(claim, verdict, why)


def accurate(graph: Graph, row: str) -> Verdict:
    """Judge whether natural accuracy is kept, against h_adv's."""
    found = difference(graph, row, "adversarial", "none")
    claim = "natural accuracy kept"
    if not found:
        return Verdict(claim, "not measured", "")
    low, high = found[1]
    why = (
        f"natural accuracy minus h_adv's: {told(found)}; detectable: {(high - low) / 2:.1f} points"
    )
    return Verdict(claim, decided(low, high, LOSS), why)


def verdicts(graph: Graph) -> list[Verdict]:
    """Judge each claim on the row of the chosen lam."""
    row = chosen(graph)
    return [judge(graph, row) for judge in (robust, mimics, cheap, accurate)] if row else []


def _texts(graph: Graph, name: str, cells: dict[str, Cell], below: list[warned.Note]) -> list[str]:
    """Return a row of the table, its accuracies with the marks of the notes below."""
    seeds = graph.experiment.seeds

    def accuracy(each: Cell) -> str:
        marks = warned.marks(each.warned, below)
        text = "" if each.state == "not run" else each.text(seeds)
        return text + "".join(f" [{mark}]" for mark in marks)

    gain = difference(graph, name, "control", "aa") if name != "control" else None
    rate = speed(graph, name)
    return [
        LABELS[name] + ", chosen" * (name == chosen(graph)),
        *map(accuracy, cells.values()),
        told(gain) if gain else "",
        f"{rate:.0f}" if rate else "",
    ]


def write(graph: Graph) -> dict | None:
    """Write tables/entropic.md, .csv and .json; None where nothing was run.

    Returns the table's content for the report.
    """
    cells = {}
    for name in LABELS:
        cells[name] = {each: cell(graph, run_of(name), "white", each) for each in ATTACKS}
        cells[name]["black"] = cell(graph, run_of(name), "black", "pgd-40")
    measured = [each for row in cells.values() for each in row.values() if each.outcomes]
    if not measured:
        return None
    below = warned.notes([each for one in measured for each in one.warned])
    sources = list(dict.fromkeys(source for each in measured for source in each.sources))
    images = sorted({n for each in measured for n in each.images})
    found = verdicts(graph)
    content = {
        "name": ENTROPIC,
        "title": "Entropic retraining, with controls",
        "header": HEADER,
        "caption": caption(graph, WHAT, sources, images, ["linf"], radius(graph)),
        "rows": [_texts(graph, name, row, below) for name, row in cells.items()],
        "claims": [asdict(each) for each in found],
        "notes": [note.line() for note in below],
        "sources": {LABELS[name]: row["none"].sources for name, row in cells.items()},
    }
    folder = graph.experiment.root / "tables"
    folder.mkdir(exist_ok=True)
    claims = [[each.claim, each.verdict, each.why] for each in found]
    page = [f"# {content['title']}", "", content["caption"], ""]
    page += [*markdown_lines(HEADER, content["rows"]), ""]
    page += [*markdown_lines(["claim", "verdict", "measured"], claims), ""] if claims else []
    write_text(folder / "entropic.md", "\n".join([*page, *notes_below(content["notes"])]))
    write_csv(folder / "entropic.csv", [line for name in cells for line in _lines(name, cells)])
    write_text(folder / "entropic.json", json.dumps(content, indent=1) + "\n")
    return content


def _lines(name: str, cells: dict[str, dict[str, Cell]]) -> list[dict]:
    """Return the lines of a row in the CSV file, one for each seed and attack."""
    return [
        {"row": name, "attack": attack, "seed": seed, "n": len(right), "correct": sum(right)}
        for attack, each in cells[name].items()
        for seed, right in each.outcomes.items()
    ]
