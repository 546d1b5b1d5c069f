"""Run the whole method on real handwritten digits, in a few minutes on two cores: ./run demo

    ./run demo                 three networks, their robust accuracies, pictures; resumes
    ./run demo --restart       from the beginning
    ./run demo --choose        compare NAMID's candidate settings on held-out training images

The demo prints and runs the commands that a user runs: natural training, stage 1, stage 2, stage 3,
and the evaluation. It writes to runs/demo. The network is a narrow ResNet-18, the images
are scikit-learn's digits at 16x16, the budget is Linf 0.12.
"""

import csv
import json
import shlex
from dataclasses import dataclass
from pathlib import Path

from reproduction.run import Commands
from utils.scripts import run_script
from utils.settings.command_line import parse

OUT = Path("runs/demo")
EPSILON = 0.12  # under which natural training is fooled and adversarial training is robust
DATA = f"--dataset digits --holdout 200 --epsilon {EPSILON} --eval-steps 10"
TRAINING = "--width 16 --batch-size 125 --lr 0.1"
EPOCHS = {"natural": 6, "standard": 22, "estimators": 5, "namid": 22}
ESTIMATORS = {  # name: what it adds to the command of stage 2
    "cosine-dv": "--objective cosine --bound dv",
    "cosine-nce": "--objective cosine --bound nce",
}
# (estimators, alpha)
CANDIDATES = [("cosine-dv", 0.1), ("cosine-dv", 0.5), ("cosine-nce", 0.1), ("cosine-nce", 1.0)]
CHOSEN = ("cosine-dv", 0.1)  # --choose; see docs/demo.md
ATTACKS = {"none": "no attack", "fgsm": "FGSM", "pgd-40": "PGD-40"}


@dataclass
class Settings:
    """Options of the demonstration."""

    restart: bool = False
    """Start from scratch."""
    choose: bool = False
    """Train every candidate for NAMID's settings and compare them on held-out training images."""


def command(script: str, options: str, restart: bool = False) -> None:
    """Print a command as a user would type it, and run it.

    A failure of the command ends the demonstration with its status; a signal stops both.
    """
    words = [script, *options.split(), *(["--restart"] if restart else [])]
    print(f"\n$ python {shlex.join(words)}", flush=True)
    with Commands() as commands:
        commands.start(script, words)
        _, status = commands.wait()
    if status or commands.received:
        raise SystemExit(status or 128 + commands.received[0])


def train_target(run: str, restart: bool = False) -> None:
    """Train the target of "natural" or "standard": without an attack, or by standard AT."""
    defense = "--defense natural " if run == "natural" else ""
    options = f"{DATA} {TRAINING} --epochs {EPOCHS[run]} {defense}--model-dir {OUT}/{run}"
    command("train_standard.py", options, restart)


def train_estimators(name: str, restart: bool = False) -> None:
    """Train the estimators `name` of the standard AT network."""
    options = (
        f"{DATA} --pre-target {OUT}/standard/best_model.pth {ESTIMATORS[name]} --n-units 256 "
        f"--epochs {EPOCHS['estimators']} --batch-size 125 --model-dir {OUT}/estimators-{name}"
    )
    command("train_MI_estimator.py", options, restart)


def train_namid(estimators: str, alpha: float, folder: Path, restart: bool = False) -> None:
    """Train NAMID with estimators of a name and a weight `alpha` into a folder."""
    options = (
        f"{DATA} {TRAINING} --epochs {EPOCHS['namid']} --estimator-dir "
        f"{OUT}/estimators-{estimators} --alpha {alpha} --model-dir {folder}"
    )
    command("train_MIAT.py", options, restart)


