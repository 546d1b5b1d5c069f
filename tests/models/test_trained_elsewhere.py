"""Networks that were trained with another project's classes are right here on the images on which
they are right there."""

import pytest
import torch
import torch.nn.functional as F
from conftest import results, succeed
from other_projects import MEAN, STD, PreActResNet18, RobModel

import data

DIGITS = data.load("digits")


def normalised(images: torch.Tensor) -> torch.Tensor:
    shape = (3, 1, 1)
    return (images.float() / 255 - torch.tensor(MEAN).view(shape)) / torch.tensor(STD).view(shape)


def trained(net: torch.nn.Module) -> torch.nn.Module:
    """Train on normalised digits, in the other project's way of seeing images."""
    optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        index = torch.randint(len(DIGITS.train_labels), (64,), generator=generator)
        loss = F.cross_entropy(
            net(normalised(DIGITS.train_images[index])), DIGITS.train_labels[index]
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()


def mair():
    torch.manual_seed(0)
    net = trained(PreActResNet18(width=6, bn=False))
    return net, {"rmodel": RobModel(torch.nn.DataParallel(net), True).state_dict()}


def robustbench():
    torch.manual_seed(1)
    net = trained(PreActResNet18(width=6))
    return net, {f"module.model.{name}": value for name, value in net.state_dict().items()}


@pytest.mark.parametrize("make, words", [(mair, []), (robustbench, ["--normalize", "cifar10"])])
def test_each_image_is_judged_as_by_their_code(make, words, tmp_path):
    theirs, content = make()
    torch.save(content, tmp_path / "theirs.pth")
    with torch.no_grad():
        right = theirs(normalised(DIGITS.test_images)).argmax(1) == DIGITS.test_labels
    assert 0.6 < right.double().mean() < 1
    options = ["--model", tmp_path / "theirs.pth", "--arch", "preactresnet18", *words]
    options += ["--dataset", "digits", "--attacks", "none", "--epsilon", 0.1]
    succeed("test_comparison.py", *options, "--output", tmp_path / "results.json")
    (row,) = results(tmp_path / "results.json")["attacks"].values()
    assert row["outcomes"] == "".join("r" if each else "w" for each in right)
