"""Train critics on a frozen representation and judge them (Zhu et al. 2020, Algorithm 2)."""

import copy
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch

from common.errors import Diverged
from data.batches import Batches, in_order
from utils.attacks.mutual_information import lower_mi
from utils.attacks.projected_gradient import frozen
from utils.mi.bounds import scores
from utils.mi.critic import Critic

# Below this deviation of the scores T over all pairs a critic counts as constant.
CONSTANT = 1e-2

# (encoder, critic, x) -> x', the images that both sides of the critic see
Attack = Callable[[torch.nn.Module, torch.nn.Module, torch.Tensor], torch.Tensor]


def unchanged(encoder: torch.nn.Module, critic: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Return the images as they are: the attack of the normal critic."""
    return x


def attacked_within(budget: tuple[str, float, int, float | None]) -> Attack:
    """Return the attack of the worst critic; budget: norm, epsilon, steps and step size."""
    return lambda encoder, critic, x: lower_mi(encoder, critic, x, *budget)


@dataclass
class Judged:
    """J of a critic on images, in nats.

    mean: over batches; biased upwards, since a batch has few negatives. pooled: one J of all
    images together, attacked in their batches. spread: the standard deviation of the scores over
    all pairs of a batch, 0 for a constant critic.
    """

    mean: float
    pooled: float
    spread: float


def fit(  # noqa: PLR0913  Algorithm 2's own arguments
    encoder: torch.nn.Module,
    critic: Critic,
    attack: Attack,
    batches: Batches,
    held_out: list[torch.Tensor],
    *,
    epochs: int,
    lr: float,
    seed: int,
) -> list[float]:
    """Train the critic on attacked images, by Adam on -J; the encoder is frozen, in eval mode.

    The critic ends with the weights of the epoch of the largest J on held-out images, which are
    attacked again after each epoch.

    Args:
        held_out: batches of images.
        seed: of the order of the images.

    Returns: the held-out J of each epoch. Raises Diverged where one is non-finite.
    """
    optimizer = torch.optim.Adam(critic.parameters(), lr)
    history: list[float] = []
    best: dict = {}
    for epoch in range(epochs):
        for x, _ in batches.epoch(seed, epoch):
            x_adv = attack(encoder, critic, x)
            with frozen(encoder), torch.no_grad():
                z = encoder(x_adv)
            loss = -critic.train()(x_adv, z)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        value = judge(encoder, critic, attack, held_out).mean
        if not math.isfinite(value):
            raise Diverged(f"a critic's J is {value} in epoch {epoch + 1}; a smaller --lr may help")
        if not history or value > max(history):
            best = copy.deepcopy(critic.state_dict())
        history.append(value)
    critic.load_state_dict(best)
    return history


def judge(
    encoder: torch.nn.Module, critic: Critic, attack: Attack, images: list[torch.Tensor]
) -> Judged:
    """Attack batches of images and compute J of each and of all together, networks in eval mode."""
    encoded, values, spreads = [], [], []
    for x in images:
        x_adv = attack(encoder, critic, x)
        with frozen(encoder), frozen(critic), torch.no_grad():
            local, global_ = critic.encode(x_adv, encoder(x_adv))
            values.append(critic.bound(local, global_).item())
            spreads.append(scores(local.mean(2, keepdim=True), global_).std().item())
        encoded.append((local, global_))
    pooled = critic.bound(*(torch.cat(parts) for parts in zip(*encoded)))
    return Judged(statistics.mean(values), pooled.item(), statistics.mean(spreads))


def batches_of(images: torch.Tensor, batch_size: int, device) -> list[torch.Tensor]:
    """Convert images (uint8) to batches in [0,1], in order."""
    labels = torch.zeros(len(images), dtype=torch.int64)
    return [x for x, _ in in_order(images, labels, batch_size, device)]


def mean_and_sd(values: list[float]) -> tuple[float, float | None]:
    """Return the mean of values over critics and their standard deviation; None for one critic."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None
