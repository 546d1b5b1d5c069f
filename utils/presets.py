"""The values that --preset gives to options, by stage; an option that is given wins, one that is not named here has its default.

Nothing here imports torch: the command line is read with it.
"""

RELEASED_TARGET = {
    "arch": "wrn34-10",  # what its stages 1 and 3 train
    "batch_size": 256,  # its scripts' default
}
# Stage 2 as released has PGD-20, batch 400 (plain maximisation: 200) and 2048 units, which are the defaults here, too.
RELEASED_ESTIMATORS = {
    "arch": "resnet18",  # it reads a ResNet-18, whatever its stage 1 wrote: train one with --preset released --arch resnet18
    "bound": "dv-released",  # the positive pair enters each sum as exp(0)
}
STRONG = {
    "weight_decay": 5e-4,  # the factor that matters most in Pang et al. 2021, Bag of Tricks for Adversarial Training
    "batch_size": 128,  # Rice et al. 2020 and most since; robust accuracy falls with larger batches (Pang et al. 2021)
    "ema": 0.999,  # averaged weights overfit later and less (Gowal et al. 2020; Rebuffi et al. 2021)
}

# A key (stage, norm) adds to the stage's values under that norm. Its L2 steps are 2 epsilon/steps, here with its epsilon, 0.5.
PRESETS = {
    "paper": {},
    "released": {
        "train_standard": RELEASED_TARGET | {"holdout": 0},  # all images train, and the latest model is kept
        ("train_standard", "l2"): {"step_size": 0.1},  # of 10 steps
        "train_MI_estimator": RELEASED_ESTIMATORS,
        "train_MI_estimator_only_max": RELEASED_ESTIMATORS,
        ("train_MI_estimator", "l2"): {"step_size": 0.05},  # of 20 steps
        ("train_MI_estimator_only_max", "l2"): {"step_size": 0.05},
        "train_MIAT": RELEASED_TARGET | {
            "num_steps": 40,  # PGD-40 in training
            "step_size": 0.007,  # in place of epsilon/4 = 0.0078
            "lam": 0.0,  # lambda's term is commented out
            "eval_steps": 40,  # its best model has the best (natural + PGD-40 accuracy)/2; here on held-out images
        },
        ("train_MIAT", "l2"): {"step_size": 0.025},  # of 40 steps
    },
    "strong": {  # of the target networks; of the estimators nothing differs
        "train_standard": STRONG,
        "train_MIAT": STRONG,
    },
    "stable": {  # the paper's, but for what short runs of narrow networks need to train at all
        "train_MIAT": {"alpha": 0.1},  # docs/stability.md: with 5 they collapse
    },
}


def values(preset: str, stage: str, norm: str) -> dict:
    """{option: value} of a preset for a stage, the name of its script without ".py", under a norm; {} where it has none."""
    chosen = PRESETS.get(preset, {})
    return chosen.get(stage, {}) | chosen.get((stage, norm), {})
