"""The runs behind the tables and figures of the information bottleneck, the targets ib-...

Each network is evaluated twice: under the attacks of the paper, and under a panel of strong ones,
where an image is right only if no attack fools it. The evaluations have a file for each budget.
"""

import json
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from common.errors import InputError
from reproduction.graph import NETWORK, Graph, Node

PRINTED = json.loads((Path(__file__).parent / "information_bottleneck.json").read_text())
TABLES = ("ib-table1", "ib-table2", "ib-table3")
FIGURES = ("ib-figure1", "ib-figure2", "ib-figure3", "ib-figure4")
TARGETS = (*TABLES, *FIGURES)
BETAS = (0.1, 0.01, 0.001)
BETA = 0.001  # of Tables 2 and 3, and train_VIB.py's default
PRINTED_EPSILON = 0.3  # of adversarial training, and train_VIB.py's default
DEEPFOOL, CW = "deepfool-100", "cw-100"
PANEL = ("pgd-100x10", "apgd-ce", "apgd-t", "square", "grey")
ATTACK = {"fgsm": "fgsm", "bim": "bim", "pgd": "pgd-40", "deepfool": DEEPFOOL, "cw-l2": CW}
NETWORKS = ("ib", "ce", "ib_adv", "ce_adv")


@dataclass(frozen=True)
class Scale:
    """The options of one scale.

    datasets: of the targets about MNIST and about CIFAR-10. train: of train_VIB.py; cifar: those
    for CIFAR-10. sizes: of the network, but for Figures 3 and 4. epsilon: what the printed budgets
    are multiplied by. test: of the evaluations; strong: those of the panel. encoders: (layers,
    width) of Figure 3. shares: of Figure 4. shows: what results of this size show.
    """

    datasets: tuple[str, str]
    train: str
    cifar: str
    sizes: str
    epsilon: float
    test: str
    strong: str
    encoders: tuple[tuple[int, int], ...]
    shares: tuple[float, ...]
    shows: str


SCALES = {
    "tiny": Scale(
        datasets=("digits", "digits"),
        train="--limit-train 500 --epochs 5 --lr 1e-3 --holdout 50 --eval-steps 2",
        cifar="--limit-train 500 --epochs 5 --lr 1e-3 --holdout 50 --eval-steps 2",
        sizes="--width 64 --layers 2 --bottleneck 32",
        epsilon=0.5,  # digits are 16x16, and lose their strokes sooner
        test="--limit-test 40 --batch-size 40",
        strong="--limit-test 20 --batch-size 20",
        encoders=((1, 32), (2, 32)),
        shares=(0.0, 1.0),
        shows="A check that everything runs, and nothing else: networks that have hardly begun to "
        "learn, a handful of images.",
    ),
    "small": Scale(
        datasets=("mnist", "cifar10"),
        train="--limit-train 10000 --epochs 20 --lr 1e-3 --holdout 500 --eval-steps 5",
        cifar="--limit-train 5000 --epochs 10 --lr 1e-3 --holdout 250 --eval-steps 2",
        sizes="",
        epsilon=1.0,
        test="--limit-test 1000",
        strong="--limit-test 200 --batch-size 200",
        encoders=((1, 256), (2, 256), (3, 256), (1, 512), (2, 512), (3, 512), (4, 512)),
        shares=(0.0, 0.25, 0.5, 0.75, 1.0),
        shows="A sixth (MNIST) or a tenth (CIFAR-10) of the images and 20 or 10 epochs at ten "
        "times the learning rate: no accuracy here compares with the paper's to a point or two.",
    ),
    "full": Scale(
        datasets=("mnist", "cifar10"),
        train="",
        cifar="--epochs 100",
        sizes="",
        epsilon=1.0,
        test="",
        strong="--limit-test 1000",
        encoders=((1, 256), (2, 256), (3, 256), (1, 512), (2, 512), (3, 512), (4, 512)),
        shares=(0.0, 0.25, 0.5, 0.75, 1.0),
        shows="The paper's settings where it states them.",
    ),
}


def scale_of(name: str) -> Scale:
    """Return a scale. Raises InputError for one that these targets do not have."""
    if name not in SCALES:
        raise InputError(f"--scale {name}: the ib- targets have {', '.join(SCALES)}")
    return SCALES[name]


def dataset(target: str, scale: str) -> str:
    """Return the data set of a target where --dataset is not given."""
    return scale_of(scale).datasets[target == "ib-table3"]


