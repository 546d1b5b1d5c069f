"""Worst-case mutual information in two processes against one: the attack and a step, in float64."""

import pytest
import torch
from conftest import measured_in_processes

import models
import train_classifier
import train_worst_case_MI
from models.encoder import Encoder
from utils import distributed
from utils.attacks.mutual_information import lower_mi
from utils.mi.critic import build_critic

IMAGES = 7  # three in one process, four in the other
FORMS = (("average", "all"), ("location", "others"))


def part(x):
    rank, count = distributed.rank(), distributed.count()
    return x[rank * len(x) // count : (rank + 1) * len(x) // count]


def networks(form: str, pairs: str):
    """An encoder and a critic whose batch-norm statistics are not 0 and 1, and all images."""
    torch.manual_seed(0)
    encoder = Encoder(4, (16, 16)).double()
    critic = build_critic("code", 64, 16, form=form, pairs=pairs).double()
    x = torch.rand(IMAGES, 3, 16, 16, dtype=torch.float64)
    with torch.no_grad(), distributed.alone():
        critic.train()(x, encoder.train()(x))
    return distributed.synchronised(encoder), distributed.synchronised(critic), x


def gradient(loss, weights) -> torch.Tensor:
    """The mean over processes of the gradient, as Loop.step takes it."""
    gradients = list(torch.autograd.grad(loss, weights))
    distributed.average(gradients)
    return torch.cat([each.flatten() for each in gradients])


def learned(form: str, pairs: str) -> dict[str, torch.Tensor]:
    """The attack on this process's images, J of both kinds, its gradient, the new statistics."""
    encoder, critic, x = networks(form, pairs)
    x = part(x)
    x_adv = lower_mi(encoder, critic, x, "l2", 0.5, 3)
    found = train_worst_case_MI.objective(x, x_adv, encoder, critic, 0.7)
    nets = (encoder, critic)
    weights = [weight for net in nets for weight in net.parameters()]
    slope = gradient(-found["objective"], weights)
    statistics = [buffer.double().flatten() for net in nets for buffer in net.buffers()]
    return {
        "x_adv": distributed.gather(x_adv),
        **{name: value.detach() for name, value in found.items()},
        "gradient": slope,
        "statistics": torch.cat(statistics),
    }


def classified() -> dict[str, torch.Tensor]:
    """The loss of the classifier on this process's images, its gradient, the new statistics."""
    torch.manual_seed(1)
    target = distributed.synchronised(models.build("baseline-h", width=4, size=(16, 16)).double())
    target.encoder.eval()
    x, y = torch.rand(IMAGES, 3, 16, 16, dtype=torch.float64), torch.arange(IMAGES)
    loss = train_classifier.classifier_loss(part(x), part(y), target)
    slope = gradient(loss, list(target.classifier.parameters()))
    statistics = [buffer.double().flatten() for buffer in target.classifier.buffers()]
    return {"loss": loss.detach(), "gradient": slope, "statistics": torch.cat(statistics)}


def everything() -> dict:
    return {form: learned(form, pairs) for form, pairs in FORMS} | {"classifier": classified()}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """`everything`, in each of two processes."""
    return measured_in_processes(2, everything, tmp_path_factory.mktemp("processes"))


@pytest.mark.parametrize("case", [*(form for form, _ in FORMS), "classifier"])
def test_a_step_of_two_processes_is_that_of_one(case, found):
    expected = everything()[case]
    assert expected["gradient"].abs().max() > 1e-3
    for each in found:
        assert each[case].keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(each[case][name], value, rtol=1e-8, atol=1e-8, msg=name)


def test_a_batch_of_its_own_is_another_attack(found):
    """Each half attacked by itself: the objective compares other images."""
    encoder, critic, x = networks(*FORMS[0])
    halves = [lower_mi(encoder, critic, half, "l2", 0.5, 3) for half in (x[:3], x[3:])]
    assert not torch.allclose(torch.cat(halves), found[0]["average"]["x_adv"])
