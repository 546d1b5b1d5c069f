"""The runs of ./reproduce.py entropic: entropic retraining, adversarial training and controls.

All other networks start from a naturally trained one (h_0) and are trained for the same number of
epochs. A profile over all seeds gives the signs, and shows afterwards how far the layers of a
retrained network are from those of the adversarially trained one.

OUT/digits-sweep/seed1/entropic/control/             a network, with its evaluations
OUT/digits-sweep/entropic/layers-5/profile.json      the profile of five seeds
"""

from dataclasses import dataclass

from reproduction import experiment
from reproduction.graph import NETWORK, Graph
from reproduction.node import Reads

ENTROPIC = "entropic"
FULL, BRIEF = ("none", "pgd-40", "pgd-margin-100x5", "aa"), ("none", "pgd-40")
SWEEP = ("0", "0.25", "0.5", "1", "2", "4")  # budgets of the sweep, in units of the experiment's
SWEPT = "pgd-margin-40"
SEEDS_OF_SIGNS = 3  # with fewer, an interval of Student's says nothing, and SIGNS is used
SIGNS = "-1,-1,-1,-1,1"  # of the dense layers of sperl-cnn; see SEEDS_OF_SIGNS

# Under the budget of the other tables, 0.12, adversarial training of sperl-cnn reached 13 % under
# PGD on held-out digits in 12 epochs, and entropic retraining 0 to 1 %.
EPSILON = {"digits": 0.05}


@dataclass(frozen=True)
class Size:
    """The options of one scale: of every network, and the epochs of h_0 and of the others."""

    network: str
    natural: int
    further: int


ADAM = "--arch sperl-cnn --optimizer adam --lr 1e-3 --weight-decay 0"
SIZES = {
    "tiny": Size(f"{ADAM} --width 8 --batch-size 50", 6, 2),
    "sweep": Size(f"{ADAM} --width 16 --batch-size 64", 8, 8),
    "small": Size(f"{ADAM} --batch-size 128", 20, 20),
    "full": Size(f"{ADAM} --batch-size 128", 60, 40),
}


@dataclass(frozen=True)
class Row:
    """A row of the table: its label and the options of train_entropic.py."""

    label: str
    options: str
    profile: bool = True  # reads the signs, or with match the values, of the profile
    attacks: tuple[str, ...] = FULL


TRAININGS = {  # {row: (label, options of train_standard.py)}
    "natural": ("natural training (h_0)", "--defense natural"),
    "adversarial": ("adversarial training (h_adv)", "--defense standard"),
    "control": ("natural training, as many epochs more (h_ctl)", "--defense natural"),
}
LAMS = ("0.1", "1", "3")  # the one with the best held-out score is the table's choice
ROWS = {f"sign-{lam}": Row(f"sign mode, lam {lam}", f"--mode sign --lam {lam}") for lam in LAMS} | {
    "reversed": Row("reversed signs, lam 1", "--mode sign --lam 1 --control reversed"),
    "random": Row("signs on random layers, lam 1", "--mode sign --lam 1 --control random"),
    "match": Row("match mode, lam 1", "--mode match --lam 1", attacks=BRIEF),
    "class": Row("class mode, lam 0.1", "--mode class --lam 0.1", profile=False, attacks=BRIEF),
    "smoothing": Row("label smoothing 0.1", "--lam 0 --label-smoothing 0.1", profile=False),
    "penalty": Row("logit penalty 0.01", "--lam 0 --logit-penalty 0.01", profile=False),
}


def run_of(row: str) -> str:
    """Return the node of a row's network, with "{seed}" in it."""
    return f"seed{{seed}}/{ENTROPIC}/{row}"


def budget(graph: Graph) -> str:
    """Return the option of the table's own budget, or nothing."""
    own = EPSILON.get(graph.experiment.dataset)
    return f"--epsilon {own} " if own else ""


def radius(graph: Graph) -> float:
    """Return the budget of the table, in pixel units."""
    own = EPSILON.get(graph.experiment.dataset)
    return own or experiment.budget(graph.experiment, "linf")


