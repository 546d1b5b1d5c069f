"""What a step of train_worst_case_MI.py costs: each network once per distinct input and attack step."""

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.encoder import EncoderBench
from benchmarks.sizes import Sizes
from utils.devices import Compute

STEPS = 7  # of the attack, the default
LOCATIONS = 8 * 8


def count(run) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def test_a_step_costs_its_attack_and_one_pass():
    """The attack: STEPS passes forward and back to the image, and one forward pass of the last
    iterate. The step: forward, and back to every weight, for which the first layer of either side
    needs no gradient in the image. The N x N x L scores have a gradient on both sides."""
    batch, units = 128, 256
    with FakeTensorMode():
        sizes = Sizes("baseline-h", None, 32, batch, units)
        bench = EncoderBench(sizes, Compute(torch.device("cpu"), "fp32"), channels_last=False)
        x = torch.empty(batch, 3, 32, 32)
        with torch.no_grad():
            codes = bench.encoder(x)
            networks = [
                count(lambda: bench.encoder(x)),
                count(lambda: bench.critic.local_net(x)),
                count(lambda: bench.critic.global_net(codes)),
            ]
            first = [
                count(lambda net=net: net.layer0(x))
                for net in (bench.encoder, bench.critic.local_net)
            ]
        cost = count(bench.step(x))
    scores = 2 * batch * batch * LOCATIONS * units  # the positives are N of these N^2 rows
    attack = STEPS * (2 * sum(networks) + 3 * scores) + sum(networks) + scores
    training = 3 * (sum(networks) + scores) - sum(first)
    assert 0.99 < cost / (attack + training) <= 1.05


def test_the_count_sees_a_network_that_runs_twice(monkeypatch):
    """The bound above means something: an encoder that runs twice breaks it."""
    with FakeTensorMode():
        sizes = Sizes("baseline-h", None, 32, 32, 256)
        bench = EncoderBench(sizes, Compute(torch.device("cpu"), "fp32"), channels_last=False)
        x = torch.empty(32, 3, 32, 32)
        once = count(bench.step(x))
        true = bench.critic.local_net.forward
        monkeypatch.setattr(bench.critic.local_net, "forward", lambda x: true(x) + 0 * true(x))
        assert count(bench.step(x)) > 1.05 * once
