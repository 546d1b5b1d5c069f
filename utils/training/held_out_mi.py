"""Measure J on held-out images after an epoch of train_worst_case_MI.py, and warn."""

import torch

from utils import distributed
from utils.devices import Compute
from utils.mi.critic import Critic
from utils.mi.fitting import CONSTANT, attacked_within, batches_of, judge, unchanged


def held_out_mi(
    encoder: torch.nn.Module,
    critic: Critic,
    images: torch.Tensor,
    batch_size: int,
    budget: tuple[str, float, int, float | None] | None,
    compute: Compute,
) -> dict[str, float]:
    """Compute J of held-out images (uint8), in eval mode and float32, {} without images.

    Several processes compute the same. Returns "J1", of natural images; with a budget (norm,
    epsilon, steps, step size) "J2", of images attacked again; "spread", the deviation of the
    critic's scores over the pairs; and "score", the last J.
    """
    if len(images) < 2:
        return {}
    with distributed.alone(), compute.eager():
        batches = batches_of(images, batch_size, compute.device)
        natural = judge(encoder, critic, unchanged, batches)
        values = {"J1": natural.mean, "spread": natural.spread, "score": natural.mean}
        if budget:
            values["J2"] = judge(encoder, critic, attacked_within(budget), batches).mean
            values["score"] = values["J2"]
    return values


def warnings(row: dict) -> list[str]:
    """Return the warnings that a row of the log calls for."""
    found = []
    if row.get("spread", CONSTANT) < CONSTANT:
        found.append(
            "the critic scores all pairs alike (constant critic), so g learns nothing; an "
            "--epsilon-ramp or a smaller --epsilon may help"
        )
    if row.get("J2", 0) < 0:
        found.append(
            f"J on attacked held-out images is {row['J2']:.3f}, below 0, which no mutual "
            "information is; an --epsilon-ramp may help"
        )
    return found
