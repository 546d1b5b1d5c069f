"""What a reader sees of an evaluation: the printed table, a sweep's plot and CSV, pictures."""

from pathlib import Path

import torch

from common.files import write_csv
from utils.attacks import registry
from utils.attacks.projected_gradient import frozen
from utils.evaluation import masking
from utils.evaluation.counting import Evaluation
from utils.evaluation.identity import Identity
from utils.evaluation.results import SWEPT, Results
from utils.evaluation.threat import ThreatModel
from utils.plots import plot_examples, plot_sweep, table


def _interval(ends: tuple[float, float]) -> str:
    """Write an interval in percent."""
    return f"{ends[0]:.1f}-{ends[1]:.1f}"


def _any_norm(row: dict) -> str:
    """Write the accuracy at any norm with its interval."""
    return f"{row['accuracy_any_norm']:.2f} ({_interval(row['interval_any_norm'])})"


def _passes(row: dict) -> str:
    """Write the forward and backward passes per attacked image; "" where none was attacked."""
    if not row["attacked"]:
        return ""
    passes = (row[f"{way}_passes"] / row["attacked"] for way in ("forward", "backward"))
    return "+".join(f"{count:.0f}" for count in passes)


# Column of the printed table: the key without which a row's cell is empty, and how it is written.
COLUMNS = {
    "accuracy %": ("accuracy", lambda row: f"{row['accuracy']:.2f}"),
    "fresh %": ("accuracy_fresh", lambda row: f"{row['accuracy_fresh']:.2f}"),
    "95 %": ("interval", lambda row: _interval(row["interval"])),
    "at any norm": ("accuracy_any_norm", _any_norm),
    "median norm": ("median_norm", lambda row: f"{row['median_norm']:.3f}"),
    "correct": ("correct", lambda row: str(row["correct"])),
    "images": ("n", lambda row: str(row["n"])),
    "perturbed": ("settings", lambda row: str(row["perturbed"])),
    "passes": ("attacked", _passes),
    "seconds": ("seconds", lambda row: f"{row['seconds']:.1f}"),
}


def print_header(
    identity: Identity, threat: ThreatModel, device: torch.device, output: Path | None
) -> None:
    """Print what is evaluated, how, and whether it is kept in a results file `output`."""
    images = f"{identity.dataset} {identity.split} split, {identity.n} images"
    how = f"{device.type}, {identity.precision}"
    how += f"; crafted on {identity.surrogate}" if identity.surrogate else ""
    how += "; rounded to 256 levels" if identity.rounded else ""
    how += f"; predictor {identity.predictor}" if identity.predictor else ""
    print(f"{identity.model}: {images}; {threat}; {how}; seed {identity.seed}", flush=True)
    if output is None:
        print("no results file is written: give --output FILE to keep the rows and to resume")


def print_results(rows: dict[str, dict], results: Results, names: list[str]) -> None:
    """Print the table of `rows` with the worst case, and the warnings of the rows in `names`."""
    worst = results.content["worst_case"]
    print_table(rows | ({"worst case": worst} if worst else {}), results.identity["extra_data"])
    texts = [text for name in names for text in results.rows[name]["warnings"]]
    for text in dict.fromkeys(texts):
        print(f"warning: {text}")


def print_table(rows: dict[str, dict], extra_data: str | None = None) -> None:
    """Print a line for each row: accuracy, interval, images changed, and cost.

    extra_data: the images besides the data set that the network was trained on, a column of their
    own; None: no column.
    """
    lines = []
    more = {"extra data": extra_data} if extra_data else {}
    for name, row in rows.items():
        known = [(write, row.get(key) is not None) for key, write in COLUMNS.values()]
        cells = (write(row) if is_known else "" for write, is_known in known)
        lines.append([name, *cells, *more.values()])
    print(table(["attack", *COLUMNS, *more], lines))


def sweep(
    evaluation: Evaluation,
    attacks: dict[str, dict],
    budgets: list[float],
    output: Path,
) -> dict[str, list[str]]:
    """Plot accuracy against the budget beside the results file, and write it as a CSV file.

    Args:
        attacks: {name: its settings}; those that stay in a ball are run.
        budgets: in rising order.
        output: the results file.

    Returns {row: its warnings}.
    """
    points: list[dict] = []
    warned: dict[str, list[str]] = {}
    curves: dict[str, list] = {}
    for name, options in attacks.items():
        if registry.parse(name).kind != "bounded":
            continue
        for budget in budgets:
            row = evaluation.run(registry.parse(name), epsilon=budget, **options)
            warned[f"{name}{SWEPT}{budget:.6g}"] = masking.of_row(evaluation, name, row, budget)
            points.append(_point(name, budget, row))
        curves[name] = [
            (each["epsilon"], each["accuracy"]) for each in points if each["attack"] == name
        ]
        swept = [each for each in points if each["attack"] == name]
        last = f"{name}{SWEPT}{budget:.6g}"
        warned[last] += masking.of_sweep(name, swept)
        if row["accuracy"] > 0:
            warned[last].append(
                f"{name}: {row['accuracy']:.1f} % are robust at {evaluation.threat.norm} "
                f"{budget:.4g}; "
                "for a large budget none should be: sweep further, and suspect the attack where it "
                "never falls to 0"
            )
    picture = output.with_name(f"{output.stem}-sweep.png")
    plot_sweep(curves, evaluation.threat.norm, len(evaluation.labels), picture)
    write_csv(output.with_name(f"{output.stem}-sweep.csv"), points)
    return warned


def print_files(paths: dict[str, Path | None]) -> None:
    """Print {what was written: where}."""
    for what, path in paths.items():
        if path:
            print(f"{what}: {path}")


def _point(name: str, budget: float, row: dict) -> dict:
    """Return a line of the sweep's CSV file."""
    low, high = row["interval"]
    values = {"accuracy": row["accuracy"], "low": low, "high": high, "n": row["n"]}
    return {"attack": name, "epsilon": budget, **values}


def draw_gallery(evaluation: Evaluation, attacks: dict[str, dict], output: Path) -> None:
    """Draw what each attack makes of a few images that the network gets right, and print where.

    The pictures lie beside the results file `output`, one per attack.
    """
    model, threat, device = evaluation.model, evaluation.threat, evaluation.compute.device
    x = evaluation.images[:32].to(device).float() / 255
    y = evaluation.labels[:32].to(device)
    paths = []
    with frozen(model), torch.no_grad():
        chosen = (model(x).argmax(1) == y).nonzero()[:6, 0]
        x, y = x[chosen], y[chosen]
        for name, options in attacks.items():
            if name == "none" or not len(chosen):
                continue
            known = (evaluation.attacked, x, y, threat.norm, threat.epsilon, evaluation.seed)
            x_adv = registry.attack(name, *known, **options)
            natural, adversarial = model(x).argmax(1), model(x_adv).argmax(1)
            ball = "transport" if registry.kind_of(name) == "transport" else threat.norm
            paths.append(output.with_name(f"{output.stem}-{name}.png"))
            title = f"{name}, {ball} {threat.epsilon:.4g}"
            plot_examples(x, x_adv, y, natural, adversarial, paths[-1], title)
    if not paths:
        print("no picture: the network gets none of the first 32 images right")
    for path in paths:
        print(f"picture: {path}")
