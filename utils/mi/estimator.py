"""The MI estimator: a local network for patterns, a global one for outputs, and a bound."""

import torch
from torch import nn

from models.mi import LocalNet, OutputNet
from utils import distributed
from utils.mi import blocked, bounds
from utils.mi.names import BOUNDS


class MIEstimator(nn.Module):
    """Estimate the mutual information of patterns (N, 3, H, W) and outputs of the target, one value
    E(pattern; output) per sample, (N,), in nats.

    The other samples of the batch are the negatives, so N >= 2 is needed. Where several processes
    share the batch, values are those of the samples of all.

    A training step that pairs the same patterns with several outputs encodes each input once, with
    `encode_pattern` and `encode_output`, and calls `mi` for each pairing.

    Args:
        local_net, global_net: encoders with the same number of units.
        bound: one of `utils.mi.names.BOUNDS`.
        scaled: divide scores by the square root of the number of units. After a LayerNorm over U
            units a vector's length is about sqrt U, and scores reach +-U; scaled, they reach +-sqrt
            U.
    """

    def __init__(
        self, local_net: LocalNet, global_net: OutputNet, bound: str = "dv", scaled: bool = False
    ):
        super().__init__()
        if bound not in BOUNDS:
            raise ValueError(f"bound {bound!r} is unknown; choose one of {', '.join(BOUNDS)}")
        self.local_net = local_net
        self.global_net = global_net
        self.bound = bound
        self.scaled = scaled

    @property
    def n_units(self) -> int:
        return self.local_net.options["n_units"]

    @property
    def representation(self) -> str:
        """Name what of the target `global_net` takes, one of `models.REPRESENTATIONS`."""
        return self.global_net.representation

    def encode_pattern(self, pattern: torch.Tensor) -> torch.Tensor:
        """Encode (N, 3, H, W) as local (N, U, L)."""
        return self.local_net(pattern)

    def encode_output(self, output: torch.Tensor) -> torch.Tensor:
        """Encode logits (N, C), or a feature map where the global network takes one, as global
        (N, U, 1)."""
        # Batch norm would refuse a single sample too, but for reasons of its own.
        if self.training and distributed.count() == 1:
            blocked.check_samples(len(output))
        encoded = self.global_net(output)
        return encoded / self.n_units**0.5 if self.scaled else encoded

    def mi(self, local: torch.Tensor, global_: torch.Tensor) -> torch.Tensor:
        """Compute the values (N,) of local (N, U, L) and global (N, U, 1).

        Several sets of outputs for one of patterns, (K N, U, 1), give (K N,).
        """
        return bounds.per_sample(self.bound, local, global_)

    def of_outputs(self, pattern: torch.Tensor, *outputs: torch.Tensor) -> list[torch.Tensor]:
        """Compute the MI of the patterns with each of the target's outputs, (N,) each.

        For a frozen estimator in eval mode, where samples do not influence each other. The patterns
        carry no gradient; their encoding, the largest tensor of a step, is freed on return.
        """
        with torch.no_grad():
            local = self.encode_pattern(pattern)
        encoded = self.encode_output(torch.cat(outputs))
        return list(self.mi(local, encoded).chunk(len(outputs)))

    def forward(self, pattern: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        return self.mi(self.encode_pattern(pattern), self.encode_output(output))
