"""Compute the learning rate over a run.

A schedule is a function (epoch, training) -> share of the largest learning rate, and a line of
SCHEDULES. `epoch` counts the finished epochs, with the fraction of the present one; `training` is
the group of options `Training`. No schedule has a state to save. Nothing here imports torch: the
command line takes the choices of --schedule from SCHEDULES.
"""

import math


def steps(epoch: float, training) -> float:
    """Multiply by lr_factor at each milestone, which is rounded to a whole epoch."""
    passed = sum(epoch >= round(each * training.epochs) for each in training.lr_milestones)
    return training.lr_factor**passed


def cosine(epoch: float, training) -> float:
    """Follow half a cosine from 1 to 0."""
    return (1 + math.cos(math.pi * (epoch / training.epochs))) / 2


def cyclic(epoch: float, training) -> float:
    """Rise linearly from 0 to 1 over 40 % of the run, then fall to 0 (Wong et al. 2020)."""
    t = epoch / training.epochs
    return min(t / 0.4, (1 - t) / 0.6)


def exponential(epoch: float, training) -> float:
    """Multiply by lr_factor every two epochs (the released code of the variational bottleneck)."""
    return training.lr_factor ** (epoch // 2)


SCHEDULES = {"steps": steps, "cosine": cosine, "cyclic": cyclic, "exponential": exponential}


def learning_rate(training, epoch: int, index: int, steps_per_epoch: int) -> float:
    """Return the learning rate of step `index` in `epoch`, both from 0, by --schedule."""
    share = SCHEDULES[training.schedule](epoch + index / steps_per_epoch, training)
    return training.lr * share


def ramp(value: float, epoch: float, epochs: float) -> float:
    """Return `value` after a linear growth from 0 over the first `epochs`.

    epoch: how many epochs have passed, which may be fractional or, before the growth, negative.
    With epochs 0 the value is there at once.
    """
    return value * min(1.0, max(0.0, epoch) / epochs) if epochs else value
