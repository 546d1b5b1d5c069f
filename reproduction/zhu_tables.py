"""Write the tables of Zhu et al. 2020, each measured cell beside the printed one."""

import json

from common.files import write_csv, write_text
from reproduction import experiment as experiments
from reproduction import warned
from reproduction.cells import Cell, cell
from reproduction.graph import Graph
from reproduction.provenance import facts, listed
from reproduction.scales import SCALES
from reproduction.table_files import markdown_lines, notes_below
from reproduction.tables import COVERS
from reproduction.zhu import CLASSIFIERS, PAPER, ROWS, TABLES, attacks, budget
from utils.attacks import registry
from utils.settings.values import fraction

WHAT = (
    "Accuracy in percent, mean ± deviation over the seeds (one seed: Wilson's 95 % interval over "
    "the images), of a classifier on a frozen encoder and of networks trained end to end. The "
    "paper calls natural training of h standard. The first attack has the steps of the training "
    "attack, each epsilon/4 long, and stands beside the printed adversarial accuracy. Early "
    "stopping is by held-out images; the paper's by test images. " + COVERS
)


def shown(graph: Graph) -> list[str]:
    """Return the tables that an experiment's data set belongs to.

    Handwritten digits stand beside the first two; another data set beside Table 1.
    """
    own = [name for name, dataset in TABLES.items() if dataset == graph.experiment.dataset]
    return own or list(TABLES)[: 2 if graph.experiment.dataset == "digits" else 1]


def caption(graph: Graph, what: str, sources: list[str], images: list[int]) -> str:
    """Write what a reader must know beside the numbers."""
    experiment, known = graph.experiment, facts(graph, sources)
    words = budget(graph)
    epsilon = experiments.budget(experiment, "linf")
    if "--epsilon" in words:
        epsilon = fraction(words[words.index("--epsilon") + 1])
    settings = [
        f"{experiment.dataset}, scale {experiment.scale}",
        f"n = {listed(images)} test images",
        f"{experiment.seeds} seed{'s' * (experiment.seeds > 1)}",
        f"budget Linf {epsilon:.4g}",
        f"{listed(known['target'])} epochs",
    ]
    texts = [what, "; ".join(settings) + "."]
    texts += [SCALES[experiment.scale].shows] if experiment.scale != "full" else []
    texts += [experiment.data_note.rstrip(".") + "."] if experiment.data_note else []
    return " ".join([*texts, f"{listed(known['hardware'])}; {listed(known['dates'])}."])


def cells(graph: Graph) -> dict[tuple[str, str, str], Cell]:
    """Return {(row, classifier, attack): its cell}."""
    return {
        (name, classifier, attack): cell(graph, row.run(classifier), row.box, attack)
        for name, row in ROWS.items()
        for classifier in CLASSIFIERS
        for attack in attacks(graph)
    }


def write(graph: Graph) -> list[dict]:
    """Write every table that has a measured cell as .md, .csv and .json; return their contents."""
    found = cells(graph)
    if not any(each.outcomes for each in found.values()):
        return []
    folder, written = graph.experiment.root / "tables", []
    folder.mkdir(exist_ok=True)
    for name in shown(graph):
        content = table(graph, name, found)
        page = [f"# {content['title']}", "", content["caption"], ""]
        page += [*markdown_lines(content["header"], content["rows"]), ""]
        page += notes_below(content["notes"])
        write_text(folder / f"{name}.md", "\n".join(page))
        write_text(folder / f"{name}.json", json.dumps(content, indent=1) + "\n")
        write_csv(folder / f"{name}.csv", list(_lines(name, found)))
        written.append(content)
    return written


def table(graph: Graph, name: str, found: dict[tuple[str, str, str], Cell]) -> dict:
    """Return a table as plain values: for each row what was measured and what was printed."""
    experiment, columns = graph.experiment, attacks(graph)
    below = warned.notes([text for each in found.values() for text in each.warned])
    rows, sources = [], {}
    for key, row in ROWS.items():
        measured, printed = [row.label, "measured"], ["", "printed"]
        sources[row.label] = []
        for classifier in CLASSIFIERS:
            for attack in columns:
                each = found[key, classifier, attack]
                marks = "".join(f" [{mark}]" for mark in warned.marks(each.warned, below))
                measured.append(each.text(experiment.seeds) + marks)
                value = _printed(name, key, classifier, attack, columns)
                printed.append("{:.2f} ± {:.2f}".format(*value) if value else "")
                sources[row.label] += each.sources
        rows += [measured, printed]
    images = sorted({n for each in found.values() for n in each.images})
    of_all = [source for each in sources.values() for source in each]
    same = experiment.dataset == TABLES[name]
    what = WHAT + f" Printed: the paper's, on {TABLES[name]}"
    what += "." if same else ", which is another data set."
    labels = [registry.parse(attack).label for attack in columns]
    return {
        "name": name,
        "title": f"Zhu et al., Table {name[-1]}: representations and classifiers",
        "header": ["g / h", "", *(f"{each}, {label}" for each in CLASSIFIERS for label in labels)],
        "caption": caption(graph, what, of_all, images),
        "rows": rows,
        "notes": [note.line() for note in below],
        "sources": {label: list(dict.fromkeys(each)) for label, each in sources.items()},
    }


def _printed(name: str, row: str, classifier: str, attack: str, columns: tuple) -> list | None:
    """Return the printed mean and deviation of a cell: natural, and under the training attack."""
    column = {columns[0]: "natural", columns[1]: "adversarial"}.get(attack)
    return PAPER["tables"][name]["rows"][row][classifier][column] if column else None


def _lines(name: str, found: dict[tuple[str, str, str], Cell]):
    """Yield the lines of the CSV file, one for each cell and seed."""
    for (row, classifier, attack), each in found.items():
        for seed, value in zip(each.outcomes, each.values):
            yield {
                "table": name,
                "row": row,
                "classifier": classifier,
                "attack": attack,
                "seed": seed,
                "accuracy": value,
                "images": len(each.outcomes[seed]),
            }
