"""The whole method on real handwritten digits, in a few minutes on two cores: ./run demo

    ./run demo                 three networks, their robust accuracies, pictures; once more: goes on, or shows the table again
    ./run demo --restart       from the beginning
    ./run demo --choose        how NAMID's settings here were chosen: each candidate, on held-out training images

Runs the commands that a user runs, and prints each: natural training, stage 1, stage 2, stage 3, and the evaluation. All of it
lands in runs/demo. The network is a narrow ResNet-18, the images are scikit-learn's digits at 16x16, the budget is Linf 0.12.
"""

import csv
import json
import shlex
from dataclasses import dataclass
from pathlib import Path

from reproduction.run import Commands
from utils.settings.command_line import parse

OUT = Path("runs/demo")
EPSILON = 0.12  # the naturally trained network falls, the adversarially trained one stands
DATA = f"--dataset digits --holdout 200 --epsilon {EPSILON} --eval-steps 10"
TRAINING = "--width 16 --batch-size 125 --lr 0.1"
EPOCHS = {"natural": 6, "standard": 22, "estimators": 5, "namid": 22}
ESTIMATORS = {  # name: what it adds to the command of stage 2
    "cosine-dv": "--objective cosine --bound dv",
    "cosine-nce": "--objective cosine --bound nce",
}
CANDIDATES = [
    ("cosine-dv", 0.1),
    ("cosine-dv", 0.5),
    ("cosine-nce", 0.1),
    ("cosine-nce", 1.0),
]  # estimators, alpha
CHOSEN = ("cosine-dv", 0.1)  # --choose; see docs/demo.md
ATTACKS = {"none": "no attack", "fgsm": "FGSM", "pgd-40": "PGD-40"}


@dataclass
class Settings:
    """Options of the demonstration."""

    restart: bool = False
    """Start anew."""
    choose: bool = False
    """Train every candidate for NAMID's settings and compare them on held-out training images."""


def command(script: str, options: str, restart: bool = False) -> None:
    """Print a command as a user would type it and run it; its failure is ours, and a signal goes to it and stops both."""
    words = [script, *options.split(), *(["--restart"] if restart else [])]
    print(f"\n$ python {shlex.join(words)}", flush=True)
    with Commands() as commands:
        commands.start(script, words)
        _, status = commands.wait()
    if status or commands.received:
        raise SystemExit(status or 128 + commands.received[0])


def train_estimators(name: str, restart: bool) -> None:
    command(
        "train_MI_estimator.py",
        f"{DATA} --pre-target {OUT}/standard/best_model.pth {ESTIMATORS[name]} --n-units 256 "
        f"--epochs {EPOCHS['estimators']} --batch-size 125 --model-dir {OUT}/estimators-{name}",
        restart,
    )


def train_namid(estimators: str, alpha: float, folder: Path, restart: bool) -> None:
    command(
        "train_MIAT.py",
        f"{DATA} {TRAINING} --epochs {EPOCHS['namid']} --estimator-dir {OUT}/estimators-{estimators} "
        f"--alpha {alpha} --model-dir {folder}",
        restart,
    )


def best_score(folder: Path) -> dict:
    """The row of a run's metrics.csv with the best (natural + PGD)/2 accuracy on held-out training images."""
    with open(folder / "metrics.csv", newline="") as file:
        return max(
            (row for row in csv.DictReader(file) if row["score"]),
            key=lambda row: float(row["score"]),
        )


def choose(restart: bool) -> None:
    """Train each candidate and print its accuracies on the held-out training images."""
    for name in ESTIMATORS:
        train_estimators(name, restart)
    rows = []
    for name, alpha in CANDIDATES:
        folder = OUT / f"namid-{name}-{alpha}"
        train_namid(name, alpha, folder, restart)
        best = best_score(folder)
        rows.append(
            [
                f"{name}, alpha {alpha}",
                best["epoch"],
                *(
                    f"{float(best[k]):.1f}"
                    for k in ("natural_accuracy", "robust_accuracy", "score")
                ),
            ]
        )
    best = best_score(OUT / "standard")
    rows.append(
        [
            "standard AT, for comparison",
            best["epoch"],
            *(f"{float(best[k]):.1f}" for k in ("natural_accuracy", "robust_accuracy", "score")),
        ]
    )
    from utils.plots import table

    print("\nOn 200 held-out training images, in percent:\n")
    print(table(["candidate", "best epoch", "natural", "PGD-10", "mean"], rows))


def show() -> None:
    """The table of robust accuracies and the picture of adversarial examples."""
    import torch

    import data
    import models
    from utils import devices
    from utils.attacks.projected_gradient import pgd
    from utils.plots import plot_examples, table

    names = {"natural": "natural training", "standard": "standard AT", "namid": "NAMID"}
    results = {run: json.loads((OUT / run / "results.json").read_text()) for run in names}
    print(
        f"\nAccuracy in percent on {results['namid']['n']} test images, Linf {EPSILON}, one seed:\n"
    )
    print(
        table(
            ["network", *ATTACKS.values()],
            [
                [
                    text,
                    *(f"{results[run]['attacks'][attack]['accuracy']:.1f}" for attack in ATTACKS),
                ]
                for run, text in names.items()
            ],
        )
    )
    print(
        f"\nNAMID: {CHOSEN[0]} estimators, alpha {CHOSEN[1]}, chosen on held-out training images (docs/demo.md)."
    )

    devices.compute("cpu")
    digits = data.load("digits")
    x, y = digits.test_images[:6].float() / 255, digits.test_labels[:6]
    pictures = []
    for run, text in names.items():
        target = models.load(
            OUT / run / ("target_model.pth" if run == "namid" else "best_model.pth")
        )
        x_adv = pgd(target, x, y, "linf", EPSILON, 40, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            said, said_adv = target(x).argmax(1), target(x_adv).argmax(1)
        path = OUT / f"examples-{run}.png"
        plot_examples(x, x_adv, y, said, said_adv, path, f"{text}: PGD-40, Linf {EPSILON}")
        pictures.append(path)
    pictures += [
        OUT / run / "curves.png"
        for run in ("natural", "standard", f"estimators-{CHOSEN[0]}", "namid")
    ]
    print("\nPictures:\n" + "\n".join(f"  {path}" for path in pictures))


def main(settings: Settings) -> None:
    restart = settings.restart
    command(
        "train_standard.py",
        f"{DATA} {TRAINING} --epochs {EPOCHS['natural']} --defense natural --model-dir {OUT}/natural",
        restart,
    )
    command(
        "train_standard.py",
        f"{DATA} {TRAINING} --epochs {EPOCHS['standard']} --model-dir {OUT}/standard",
        restart,
    )
    if settings.choose:
        choose(restart)
        return
    train_estimators(CHOSEN[0], restart)
    train_namid(*CHOSEN, OUT / "namid", restart)
    for run in ("natural", "standard", "namid"):
        command(
            "test_comparison.py",
            f"--model-dir {OUT}/{run} --epsilon {EPSILON} --attacks {','.join(ATTACKS)}",
        )
    show()


if __name__ == "__main__":
    main(parse(Settings, __doc__))
