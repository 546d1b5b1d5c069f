"""The steps that the bench times are the real ones, and what it divides by has the same loss."""

import copy
from collections import Counter

import one_batch
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import train_MI_estimator
import train_MIAT
from benchmarks import measure, naive, steps
from benchmarks.sizes import Sizes, Variant, made_up
from utils.attacks.projected_gradient import pgd
from utils.mi import patterns
from utils.settings.command_line import check
from utils.settings.options import Attack

SMALL = Sizes("resnet18", width=4, size=16, batch=8, n_units=16)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return steps.Workbench(SMALL, Variant(), *made_up(SMALL, CPU))


@pytest.fixture
def double(small):
    """Networks in float64, the target with batch-norm statistics of its images, and a batch of which it gets all but one right."""
    nets = {
        "target": small.target,
        "natural": small.natural_mi,
        "adversarial": small.adversarial_mi,
    }
    nets = {name: copy.deepcopy(net).double().requires_grad_(True) for name, net in nets.items()}
    x = small.x.double()
    with torch.no_grad():
        for _ in range(100):
            y = nets["target"].train()(x).argmax(1)
    y[0] = (y[0] + 1) % 10
    return nets, x, y


def gradients(loss_of, nets):
    """The loss of copies of the networks, and the target's and the estimators' gradients.

    loss_of(target, estimators) -> scalar.
    """
    nets = {name: copy.deepcopy(net) for name, net in nets.items()}
    loss = loss_of(nets["target"], {name: nets[name] for name in ("natural", "adversarial")})
    loss.backward()
    return loss, {
        name: [parameter.grad for parameter in net.parameters()] for name, net in nets.items()
    }


def test_the_naive_namid_step_has_the_same_loss_and_gradient(double):
    nets, x, y = double
    settings = train_MIAT.Settings(attack=Attack(epsilon=0.03, num_steps=3))
    check(settings)
    nets["target"].train()
    x_adv = pgd(nets["target"], x, y, *settings.attack.budget)

    def ours_of(target, estimators):
        found = one_batch.stage_3(x, y, target, estimators, settings, x_adv=x_adv)
        # or the MI terms would not be compared
        assert 0 < found.log["selected"] < 1 and found.log["mi_loss"] > 1e-3
        return found.loss

    def naive_of(target, estimators):
        weights = settings.lam, settings.alpha
        return naive.namid_loss(x, x_adv, y, target, estimators, *weights)

    for name in ("natural", "adversarial"):
        nets[name].eval().requires_grad_(False)
    loss, ours = gradients(ours_of, nets)
    for name in ("natural", "adversarial"):
        nets[name].requires_grad_(True)
    naive_loss, theirs = gradients(naive_of, nets)
    torch.testing.assert_close(naive_loss, loss, rtol=1e-9, atol=0)
    torch.testing.assert_close(theirs["target"], ours["target"], rtol=1e-7, atol=1e-9)
    for name in ("natural", "adversarial"):  # the waste: what nobody asked for
        assert all(gradient is None for gradient in ours[name]) and all(
            gradient is not None for gradient in theirs[name]
        )


def test_the_naive_stage_2_step_has_the_same_loss_and_gradient(double):
    nets, x, y = double
    attack = Attack(epsilon=0.005, num_steps=3)
    attack.fill_in()
    nets["target"].eval()
    x_adv = pgd(nets["target"], x, y, *attack.budget, generator=torch.Generator().manual_seed(1))
    masks = patterns.select(nets["target"](x), nets["target"](x_adv), y)
    assert (
        masks["C"].sum() == 7 and masks["R"].sum() > 1 and masks["W"].sum() > 1
    )  # or some terms would not be compared
    objectives = train_MI_estimator.OBJECTIVES["cosine"]

    def ours_of(target, estimators):
        generator = torch.Generator().manual_seed(1)
        batch = x, y, target, estimators
        return sum(one_batch.stage_2(*batch, objectives, attack, generator=generator).values())

    loss, ours = gradients(ours_of, nets)
    naive_loss, theirs = gradients(
        lambda *nets: naive.stage2_loss(x, x_adv, y, *nets, objectives), nets
    )
    torch.testing.assert_close(naive_loss, loss, rtol=1e-9, atol=0)
    for name in ("natural", "adversarial"):
        torch.testing.assert_close(theirs[name], ours[name], rtol=1e-7, atol=1e-9)
    assert all(gradient is None for gradient in ours["target"]) and all(
        gradient is not None for gradient in theirs["target"]
    )


