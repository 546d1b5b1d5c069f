"""The critic of worst-case mutual information: images and representations to one number J."""

import torch
from torch import nn

from models.mi import LocalNet, global_net
from utils.mi.batch_bound import batch_bound


class Critic(nn.Module):
    """Compute J of a batch, a lower bound on I(X; Z) in nats, from a local network for the images
    and a global network for their representations:

        T(x, z) = mean_l <global(z), local(x)_l>.

    Where several processes share the batch, J is that of the whole batch.

    Args:
        local_net, global_net: encoders with the same number of units.
        form, pairs: of `utils.mi.batch_bound`.
        scaled: divide scores by the square root of the number of units, as in
            `utils.mi.MIEstimator`.
    """

    def __init__(
        self, local_net: nn.Module, global_net: nn.Module, form: str, pairs: str, scaled=False
    ):
        super().__init__()
        self.local_net, self.global_net = local_net, global_net
        self.form, self.pairs, self.scaled = form, pairs, scaled

    def encode(self, x: torch.Tensor, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode images x (N,3,H,W) and representations z, (N,C) or (N,C,H',W'), as `batch_bound`
        takes them."""
        local, global_ = self.local_net(x), self.global_net(z)
        if self.form == "average":  # T is bilinear: the mean over locations is all that it needs
            local = local.mean(2, keepdim=True)
        return local, global_ / global_.shape[1] ** 0.5 if self.scaled else global_

    def bound(self, local: torch.Tensor, global_: torch.Tensor) -> torch.Tensor:
        """Compute J of encoded samples."""
        return batch_bound(local, global_, self.form, self.pairs)

    def forward(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return self.bound(*self.encode(x, z))


def build_critic(
    representation: str,
    n_inputs: int,
    n_units: int,
    local_convs: int = 2,
    form: str = "average",
    pairs: str = "all",
    scaled: bool = False,
) -> Critic:
    """Build a critic with random weights.

    Args:
        representation: "code" (an encoder's), or one of `models.REPRESENTATIONS`.
        n_inputs: the representation's components or channels.
        n_units, local_convs: of the networks.
        form, pairs, scaled: see `Critic`.
    """
    kind = "logits" if representation == "code" else representation  # both are vectors
    nets = LocalNet(n_units, local_convs), global_net(kind, n_inputs, n_units)
    return Critic(*nets, form, pairs, scaled)


class Representation(nn.Module):
    """Compute one output of a target, logits or a feature map, as a representation g."""

    def __init__(self, target: nn.Module, representation: str):
        super().__init__()
        self.target, self.representation = target, representation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.representation == "logits":  # any network has them
            return self.target(x)
        return self.target(x, tap=self.representation)[1]