def columns(table: str) -> list[tuple[str, float | None]]:
    """Return the attack and the Linf budget of each printed column, none for DeepFool and CW."""
    named = PRINTED["table1"]["columns"] if table == "ib-table1" else PRINTED["columns23"]
    found = []
    for text in named:
        family, _, budget = text.partition(" ")
        of_ball = family not in ("none", "deepfool", "cw-l2")
        found.append((ATTACK.get(family, family), float(budget) if of_ball else None))
    return found


def add(target: str, graph: Graph) -> None:
    """Add the runs of a target with all seeds of the experiment."""
    for seed in range(1, graph.experiment.seeds + 1):
        add_seed(target, graph, seed)


def add_seed(target: str, graph: Graph, seed: int) -> None:
    """Add the runs of a target with one seed."""
    if target == "ib-table1":
        for beta, adversarial in product(BETAS, ("none", "fgsm", "bim", "pgd")):
            run = network(graph, seed, "vib", beta, adversarial)
            evaluations(graph, run, target, surrogate=network(graph, seed, "ce"))
            plane(graph, [run], f"{run}/plane", ("fgsm", "bim", "pgd-40"))
    elif target in TABLES:
        for objective, adversarial in product(("vib", "ce"), ("none", "fgsm")):
            run = network(graph, seed, objective, BETA, adversarial)
            source = network(graph, seed, "ce") if objective == "vib" else None
            source = source or network(graph, seed, "vib")
            evaluations(graph, run, target, source)
    elif target == "ib-figure1":
        runs = [network(graph, seed, "vib", beta) for beta in (*BETAS, 0.0001)]
        plane(graph, runs, f"seed{seed}/ib/figure1", ("fgsm",))
    elif target == "ib-figure2":
        run = train(graph, seed, "epochs", "--keep-every 1")
        analyze(graph, "bound", [run], f"seed{seed}/ib/figure2", ("fgsm",))
    elif target == "ib-figure3":
        figure3(graph, seed)
    else:
        figure4(graph, seed)


def train(graph: Graph, seed: int, name: str, more: str, sizes: str | None = None, needs=()) -> str:
    """Add a run of train_VIB.py with further options, and return its name.

    sizes: options of the network; None: the scale's own.
    """
    experiment, scale = graph.experiment, scale_of(graph.experiment.scale)
    name, photographs = f"seed{seed}/ib/{name}", experiment.dataset == "cifar10"
    if sizes is None:
        sizes = f"{scale.sizes} --arch vib-cnn" if photographs else scale.sizes
    words = ["train_VIB.py", "--dataset", experiment.dataset]
    words += ["--data-dir", experiment.data_dir] if experiment.data_dir else []
    words += (scale.cifar if photographs else scale.train).split() + sizes.split()
    words += ["--seed", seed, *more.split(), "--model-dir", experiment.root / name]
    return _node(graph, name, f"train {name}", words, needs, NETWORK)


def hardened(graph: Graph, adversarial: str) -> str:
    """Return the options of adversarial training; the script's own budget is left out."""
    epsilon = PRINTED_EPSILON * scale_of(graph.experiment.scale).epsilon
    more = f"--adversarial {adversarial}"
    return more if epsilon == PRINTED_EPSILON else f"{more} --epsilon {epsilon:g}"


def network(
    graph: Graph, seed: int, objective: str, beta: float = BETA, adversarial: str = "none"
) -> str:
    """Add a network of the tables, and return its name."""
    name = f"vib-{beta:g}" if objective == "vib" else objective
    more = [f"--objective {objective}"] * (objective != "vib")
    more += [f"--beta {beta:g}"] * (objective == "vib" and beta != BETA)
    if adversarial != "none":
        name += f"-{adversarial}"
        more.append(hardened(graph, adversarial))
    return train(graph, seed, name, " ".join(more))


def budgets(graph: Graph, table: str) -> dict[float, list[str]]:
    """Return {Linf budget: the printed attacks there}, scaled; budget 0 stands for L2."""
    factor, found = scale_of(graph.experiment.scale).epsilon, {}
    for attack, budget in columns(table):
        if attack != "none":
            found.setdefault(factor * (budget or 0), ["none"]).append(attack)
    return found


