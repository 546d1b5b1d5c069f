"""Networks as other projects define them, written from their descriptions, for files in their
layouts."""

import torch
import torch.nn.functional as F
from torch import nn

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)


def conv(n_in, n_out, kernel=3, stride=1, padding=0):
    return nn.Conv2d(n_in, n_out, kernel, stride, padding, bias=False)


class PreActBlock(nn.Module):
    """AWP, Rice et al.: the shortcut sees the activated input; Fast AT (`raw`): the input."""

    def __init__(self, n_in, n_out, stride, raw):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(n_in), conv(n_in, n_out, 3, stride, 1)
        self.bn2, self.conv2 = nn.BatchNorm2d(n_out), conv(n_out, n_out, 3, 1, 1)
        self.raw = raw
        if stride != 1 or n_in != n_out:
            self.shortcut = nn.Sequential(conv(n_in, n_out, 1, stride))

    def forward(self, x):
        out = F.relu(self.bn1(x))
        shortcut = self.shortcut(x if self.raw else out) if hasattr(self, "shortcut") else x
        return self.conv2(F.relu(self.bn2(self.conv1(out)))) + shortcut


class PreActResNet18(nn.Module):
    def __init__(self, width=4, classes=10, bn=True, raw=False):
        super().__init__()
        self.conv1, sizes = conv(3, width, 3, 1, 1), [width, width, 2 * width, 4 * width, 8 * width]
        for i in range(1, 5):
            first = PreActBlock(sizes[i - 1], sizes[i], 1 if i == 1 else 2, raw)
            setattr(self, f"layer{i}", nn.Sequential(first, PreActBlock(*[sizes[i]] * 2, 1, raw)))
        if bn:
            self.bn = nn.BatchNorm2d(sizes[4])
        self.linear = nn.Linear(sizes[4], classes)

    def forward(self, x):
        out = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x)))))
        out = F.relu(self.bn(out)) if hasattr(self, "bn") else out
        return self.linear(F.avg_pool2d(out, out.shape[-1]).flatten(1))


def same(x, stride):
    """TensorFlow's padding, by which the networks of DeepMind were trained."""
    return F.pad(x, (1, 1, 1, 1) if stride == 1 else (0, 1, 0, 1))


class DMBlock(nn.Module):
    def __init__(self, n_in, n_out, stride):
        super().__init__()
        self.batchnorm_0, self.relu_0 = nn.BatchNorm2d(n_in), nn.SiLU()
        self.conv_0 = conv(n_in, n_out, 3, stride)
        self.batchnorm_1, self.relu_1 = nn.BatchNorm2d(n_out), nn.SiLU()
        self.conv_1 = conv(n_out, n_out, 3, 1, 1)
        self.shortcut = conv(n_in, n_out, 1, stride) if n_in != n_out else None
        self.stride = stride

    def forward(self, x):
        active = self.relu_0(self.batchnorm_0(x))
        out = self.conv_1(self.relu_1(self.batchnorm_1(self.conv_0(same(active, self.stride)))))
        return out + (x if self.shortcut is None else self.shortcut(active))


class DMGroup(nn.Module):
    def __init__(self, number, n_in, n_out, stride):
        super().__init__()
        sizes = [(n_in, n_out, stride)] + [(n_out, n_out, 1)] * (number - 1)
        self.block = nn.Sequential(*(DMBlock(*each) for each in sizes))

    def forward(self, x):
        return self.block(x)


class DMWideResNet(nn.Module):
    """With its mean and standard deviation as buffers, as RobustBench has it, or without."""

    def __init__(self, depth=28, width=4, classes=10, buffers=True):
        super().__init__()
        for name, values in (("mean", MEAN), ("std", STD)):
            tensor = torch.tensor(values).view(3, 1, 1)
            self.register_buffer(name, tensor, persistent=buffers)
        self.init_conv, n = conv(3, 16, 3, 1, 1), (depth - 4) // 6
        self.layer = nn.Sequential(
            DMGroup(n, 16, width, 1),
            DMGroup(n, width, 2 * width, 2),
            DMGroup(n, 2 * width, 4 * width, 2),
        )
        self.batchnorm, self.relu = nn.BatchNorm2d(4 * width), nn.SiLU()
        self.logits = nn.Linear(4 * width, classes)

    def forward(self, x):
        out = self.layer(self.init_conv((x - self.mean) / self.std))
        out = self.relu(self.batchnorm(out))
        return self.logits(F.avg_pool2d(out, out.shape[-1]).flatten(1))


class DMPreActBlock(nn.Module):
    def __init__(self, n_in, n_out, stride):
        super().__init__()
        self.batchnorm_0, self.conv_2d_1 = nn.BatchNorm2d(n_in), conv(n_in, n_out, 3, stride)
        self.batchnorm_1, self.conv_2d_2 = nn.BatchNorm2d(n_out), conv(n_out, n_out, 3, 1, 1)
        self.stride = stride
        if stride != 1 or n_in != n_out:
            self.shortcut = conv(n_in, n_out, 3, stride)

    def forward(self, x):
        out = F.silu(self.batchnorm_0(x))
        shortcut = self.shortcut(same(x, self.stride)) if hasattr(self, "shortcut") else x
        out = self.conv_2d_1(same(out, self.stride))
        return self.conv_2d_2(F.silu(self.batchnorm_1(out))) + shortcut


class DMPreActResNet(nn.Module):
    def __init__(self, width=4, classes=10):
        super().__init__()
        self.conv_2d, sizes = (
            conv(3, width, 3, 1, 1),
            [width, width, 2 * width, 4 * width, 8 * width],
        )
        for i in range(4):
            first = DMPreActBlock(sizes[i], sizes[i + 1], 2 if i else 1)
            second = DMPreActBlock(sizes[i + 1], sizes[i + 1], 1)
            setattr(self, f"layer_{i}", nn.Sequential(first, second))
        self.batchnorm, self.logits = nn.BatchNorm2d(sizes[4]), nn.Linear(sizes[4], classes)

    def forward(self, x):
        out = (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
        out = self.layer_3(self.layer_2(self.layer_1(self.layer_0(self.conv_2d(out)))))
        out = F.silu(self.batchnorm(out))
        return self.logits(F.avg_pool2d(out, out.shape[-1]).flatten(1))


class RobModel(nn.Module):
    """MAIR's wrapper: the loader normalises, or, after `add_normalize`, a layer does."""

    def __init__(self, model, inside):
        super().__init__()
        self.register_buffer("n_classes", torch.tensor(10))
        if inside:
            normalize = nn.Module()
            normalize.register_buffer("mean", torch.tensor(MEAN))
            normalize.register_buffer("std", torch.tensor(STD))
            self.model = nn.Sequential(normalize, model)
        else:
            self.register_buffer("mean", torch.tensor(MEAN))
            self.register_buffer("std", torch.tensor(STD))
            self.model = model
