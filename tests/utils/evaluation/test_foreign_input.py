"""Networks and files of others that resemble ours in one point are told apart in one line."""

import numpy
import pytest
import torch

from common.errors import InputError
from data.names import DATASETS
from data.sets import DataSet
from models import build
from models.mi import GlobalNet
from utils.evaluation.images import read_adversarial
from utils.evaluation.networks import Network

LABELS = torch.tensor([0, 1, 2])
IMAGES = torch.zeros(3, 3, 16, 16, dtype=torch.uint8)


def dataset() -> DataSet:
    classes = DATASETS["digits"].num_classes
    return DataSet("digits", classes, IMAGES, LABELS, IMAGES, LABELS, padding=1, flip=False)


@pytest.mark.parametrize("options", [{"depth": 3}, None, ("a", "b")])
def test_options_of_another_kind_do_not_name_the_classes(options):
    network = torch.nn.Linear(2, 2)
    network.options = options
    Network(network, "mine:network", {}, "mine:network").check(dataset())
    Network(GlobalNet(10, 8), "mine:network", {}, "mine:network").check(dataset())


def test_a_target_of_ours_with_other_classes_is_refused():
    network = Network(build("resnet18", 2, width=4), "mine:two", {}, "mine:two")
    with pytest.raises(InputError, match="--factory mine:two: has 2 classes, but digits has 10"):
        network.check(dataset())


@pytest.mark.parametrize("labels", [numpy.array(3), LABELS.numpy()[:2], LABELS.numpy()[::-1]])
def test_adversarial_images_with_other_labels_are_refused(labels, tmp_path):
    path = tmp_path / "adv.npz"
    numpy.savez(path, labels=labels, fgsm=IMAGES.numpy())
    with pytest.raises(InputError, match="was made from other images"):
        read_adversarial(path, IMAGES, LABELS)
    numpy.savez(path, labels=LABELS.numpy(), fgsm=IMAGES.numpy())
    assert list(read_adversarial(path, IMAGES, LABELS)) == ["fgsm"]
