"""What the tests of the targets share: the networks they test, and values that a forgotten layer would change."""

import torch

from models import ARCHITECTURES, build

ARCHS = list(ARCHITECTURES)
POOLED = [arch for arch in ARCHS if not arch.startswith("baseline-h")]  # take any image size
SMALL = ["resnet18", "resnet50", "wrn28-10", "vgg16"]  # every class and both kinds of ResNet block


def shaken(net):
    """The network with batch-norm statistics and weights that are not 0 and 1, so that a forgotten one would show."""
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, std=0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 2)
            torch.nn.init.normal_(module.bias, std=0.2)
    return net


def full_size(arch, **options):
    with torch.device("meta"):  # shapes alone: no memory, no time
        return build(arch, **options)


def images(n=2, size=16, **options):
    return torch.rand(n, 3, size, size, **options)


VGG_CONVOLUTIONS = {  # indices into `features`, stage by stage
    "vgg16": [(0, 3), (7, 10), (14, 17, 20), (24, 27, 30), (34, 37, 40)],
    "vgg19": [(0, 3), (7, 10), (14, 17, 20, 23), (27, 30, 33, 36), (40, 43, 46, 49)],
}