def best_score(folder: Path) -> dict:
    """Return the line of metrics.csv with the best (natural + PGD)/2 held-out accuracy."""
    with open(folder / "metrics.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["score"]]
    return max(rows, key=lambda row: float(row["score"]))


def choose(restart: bool) -> None:
    """Train each candidate and print its accuracies on the held-out training images."""
    for name in ESTIMATORS:
        train_estimators(name, restart)
    rows = []
    for name, alpha in CANDIDATES:
        folder = OUT / f"namid-{name}-{alpha}"
        train_namid(name, alpha, folder, restart)
        rows.append([f"{name}, alpha {alpha}", *_accuracies(folder)])
    rows.append(["standard AT, for comparison", *_accuracies(OUT / "standard")])
    from utils.plots import table  # here: it imports matplotlib, which --help does without

    print("\nOn 200 held-out training images, in percent:\n")
    print(table(["candidate", "best epoch", "natural", "PGD-10", "mean"], rows))


def _accuracies(folder: Path) -> list[str]:
    """Return the best epoch of a run and its accuracies on held-out images, as texts."""
    best = best_score(folder)
    columns = ("natural_accuracy", "robust_accuracy", "score")
    return [best["epoch"], *(f"{float(best[column]):.1f}" for column in columns)]


NAMES = {"natural": "natural training", "standard": "standard AT", "namid": "NAMID"}


def evaluate() -> None:
    """Measure the accuracies of the three networks under ATTACKS."""
    for run in NAMES:
        options = f"--model-dir {OUT}/{run} --epsilon {EPSILON} --attacks {','.join(ATTACKS)}"
        command("test_comparison.py", options)


def show() -> None:
    """Print the table of robust accuracies, and draw the adversarial examples."""
    from utils.plots import table  # here: it imports matplotlib, which --help does without

    results = {run: json.loads((OUT / run / "results.json").read_text()) for run in NAMES}
    n = results["namid"]["n"]
    print(f"\nAccuracy in percent on {n} test images, Linf {EPSILON}, one seed:\n")
    rows = []
    for run, text in NAMES.items():
        accuracies = [results[run]["attacks"][attack]["accuracy"] for attack in ATTACKS]
        rows.append([text, *(f"{accuracy:.1f}" for accuracy in accuracies)])
    print(table(["network", *ATTACKS.values()], rows))
    estimators, alpha = CHOSEN
    chosen = "chosen on held-out training images (docs/demo.md)"
    print(f"\nNAMID: {estimators} estimators, alpha {alpha}, {chosen}.")

    pictures = draw_examples()
    curves = ("natural", "standard", f"estimators-{estimators}", "namid")
    pictures += [OUT / run / "curves.png" for run in curves]
    print("\nPictures:\n" + "\n".join(f"  {path}" for path in pictures))


def draw_examples() -> list[Path]:
    """Draw six adversarial examples of each network; return the files."""
    import torch  # here: --help does without

    import data
    import models
    from utils import devices
    from utils.attacks.projected_gradient import pgd
    from utils.plots import plot_examples

    devices.compute("cpu")
    digits = data.load("digits")
    x, y = digits.test_images[:6].float() / 255, digits.test_labels[:6]
    pictures = []
    for run, text in NAMES.items():
        file = "target_model.pth" if run == "namid" else "best_model.pth"
        target = models.load(OUT / run / file)
        x_adv = pgd(target, x, y, "linf", EPSILON, 40, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            classes, classes_adv = target(x).argmax(1), target(x_adv).argmax(1)
        path = OUT / f"examples-{run}.png"
        title = f"{text}: PGD-40, Linf {EPSILON}"
        plot_examples(x, x_adv, y, classes, classes_adv, path, title)
        pictures.append(path)
    return pictures


def main(settings: Settings) -> None:
    restart = settings.restart
    for run in ("natural", "standard"):
        train_target(run, restart)
    if settings.choose:
        choose(restart)
        return
    train_estimators(CHOSEN[0], restart)
    train_namid(*CHOSEN, OUT / "namid", restart)
    evaluate()
    show()


if __name__ == "__main__":
    run_script(main, parse(Settings, __doc__))