def add(graph: Graph) -> None:
    """Add the runs of all seeds."""
    seeds = range(1, graph.experiment.seeds + 1)
    for seed in seeds:
        for name in TRAININGS:
            trained(graph, name, seed)
    signs = layers(graph, "layers", dict(zip(("natural", "adversarial", "control"), TRAININGS)))
    for seed in seeds:
        for name in ROWS:
            retrained(graph, name, seed, signs)
        for name in (*TRAININGS, *ROWS):
            evaluated(graph, name, seed)
    for lam in LAMS:
        layers(graph, f"sign-{lam}", {"adversarial": "adversarial", "control": f"sign-{lam}"})


def trained(graph: Graph, name: str, seed: int) -> None:
    """Add h_0, h_adv or h_ctl."""
    size, (label, options) = SIZES[graph.experiment.scale], TRAININGS[name]
    epochs, reads = size.natural, None
    if name != "natural":
        natural = run_of("natural").format(seed=seed)
        epochs, reads = size.further, Reads((natural,), ("--init", graph.product(natural)))
    command = f"train_standard.py {budget(graph)}{size.network} --epochs {epochs} {options}"
    place, purpose = run_of(name).format(seed=seed), f"{label}, seed {seed}"
    graph.train(place, purpose, command, "linf", seed, NETWORK, reads)


def retrained(graph: Graph, name: str, seed: int, signs: str) -> None:
    """Add the network of a row; signs: the node of the profile."""
    size, row = SIZES[graph.experiment.scale], ROWS[name]
    natural = run_of("natural").format(seed=seed)
    needs, options = [natural], ["--init", graph.product(natural)]
    if row.profile and (graph.experiment.seeds >= SEEDS_OF_SIGNS or "match" in row.options):
        needs, options = [*needs, signs], [*options, "--profile", graph.product(signs)]
    elif row.profile:
        options.append(f"--signs={SIGNS}")
    command = (
        f"train_entropic.py {budget(graph)}{size.network} --epochs {size.further} {row.options}"
    )
    reads, place = Reads(tuple(needs), tuple(options)), run_of(name).format(seed=seed)
    graph.train(place, f"{row.label}, seed {seed}", command, "linf", seed, NETWORK, reads)


def evaluated(graph: Graph, name: str, seed: int) -> None:
    """Add the attacks on a network, those transferred from h_ctl, and the sweep of budgets."""
    run = run_of(name).format(seed=seed)
    graph.evaluation(run, ROWS[name].attacks if name in ROWS else FULL)
    if name not in ROWS:
        return
    graph.evaluation(run, ("pgd-40",), "black", run_of("control").format(seed=seed))
    if name in (f"sign-{lam}" for lam in LAMS):
        swept(graph, run)


def swept(graph: Graph, run: str) -> None:
    """Add the accuracy of a network at several budgets, 0 among them."""
    epsilon = radius(graph)
    budgets = ",".join(f"{float(factor) * epsilon:.6g}" for factor in SWEEP)
    place = f"{run}/sweep.json"
    words = ["test_comparison.py", "--model-dir", graph.nodes[run].folder, "--attacks", SWEPT]
    words += ["--sweep", budgets, *graph.scale.autoattack.split()]
    directory = graph.experiment.data_dir
    words += ["--data-dir", directory] if directory else []
    words += ["--output", graph.experiment.root / place]
    files, purpose = ["sweep-sweep.csv", "sweep.json"], f"{run}: {SWEPT} at {len(SWEEP)} budgets"
    graph.command(place, purpose, words, (run,), files, attacks=(SWEPT,))


def layers(graph: Graph, name: str, roles: dict[str, str]) -> str:
    """Add the profile of several rows' layers over all seeds.

    roles: {option of analyze_MI.py layers: row}.
    """
    seeds = graph.experiment.seeds
    words, needs = ["analyze_MI.py", "layers"], []
    for role, row in roles.items():
        runs = [run_of(row).format(seed=seed) for seed in range(1, seeds + 1)]
        words += [f"--{role}", *(graph.nodes[run].folder for run in runs)]
        needs += runs
    place = f"{ENTROPIC}/{name}-{seeds}/profile.json"
    words += ["--output", (graph.experiment.root / place).parent]
    purpose = f"layers of {', '.join(roles.values())}, {seeds} seeds"
    return graph.command(place, purpose, words, tuple(needs), ["profile.json"], key="quantities")
