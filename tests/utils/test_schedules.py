"""Learning-rate schedules against their definitions."""

import itertools
import math

import numpy as np
import pytest

from utils.schedules import learning_rate, ramp
from utils.settings.options import Training

EPOCHS, STEPS = 10, 7
EVERY = [(epoch, index) for epoch in range(EPOCHS) for index in range(STEPS)]


def rates(schedule):
    training = Training(epochs=EPOCHS, lr=0.2, schedule=schedule)
    return [learning_rate(training, epoch, index, STEPS) for epoch, index in EVERY]


def test_steps_fall_at_the_milestones_alone():
    """0.75 and 0.9 of 10 epochs: 7.5, which Python rounds to 8, and 9."""
    assert rates("steps") == [0.2 * 0.1 ** ((epoch >= 8) + (epoch >= 9)) for epoch, _ in EVERY]


def test_exponential_falls_every_two_epochs():
    training = Training(epochs=EPOCHS, lr=1e-4, schedule="exponential", lr_factor=0.97)
    found = [learning_rate(training, epoch, 3, STEPS) for epoch in range(EPOCHS)]
    assert found == [1e-4 * 0.97**k for k in (0, 0, 1, 1, 2, 2, 3, 3, 4, 4)]


def test_cosine_falls_from_lr_to_nothing():
    found = rates("cosine")
    assert found == pytest.approx(
        [0.2 * math.cos(math.pi * i / (2 * EPOCHS * STEPS)) ** 2 for i in range(EPOCHS * STEPS)],
        rel=1e-12,
    )
    assert (
        found[0] == 0.2
        and all(later < earlier for earlier, later in itertools.pairwise(found))
        and found[-1] < 0.2 / 500
    )


def test_cyclic_is_a_triangle_with_its_top_at_two_fifths():
    t = [epoch + index / STEPS for epoch, index in EVERY]
    assert rates("cyclic") == pytest.approx(
        np.interp(t, [0, 0.4 * EPOCHS, EPOCHS], [0, 0.2, 0]), rel=1e-12
    )
    assert max(rates("cyclic")) == 0.2 and EVERY[int(np.argmax(rates("cyclic")))] == (4, 0)


def test_a_ramp_grows_linearly_from_0_and_stays():
    assert [ramp(5, epoch, 4) for epoch in (-2, 0, 1, 2.5, 4, 48)] == [0, 0, 1.25, 3.125, 5, 5]
    assert ramp(5, 0, 0) == 5
