"""List the values that --preset gives to options, by stage.

An option on the command line wins; an option that no preset names has its default. Nothing here
imports torch: the command line needs it.
"""

# What all released scripts set.
RELEASED_ATTACK = {
    "step_size": 0.007,  # the Linf step of every PGD; epsilon/4 is 0.0078
    "eval_steps": 40,  # the released code measures accuracies under PGD-40
}
RELEASED_TARGET = RELEASED_ATTACK | {
    "arch": "wrn34-10",  # what its stages 1 and 3 train
    "batch_size": 256,  # its scripts' default
    # Its epochs count from 1, and the rate falls before the 75th and the 90th.
    "lr_milestones": (0.74, 0.89),
}
# The released stage 2 has PGD-20, batch 400 (plain maximisation: 200) and 2048 units, which are
# the defaults here, too.
RELEASED_ESTIMATORS = RELEASED_ATTACK | {
    # It reads a ResNet-18 whatever its stage 1 wrote: train one with
    # train_standard.py --preset released --arch resnet18.
    "arch": "resnet18",
    "bound": "dv-released",  # the positive pair enters each sum as exp(0)
    "selection": "released",  # predicted labels from a softmax over the batch
}
STRONG = {
    # The factor that matters most in Pang et al. 2021, Bag of Tricks for Adversarial Training.
    "weight_decay": 5e-4,
    # Rice et al. 2020 and most since; robust accuracy falls with larger batches (Pang et al. 2021).
    "batch_size": 128,
    # Averaged weights overfit later and less (Gowal et al. 2020; Rebuffi et al. 2021).
    "ema": 0.999,
}
# What published ResNet-18s of CIFAR-10 are trained with today, docs/leaderboard.md.
LEADERBOARD = STRONG | {
    "epochs": 200,  # Rice et al. 2020
    "lr_milestones": (0.5, 0.75),  # Rice et al. 2020: epochs 100 and 150
    "awp": 0.005,  # Wu et al. 2020
    "awp_warmup": 10,  # Wu et al. 2020, their code for TRADES
    "augmentation": "idbh-weak",  # Li and Spratling 2023
    "label_smoothing": 0.1,  # Pang et al. 2021
}
RELEASED_MIAT = RELEASED_TARGET | {
    "num_steps": 40,  # PGD-40 in training
    "lam": 0.0,  # lambda's term is commented out
    "selection": "released",  # as in its stage 2
    "epochs": 102,  # its two warm-up epochs come before the 100
    "lr_milestones": (76 / 102, 91 / 102),  # before the 75th and the 90th of the 100
}

# The code released with Zhu et al. 2020; its other values are the defaults.
RELEASED_WORST_CASE = {
    "pairs": "released",  # a mask by 0 inside exp
    "epochs": 500,  # its README; the paper says 300
    "holdout": 0,  # all images train
}

# A key (stage, norm) adds to the stage's values under that norm. The released L2 steps are
# 2 epsilon/steps, here with the released epsilon, 0.5.
PRESETS: dict[str, dict[str | tuple[str, str], dict]] = {
    "paper": {},
    "released": {
        # All images train, and the last model is kept.
        "train_standard": RELEASED_TARGET | {"holdout": 0},
        ("train_standard", "l2"): {"step_size": 0.1},  # 10 steps
        "train_MI_estimator": RELEASED_ESTIMATORS,
        "train_MI_estimator_only_max": RELEASED_ESTIMATORS,
        ("train_MI_estimator", "l2"): {"step_size": 0.05},  # 20 steps
        ("train_MI_estimator_only_max", "l2"): {"step_size": 0.05},
        "train_MIAT": RELEASED_MIAT,
        "train_worst_case_MI": RELEASED_WORST_CASE,
        "train_classifier": {"holdout": 0},
        ("train_MIAT", "l2"): {"step_size": 0.025},  # 40 steps
        # The network of the variational bottleneck's authors, 784-1024-1024-512; what else they set
        # is the default.
        "train_VIB": {"width": 1024, "layers": 2, "narrow": 0},
    },
    "strong": {  # changes the target networks; the estimators keep their defaults
        "train_standard": STRONG,
        "train_MIAT": STRONG,
        "train_entropic": {name: STRONG[name] for name in ("weight_decay", "ema")},
    },
    "leaderboard": {
        "train_standard": LEADERBOARD,
        "train_MIAT": LEADERBOARD,
    },
    "stable": {  # the paper's values except one, with which short runs of narrow networks collapse
        "train_MIAT": {"alpha": 0.1},  # the paper's is 5; docs/stability.md
    },
}


def values(preset: str, stage: str, norm: str) -> dict:
    """Return {option: value} of a preset for a stage under a norm; {} where the preset sets
    nothing.

    stage: the name of its script without ".py".
    """
    chosen = PRESETS.get(preset, {})
    return chosen.get(stage, {}) | chosen.get((stage, norm), {})
