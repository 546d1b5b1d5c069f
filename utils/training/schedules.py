"""Compute the learning rate over a run."""

import math


def learning_rate(training, epoch: int, index: int, steps_per_epoch: int) -> float:
    """Return the learning rate of step `index` in `epoch`, both from 0.

    It depends on the arguments only: no schedule has a state to save. steps: lr times lr_factor for
    each milestone passed. cosine and cyclic depend on t, the finished fraction of the run: half a
    cosine from lr to 0; linear from 0 to lr at t = 0.4, then linear to 0 (Wong et al. 2020).
    """
    if training.schedule == "steps":
        return training.lr * training.lr_factor ** sum(
            epoch >= round(m * training.epochs) for m in training.lr_milestones
        )
    t = (epoch + index / steps_per_epoch) / training.epochs
    if training.schedule == "cosine":
        return training.lr * (1 + math.cos(math.pi * t)) / 2
    return training.lr * min(t / 0.4, (1 - t) / 0.6)


def ramp(value: float, epoch: float, epochs: float) -> float:
    """Return `value` after a linear growth from 0 over the first `epochs`.

    epoch: how many epochs have passed, which may be fractional or, before the growth, negative.
    With epochs 0 the value is there at once.
    """
    return value * min(1.0, max(0.0, epoch) / epochs) if epochs else value
