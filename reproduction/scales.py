"""Every setting that --scale changes, in one table.

An option that is not named here keeps the script's default, which is the paper's value.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """The options of one scale, by the commands that take them."""

    dataset: str  # where --dataset is not given
    data: str  # every training stage
    network: str  # the targets
    training: str  # stages 1 and 3
    surrogate: str  # the VGG-19
    namid: str  # stage 3, WMIM included
    alpha: float | None  # NAMID; None: the paper's
    estimators: str  # stage 2
    estimators_max: str  # stage 2 by Equation 4
    evaluation: str  # the attacks of the tables except AutoAttack
    autoattack: str  # AutoAttack, nine tenths of an evaluation's time
    mi: str  # Figures 2 and 4
    encoder: str  # train_worst_case_MI.py
    classifier: str  # train_classifier.py
    baseline: str  # the networks that Zhu et al. train end to end
    critics: str  # analyze_MI.py vulnerability, and the critics of single units
    architectures: tuple[str, ...]  # of zhu-figure1 and zhu-figure2
    units: int  # how many units zhu-figure3 shows
    shows: str  # what results of this size show, for the captions


SCALES = {
    "tiny": Scale(
        dataset="digits",
        data="--limit-train 500 --holdout 100 --num-steps 5 --eval-steps 5",
        network="--width 8",
        training="--epochs 5 --batch-size 50 --lr 0.05",
        # with a rate of 0.02 and more it hardly learns
        surrogate="--width 8 --epochs 20 --batch-size 50 --lr 0.005",
        namid="--warmup-epochs 1",
        alpha=0.1,
        estimators="--n-units 32 --epochs 2 --batch-size 50",
        estimators_max="--n-units 32 --epochs 2 --batch-size 50",
        evaluation="--limit-test 40 --batch-size 40",
        autoattack="--limit-test 20 --batch-size 20",
        mi="--limit-test 40 --batch-size 40",
        encoder="--width 8 --n-units 32 --epochs 3 --batch-size 50 --lr 1e-3",
        classifier="--epochs 3 --batch-size 50 --lr 1e-3",
        baseline="--width 8 --epochs 3 --batch-size 50 --lr 0.05",
        critics="--n-units 32 --epochs 2 --batch-size 20 --lr 1e-3 --num-steps 3 "
        "--limit-train 200 --holdout 40 --limit-test 40",
        architectures=("baseline-h", "resnet18"),
        units=2,
        shows="A check that everything runs, and nothing else: networks that have hardly begun to "
        "learn, a handful of images.",
    ),
    "sweep": Scale(
        dataset="digits",
        data="--holdout 280 --num-steps 10 --eval-steps 10",
        network="--width 8",
        training="--epochs 12 --batch-size 125",
        surrogate="--width 8 --epochs 20 --batch-size 125 --lr 0.005",
        namid="",
        alpha=0.1,
        estimators="--n-units 256 --epochs 5 --batch-size 125",
        estimators_max="--n-units 256 --epochs 5 --batch-size 125",
        evaluation="",
        autoattack="--limit-test 100 --batch-size 100",
        mi="--batch-size 125",
        encoder="--width 16 --n-units 256 --epochs 30 --lr 1e-3",
        classifier="--epochs 30 --lr 1e-3",
        baseline="--width 16 --epochs 12 --batch-size 125",
        critics="--n-units 256 --epochs 20 --lr 1e-3 --num-steps 7 --holdout 280",
        architectures=("baseline-h", "resnet18", "vgg16"),
        units=16,
        shows="Handwritten digits and a network an eighth as wide as the paper's, trained for an "
        "eighth of its epochs: what it shows of a setting holds for runs of this kind.",
    ),
    "small": Scale(
        dataset="cifar10",
        data="--limit-train 5000 --holdout 500",
        network="--width 16",
        training="--epochs 20 --batch-size 125",
        surrogate="--width 16 --epochs 20 --batch-size 125 --lr 0.01",  # with 0.1 it does not learn
        namid="",
        alpha=0.1,
        estimators="--n-units 256 --epochs 4 --batch-size 125",
        estimators_max="--n-units 256 --epochs 4 --batch-size 125",
        evaluation="--limit-test 1000",
        autoattack="--limit-test 250 --batch-size 250",
        mi="--limit-test 1000 --batch-size 125",
        encoder="--n-units 256 --epochs 20",
        classifier="--epochs 20 --lr 1e-3",
        baseline="--width 16 --epochs 20 --batch-size 125",
        critics="--n-units 256 --epochs 10 --lr 1e-3 --num-steps 7 --limit-train 2000 "
        "--holdout 200 --limit-test 500",
        architectures=("baseline-h", "resnet18", "vgg16"),
        units=16,
        shows="A tenth of the images, a quarter of the width, a fifth of the epochs: it shows a "
        "defense that fails to train and gaps of several points, not the paper's gaps of one or "
        "two, and no accuracy here compares with the paper's.",
    ),
    "full": Scale(
        dataset="cifar10",
        data="",
        network="",
        training="",
        surrogate="",
        namid="",
        alpha=None,
        estimators="",
        estimators_max="",
        evaluation="",
        autoattack="",
        mi="--limit-test 1000 --batch-size 200",
        encoder="",
        classifier="",
        # Its VGG, ResNets and DenseNet; the paper gives no other settings for Baseline-H.
        baseline="--epochs 200 --batch-size 128 --lr-milestones 0.25 0.5 0.75",
        critics="--limit-test 10000",
        architectures=("baseline-h", "resnet18", "resnet50", "vgg16"),
        units=128,
        shows="The paper's settings.",
    ),
}

# Budgets of data sets for which the paper has none. Under these a naturally trained network is
# fooled on almost every image, and an adversarially trained one can be robust.
EPSILON = {"digits": {"linf": 0.12, "l2": 1.0}}