@pytest.fixture(scope="module")
def counted():
    """{part: (passes through each kind of network, FLOPs)}: ResNet-18, 32x32, batch 32, 2048 units.

    Steps of PGD cost the same each (tests/test_flops.py): the attacks take one, and the others are added.
    """
    sizes, found, asked = Sizes("resnet18", None, 32, 32, 2048), {}, []

    def one_step(model, x, y, norm, epsilon, steps, *rest, **more):
        asked.append(steps)
        return pgd(model, x, y, norm, epsilon, 1, *rest, **more)

    with FakeTensorMode(), pytest.MonkeyPatch.context() as patch:
        workbench = steps.Workbench(sizes, Variant(channels_last=False), *made_up(sizes, "cpu"))
        target, passes = workbench.target, Counter()
        for net in (target, workbench.natural_mi.local_net, workbench.adversarial_mi.local_net):
            net.register_forward_hook(lambda net, *_: passes.update([type(net).__name__]))
        x, y = workbench.x, workbench.y
        of_one, of_two = (measure.flops(lambda n=n: pgd(target, x, y, steps=n)) for n in (1, 2))
        patch.setattr(steps, "pgd", one_step)
        for part in ("at", "namid", "naive-namid", "stage2", "naive-stage2"):
            passes.clear()
            asked.clear()
            flops = measure.flops(workbench.part(part))
            others = sum(asked) - len(asked)
            found[part] = dict(passes + Counter(ResNet=others)), flops + others * (of_two - of_one)
    return found


def test_a_part_takes_the_passes_that_it_is_said_to_take(counted):
    """The steps of the attack, 10 or 20, and: for NAMID 2 target and 2 local passes, naive 7 and 4; in stage 2 2 and 2, naive 16
    and 16."""
    assert {part: passes for part, (passes, _) in counted.items()} == {
        "at": {"ResNet": 10 + 1},
        "namid": {"ResNet": 10 + 2, "LocalNet": 2},
        "naive-namid": {"ResNet": 10 + 7, "LocalNet": 4},
        "stage2": {"ResNet": 20 + 2, "LocalNet": 2},
        "naive-stage2": {"ResNet": 20 + 16, "LocalNet": 16},
    }


def test_the_naive_arrangement_costs_what_the_released_one_does(counted):
    """1.93 AT steps, and 114 to 46 forward passes' worth in stage 2."""
    flops = {part: flops for part, (_, flops) in counted.items()}
    assert flops["naive-namid"] / flops["at"] == pytest.approx(1.93, rel=0.03)
    assert flops["naive-stage2"] / flops["stage2"] == pytest.approx(114 / 46, rel=0.03)
    assert flops["namid"] / flops["at"] < 1.2


def test_a_timed_step_is_a_whole_step_that_leaves_the_weights(small):
    before = copy.deepcopy([list(net.parameters()) for net in small.nets])
    for part, optimizer in (("at", small.sgd), ("namid", small.sgd), ("stage2", small.adam)):
        small.clear()
        small.part(part)()
        parameters = optimizer.param_groups[0]["params"]
        assert all(
            parameter.grad is not None and optimizer.state[parameter] for parameter in parameters
        ), part
    for net, weights in zip(small.nets, before):
        assert all(map(torch.equal, net.parameters(), weights))


def test_peak_memory_counts_what_a_run_holds_at_once():
    there, megabyte = [torch.zeros(2**20)], 2**18  # float32 values

    def run():
        there.clear()  # freed, but not allocated in here: no credit
        a = torch.ones(3 * megabyte)
        b = torch.ones(2 * megabyte)
        del a
        c = torch.ones(2 * megabyte)
        return b, c

    assert measure.peak_memory(run, CPU) / 2**20 == pytest.approx(5, abs=0.01)
