"""Time the step of train_worst_case_MI.py: an encoder and a critic instead of a target."""

import torch

import train_worst_case_MI
from benchmarks import measure
from benchmarks.sizes import Sizes
from models.encoder import CODES, Encoder
from utils.attacks.mutual_information import lower_mi
from utils.devices import Compute
from utils.mi.critic import build_critic
from utils.settings.command_line import check


class EncoderBench:
    """The networks of one variant, with the settings and the optimizer of the script's defaults."""

    def __init__(self, sizes: Sizes, compute: Compute, channels_last: bool):
        self.compute, self.settings = compute, train_worst_case_MI.Settings()
        check(self.settings)
        form = self.settings.critic
        with compute.device:
            self.encoder = Encoder(sizes.width or 64, (sizes.size, sizes.size))
            self.critic = build_critic(
                "code", CODES, sizes.n_units, form.local_convs, form.form, form.pairs
            )
        nets = (self.encoder, self.critic)
        if channels_last:
            for net in nets:
                compute.prepare(net)
        weights = [weight for net in nets for weight in net.train().parameters()]
        self.optimizer = torch.optim.Adam(weights, lr=0.0, fused=True)

    def step(self, x: torch.Tensor) -> measure.Run:
        """Return what the script does with a batch x: attack, objective, backward pass, step."""
        budget = self.settings.attack.budget

        def run():
            self.optimizer.zero_grad(set_to_none=True)
            with self.compute.autocast():
                x_adv = lower_mi(self.encoder, self.critic, x, *budget)
                found = train_worst_case_MI.objective(x, x_adv, self.encoder, self.critic, 1.0)
            (-found["objective"]).backward()
            self.optimizer.step()

        return run
