"""Several processes against one: one step of each stage in float64, bounds, batches and noise."""

import weakref

import one_batch
import pytest
import torch
from conftest import measured_in_processes

import models
import train_MIAT
import train_standard
from data.batches import Batches
from models import mi
from utils import distributed
from utils.attacks import projected_gradient
from utils.mi import blocked, bounds, losses
from utils.mi.estimator import MIEstimator
from utils.settings.command_line import parse

IMAGES, UNITS = 7, 8
CASES = [
    "stage 1 natural",
    "stage 1 standard",
    "stage 1 trades",
    "stage 2",
    "stage 3 ce",
    "stage 3 mart",
]
BLOCKS = [2**27, 30]


def measured(case: str) -> dict[str, torch.Tensor]:
    """What a step comes to on this process's part of seven images: the loss, what is logged, and the mean of the gradients."""
    torch.manual_seed(0)
    x = torch.rand(IMAGES, 3, 16, 16, dtype=torch.float64)
    y = torch.randint(10, (IMAGES,))
    target = distributed.synchronised(models.build("resnet18", width=4).double())
    nets = {
        kind: distributed.synchronised(
            MIEstimator(mi.LocalNet(UNITS), mi.GlobalNet(10, UNITS)).double()
        )
        for kind in ("natural", "adversarial")
    }
    with torch.no_grad(), distributed.alone():  # some right, some wrong: no selection is empty
        y[:5] = target.train()(x).argmax(1)[:5]
    attack = ["--num-steps", "3", "--epsilon", "0.3"]
    rank, count = distributed.rank(), distributed.count()
    part = slice(rank * IMAGES // count, (rank + 1) * IMAGES // count)
    x, y = x[part], y[part]
    generator = torch.Generator().manual_seed(3)
    if case.startswith("stage 1"):
        settings = parse(train_standard.Settings, "", ["--defense", case.split()[2], *attack])
        trained = [target.train()]
        loss, logged = one_batch.stage_1(x, y, target, settings, generator), {}
    elif case == "stage 2":
        settings = parse(train_standard.Settings, "", attack)
        trained = [net.train() for net in nets.values()]
        objectives = {"natural": losses.cosine_natural, "adversarial": losses.cosine_adversarial}
        logged = one_batch.stage_2(
            *(x, y, target.eval(), nets, objectives, settings.attack), generator=generator
        )
        loss = sum(logged.values())
    else:
        settings = parse(
            train_MIAT.Settings,
            "",
            ["--warmup-epochs", "0", "--adv-loss", case.split()[2], *attack],
        )
        trained = [target.train()]
        for net in nets.values():
            net.eval().requires_grad_(False)
        loss, logged, *_ = one_batch.stage_3(x, y, target, nets, settings, generator)
    loss.backward()
    weights = [weight for net in trained for weight in net.parameters() if weight.grad is not None]
    distributed.average([weight.grad for weight in weights])
    statistics = [buffer.double() for net in trained for buffer in net.buffers()]
    return {
        "loss": loss.detach(),
        **{name: value.detach() for name, value in logged.items()},
        "gradient": torch.cat([weight.grad.flatten() for weight in weights]),
        "statistics": torch.cat([buffer.flatten() for buffer in statistics]),
    }


def bounds_of(block: int) -> dict[str, torch.Tensor]:
    """Every bound and its gradients, on this process's part of seven samples."""
    generator = torch.Generator().manual_seed(1)
    encodings = [
        torch.randn(IMAGES, 5, size, dtype=torch.float64, generator=generator) for size in (3, 1)
    ]
    rank, count = distributed.rank(), distributed.count()
    part = slice(rank * IMAGES // count, (rank + 1) * IMAGES // count)
    found = {}
    blocked.BLOCK = block
    for bound in bounds.BOUNDS:
        own = [each[part].clone().requires_grad_() for each in encodings]
        values = bounds.per_sample(bound, *own)
        gradients = torch.autograd.grad((values * torch.arange(1.0, IMAGES + 1)).sum() / count, own)
        found[bound] = torch.cat(
            [values.detach(), *(distributed.gather(each).flatten() for each in gradients)]
        )
    return found


class Saved:
    """A tensor that waits for the backward pass, a member of `all_of_them` for as long as it does."""

    def __init__(self, x, all_of_them):
        self.x = x
        all_of_them.add(self)


def frozen_bounds_of(block: int) -> dict[str, torch.Tensor]:
    """Compute every bound and its gradient in two outputs for each pattern, which takes none, as stage 3 does; and count the
    numbers that wait for the backward pass in this process."""
    generator = torch.Generator().manual_seed(2)
    local = torch.randn(IMAGES, 2, 50, dtype=torch.float64, generator=generator)
    outputs = torch.randn(2, IMAGES, 2, dtype=torch.float64, generator=generator)
    rank, count = distributed.rank(), distributed.count()
    part = slice(rank * IMAGES // count, (rank + 1) * IMAGES // count)
    weights = torch.arange(1.0, 2 * IMAGES + 1) * (1 + rank)  # a loss of its own in each process
    if count == 1:
        weights = weights * (1 + 2) / 2  # the mean of the losses of two
    found, kept = {}, 0
    blocked.BLOCK = block
    for bound in bounds.BOUNDS:
        own = outputs[:, part].clone().requires_grad_()
        saved = weakref.WeakSet()
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x, saved=saved: Saved(x, saved), lambda item: item.x
        ):
            values = bounds.per_sample(bound, local[part], own.flatten(0, 1).unsqueeze(2))
        kept = max(kept, sum(item.x.numel() for item in saved))
        (gradient,) = torch.autograd.grad((values * weights).sum() / count, own)
        found[bound] = torch.cat(
            [values.detach(), distributed.gather(gradient.transpose(0, 1).contiguous()).flatten()]
        )
    return found | {"kept": torch.tensor(kept)}


def everything() -> dict:
    """What the tests below compare between two processes and one."""
    return {
        "steps": {case: measured(case) for case in CASES},
        "bounds": {block: bounds_of(block) for block in BLOCKS},
        "frozen": {block: frozen_bounds_of(block) for block in BLOCKS},
        "noise": noise(),
        "alone": alone_attack(),
    }


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> list[dict]:
    """`everything`, in each of two processes."""
    return measured_in_processes(2, everything, tmp_path_factory.mktemp("processes"))


def same(found: dict, expected: dict, tolerance=1e-9) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name],
            value,
            rtol=tolerance,
            atol=tolerance,
            msg=lambda text, name=name: f"{name}: {text}",
        )