def evaluations(graph: Graph, run: str, table: str, surrogate: str) -> None:
    """Add the evaluations of a network: printed attacks, the panel, and transfer from another."""
    scale = scale_of(graph.experiment.scale)
    for budget, attacks in budgets(graph, table).items():
        ball = f"--norm linf --epsilon {budget:g}" if budget else "--norm l2 --epsilon 3"
        label = f"{budget:g}" if budget else "l2"
        evaluation(graph, run, f"printed-{label}", attacks, f"{ball} {scale.test}")
        if budget:
            panel = ["none", *PANEL]
            evaluation(graph, run, f"panel-{label}", panel, f"{ball} {scale.strong}")
            more = f"{ball} {scale.strong}"
            evaluation(graph, run, f"transfer-{label}", ["none", "pgd-40"], more, surrogate)


def evaluation(
    graph: Graph, run: str, name: str, attacks: list[str], more: str, surrogate: str | None = None
) -> str:
    """Add an evaluation of a network, a results file in its folder, and return its name."""
    experiment = graph.experiment
    name = f"{run}/{name}.json"
    words = ["test_comparison.py", "--model-dir", graph.nodes[run].folder]
    words += ["--attacks", ",".join(attacks)]
    words += ["--data-dir", experiment.data_dir] if experiment.data_dir else []
    words += more.split()
    words += ["--surrogate", graph.product(surrogate)] if surrogate else []
    words += ["--output", experiment.root / name]
    purpose = f"{run}: {', '.join(attacks)}" + (f", made on {surrogate}" if surrogate else "")
    needs = (run, surrogate) if surrogate else (run,)
    return _node(graph, name, purpose, words, needs, (Path(name).name,), tuple(attacks))


def plane(graph: Graph, runs: list[str], name: str, attacks: tuple[str, ...]) -> str:
    """Add the information plane of some networks."""
    return analyze(graph, "plane", runs, name, attacks)


def analyze(
    graph: Graph,
    part: str,
    runs: list[str],
    name: str,
    attacks: tuple[str, ...],
    second: tuple[str, ...] = (),
) -> str:
    """Add a run of analyze_IB.py, which leaves a CSV file and a plot in a folder of its own."""
    scale = scale_of(graph.experiment.scale)
    limit = scale.test.split()[1] if scale.test else 10_000
    words = ["analyze_IB.py", part, "--model-dirs", *(graph.nodes[run].folder for run in runs)]
    words += ["--second", *(graph.nodes[run].folder for run in second)] if second else []
    words += ["--attacks", *attacks, "--epsilon", f"{PRINTED_EPSILON * scale.epsilon:g}"]
    words += ["--limit-test", limit, "--output", graph.experiment.root / name]
    outputs = (f"{part}.csv", f"{part}.png")
    return _node(graph, name, f"{name}: {part}", words, (*runs, *second), outputs)


def figure3(graph: Graph, seed: int) -> None:
    """Add encoders trained on one half of the images, and decoders for them on the other."""
    first, second = [], []
    scale = scale_of(graph.experiment.scale)
    for (layers, width), beta in product(scale.encoders, (0.1, 0.01, 0.001, 0.0001)):
        sizes = f"--layers {layers} --width {width}"
        name, beta_of = f"encoder-{layers}x{width}-{beta:g}", f"--beta {beta:g}"
        one = train(graph, seed, name, f"{beta_of} --half first", sizes)
        for decoder in ("linear", "mlp"):
            more = f"{beta_of} --decoder {decoder} --half second --encoder {graph.product(one)}"
            first.append(one)
            second.append(train(graph, seed, f"{name}-{decoder}", more, sizes, (one,)))
    name = f"seed{seed}/ib/figure3"
    analyze(graph, "transfer", first, name, ("fgsm", "pgd-40"), tuple(second))


def figure4(graph: Graph, seed: int) -> None:
    """Add All-CNNs hardened with a growing share of adversarial images."""
    runs, scale = [], scale_of(graph.experiment.scale)
    for share in scale.shares:
        more = f"--objective ce {hardened(graph, 'fgsm')}"
        more += f" --adversarial-weight 1 --adversarial-fraction {share:g}"
        runs.append(train(graph, seed, f"allcnn-{share:g}", more, "--arch allcnn"))
    analyze(graph, "entropy", runs, f"seed{seed}/ib/figure4", ("fgsm", DEEPFOOL))


def _node(graph: Graph, name: str, purpose: str, words: list, needs, outputs, attacks=()) -> str:
    """Add a node unless it is there."""
    if name not in graph.nodes:
        folder = graph.experiment.root / name
        folder = folder.parent if folder.suffix == ".json" else folder
        paths = tuple(folder / output for output in outputs)
        texts = [str(word) for word in words]
        graph.nodes[name] = Node(name, purpose, texts, tuple(needs), paths, attacks)
    return name
