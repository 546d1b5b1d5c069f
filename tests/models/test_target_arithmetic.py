"""Targets against hand-written arithmetic: blocks, whole networks, a subsampled convolution."""

import pytest
import torch
import torch.nn.functional as F
from conftest import forked
from target_parts import VGG_CONVOLUTIONS, images, shaken

from models import build
from models.resnet import BasicBlock, Bottleneck, SubsampledConv1x1
from models.wideresnet import Unit


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def conv(x, weight, stride=1, bias=None):
    """Cross-correlation as a matrix product over unfolded patches, zero padding that keeps the size at stride 1."""
    n_out, _, k, _ = weight.shape
    side = (x.shape[-1] - 1) // stride + 1
    patches = F.unfold(x, k, padding=k // 2, stride=stride)
    out = torch.einsum("op,npl->nol", weight.flatten(1), patches)
    return (out if bias is None else out + bias[:, None]).reshape(len(x), n_out, side, side)


def norm(x, bn):
    mean, var = bn.running_mean, bn.running_var
    if bn.training:
        mean, var = x.mean((0, 2, 3)), ((x - x.mean((0, 2, 3), keepdim=True)) ** 2).mean((0, 2, 3))
    scale = bn.weight / torch.sqrt(var + 1e-5)
    return (x - mean[:, None, None]) * scale[:, None, None] + bn.bias[:, None, None]


def relu(x):
    return x.clamp(min=0)


def basic(block, x, stride):
    out = relu(norm(conv(x, block.conv1.weight, stride), block.bn1))
    out = norm(conv(out, block.conv2.weight), block.bn2)
    if len(block.shortcut):
        x = norm(conv(x, block.shortcut[0].weight, stride), block.shortcut[1])
    return relu(out + x)


def bottleneck(block, x, stride):
    out = relu(norm(conv(x, block.conv1.weight), block.bn1))
    out = relu(norm(conv(out, block.conv2.weight, stride), block.bn2))
    out = norm(conv(out, block.conv3.weight), block.bn3)
    if len(block.shortcut):
        x = norm(conv(x, block.shortcut[0].weight, stride), block.shortcut[1])
    return relu(out + x)


def wide(unit, x, stride):
    active = relu(norm(x, unit.bn1))
    out = conv(relu(norm(conv(active, unit.conv1.weight, stride), unit.bn2)), unit.conv2.weight)
    return out + (
        x if unit.convShortcut is None else conv(active, unit.convShortcut.weight, stride)
    )


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(
    "kind, by_hand, n_in, channels, stride, projected",
    [
        (BasicBlock, basic, 4, 4, 1, False),
        (BasicBlock, basic, 4, 6, 2, True),
        (BasicBlock, basic, 4, 4, 2, True),
        (Bottleneck, bottleneck, 8, 2, 1, False),
        (Bottleneck, bottleneck, 4, 2, 1, True),
        (Bottleneck, bottleneck, 8, 3, 2, True),
        (Unit, wide, 4, 4, 1, False),
        (Unit, wide, 3, 4, 1, True),
        (Unit, wide, 4, 6, 2, True),
    ],
)
def test_blocks_by_hand(kind, by_hand, n_in, channels, stride, projected, train):
    block = shaken(kind(n_in, channels, stride)).double().train(train)
    shortcut = block.convShortcut is not None if kind is Unit else len(block.shortcut) > 0
    assert shortcut == projected
    x = torch.randn(3, n_in, 7, 7, dtype=torch.float64)
    expected = by_hand(block, x, stride)
    torch.testing.assert_close(block(x), expected, rtol=1e-12, atol=1e-12)


def test_resnet_by_hand():
    net = shaken(build("resnet18", width=2)).double().eval()
    x = images(dtype=torch.float64)
    out = relu(norm(conv(x, net.conv1.weight), net.bn1))
    for stage, layer in enumerate((net.layer1, net.layer2, net.layer3, net.layer4)):
        for i, block in enumerate(layer):
            out = basic(block, out, 2 if stage and not i else 1)
    expected = out.sum((2, 3)) / 4 @ net.linear.weight.T + net.linear.bias
    torch.testing.assert_close(net(x), expected, rtol=1e-12, atol=1e-12)


def test_wideresnet_by_hand():
    net = shaken(build("wrn28-10", width=2)).double().eval()
    x = images(dtype=torch.float64)
    out = conv(x, net.conv1.weight)
    for group, block in enumerate((net.block1, net.block2, net.block3)):
        for i, unit in enumerate(block.layer):
            out = wide(unit, out, 2 if group and not i else 1)
    expected = relu(norm(out, net.bn1)).sum((2, 3)) / 16 @ net.fc.weight.T + net.fc.bias
    torch.testing.assert_close(net(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [16, 28, 32])
def test_vgg_by_hand(size):
    net = shaken(build("vgg16", width=2)).double().eval()
    x = images(size=size, dtype=torch.float64)
    out = x
    for stage in VGG_CONVOLUTIONS["vgg16"]:
        for i in stage:
            layer = net.features[i]
            out = relu(norm(conv(out, layer.weight, bias=layer.bias), net.features[i + 1]))
        odd = out.shape[-1] % 2
        out = F.pad(
            out, (0, odd, 0, odd), value=-torch.inf
        )  # 32x32 images never come to an odd side
        out = out.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).amax((3, 5))
    expected = out[:, :, 0, 0] @ net.linear.weight.T + net.linear.bias
    torch.testing.assert_close(net(x), expected, rtol=1e-12, atol=1e-12)


def narrow(width):
    net = build("resnet18", width=width).to(memory_format=torch.channels_last)
    for _ in range(10):
        x = torch.rand(16, 3, 16, 16).contiguous(memory_format=torch.channels_last)
        net(x).square().sum().backward()


@pytest.mark.parametrize("width", [2, 4, 7])
def test_a_narrow_network_in_channels_last_survives_its_backward_pass(width):
    """In a process of its own, which a strided 1x1 convolution of so few channels kills on some processors."""
    process = forked(narrow, width)
    process.join()
    assert process.exitcode == 0


def test_a_subsampled_convolution_is_the_strided_one():
    conv = SubsampledConv1x1(4, 6, 1, 2, bias=False).double()
    for side in (7, 8):
        x = torch.randn(3, 4, side, side, dtype=torch.float64)
        torch.testing.assert_close(conv(x), F.conv2d(x, conv.weight, stride=2))


@pytest.mark.parametrize("size", [16, 32])
def test_sperl_cnn_by_hand(size):
    net = build("sperl-cnn", width=8).double().eval()
    x = images(size=size, dtype=torch.float64)
    out = x
    for pair in (net.conv1, net.conv2):
        for i in (0, 2):
            out = relu(conv(out, pair[i].weight, bias=pair[i].bias))
        out = out.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).amax((3, 5))
    out = out.repeat_interleave(32 // size, 2).repeat_interleave(32 // size, 3).flatten(1)
    for i in (0, 2, 4, 6, 8):
        out = relu(out @ net.dense[i].weight.T + net.dense[i].bias)
    assert [net.dense[i].out_features for i in (0, 2, 4, 6, 8)] == [128, 64, 32, 32, 21]
    expected = out @ net.linear.weight.T + net.linear.bias
    torch.testing.assert_close(net(x), expected, rtol=1e-12, atol=1e-12)