@pytest.mark.parametrize("case", CASES)
def test_a_step_of_two_processes_is_that_of_one(case, found):
    """Loss, record, gradients and batch-norm statistics: seven images by three and four, in float64."""
    expected = measured(case)
    for each in found:
        same(each["steps"][case], expected)
    assert expected["gradient"].abs().max() > 1e-3
    if case.startswith("stage 3"):
        assert 0 < expected["selected"] < 1 and expected["mi_loss"] > 0


@pytest.mark.parametrize("block", BLOCKS)
def test_processes_keep_no_scores_of_frozen_patterns(block, found, monkeypatch):
    """Two outputs for each of seven patterns at 50 locations: 2,100 scores in one process and 2,800 in the other. What waits for
    the backward pass is a gradient for each output, 28 numbers; values and gradients are those of one process."""
    monkeypatch.setattr(blocked, "BLOCK", 2**27)
    expected = frozen_bounds_of(block)
    for each in found:
        kept = each["frozen"][block].pop("kept")
        assert kept <= 2 * IMAGES * 2, f"{kept} numbers wait for the backward pass"
        same(
            each["frozen"][block],
            {name: value for name, value in expected.items() if name != "kept"},
        )


@pytest.mark.parametrize("block", BLOCKS)
def test_bounds_see_the_negatives_of_all_processes(block, found, monkeypatch):
    monkeypatch.setattr(blocked, "BLOCK", 2**27)
    expected = bounds_of(2**27)
    for each in found:
        same(each["bounds"][block], expected)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_parts_of_a_batch_are_the_batch(count):
    images = torch.randint(
        256, (33, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    labels = torch.arange(33)
    options = {"batch_size": 10, "padding": 2, "flip": True}
    whole = list(Batches(images, labels, **options).epoch(1, 2))
    shared = [
        list(Batches(images, labels, **options, share=(rank, count)).epoch(1, 2))
        for rank in range(count)
    ]
    if count == 5:  # the last three images are fewer than five processes
        whole.pop()
    assert {len(parts) for parts in shared} == {len(whole)}
    for batch, parts in zip(whole, zip(*shared)):
        assert torch.equal(torch.cat([x for x, _ in parts]), batch[0]) and torch.equal(
            torch.cat([y for _, y in parts]), batch[1]
        )
        assert max(len(y) for _, y in parts) - min(len(y) for _, y in parts) <= 1


def test_the_noise_of_all_processes_is_that_of_one(found):
    assert torch.equal(torch.cat([each["noise"] for each in found]), noise())


def noise():
    rank, count = distributed.rank(), distributed.count()
    mine = (rank + 1) * 5 // count - rank * 5 // count
    return distributed.normal(torch.zeros(mine, 2), torch.Generator().manual_seed(4))


def test_attacks_alone_do_not_wait_for_others(found):
    """Inside `distributed.alone`, as in evaluation, each process attacks another number of images."""
    assert [len(each["alone"]) for each in found] == [2, 3]


def alone_attack():
    torch.manual_seed(0)
    target, n = models.build("resnet18", width=4), 2 + distributed.rank()
    with distributed.alone():
        return projected_gradient.pgd(
            target, torch.rand(n, 3, 16, 16), torch.zeros(n, dtype=torch.long), steps=1
        )
