"""Compute the learning rate over a run."""

import math


def learning_rate(training, epoch: int, index: int, steps_per_epoch: int) -> float:
    """Return the learning rate of step `index` in `epoch`, both from 0.

    It depends on the arguments only: no schedule has a state to save. steps: lr times lr_factor for
    each milestone passed. exponential: lr times lr_factor for every two epochs. cosine and cyclic
    depend on t, the finished fraction of the run: half a cosine from lr to 0; linear from 0 to lr
    at t = 0.4, then linear to 0 (Wong et al. 2020).
    """
    if training.schedule == "steps":
        return training.lr * training.lr_factor ** sum(
            epoch >= round(m * training.epochs) for m in training.lr_milestones
        )
    if training.schedule == "exponential":
        return training.lr * training.lr_factor ** (epoch // 2)
    t = (epoch + index / steps_per_epoch) / training.epochs
    if training.schedule == "cosine":
        return training.lr * (1 + math.cos(math.pi * t)) / 2
    return training.lr * min(t / 0.4, (1 - t) / 0.6)
