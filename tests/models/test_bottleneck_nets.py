"""Networks with a Gaussian bottleneck: shapes, the scaling of images, predictors, and the way through a file."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

import models
from common.errors import InputError
from models.predictors import Bank, Fresh, Mean

SMALL = {"width": 16, "layers": 2, "bottleneck": 8, "side": 16}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def net(arch="vib-mlp", noisy=3.0, **options):
    """A small network whose sigma is large enough to matter."""
    built = models.build(arch, **SMALL | options)
    with torch.no_grad():
        built.code.bias[built.code.out_features // 2 :] += noisy + 5
    return built.eval()


def images(n=5, side=16):
    return torch.rand(n, 3, side, side)


def test_layers_are_those_of_the_paper():
    full = models.build("vib-mlp")
    linear = [layer for layer in full.modules() if isinstance(layer, torch.nn.Linear)]
    sizes = [(layer.in_features, layer.out_features) for layer in linear]
    assert sizes == [(784, 512), (512, 512), (512, 512), (512, 256), (256, 256), (256, 256), (256, 512), (256, 10)]  # fmt: skip
    assert all(not layer.bias.any() for layer in linear)
    published = models.build("vib-mlp", width=1024, layers=2, narrow=0)  # 784-1024-1024-512
    assert published.code.in_features == 1024 and not len(published.narrow)
    bound = math.sqrt(6 / (784 + 512))  # Xavier's uniform
    assert 0.99 * bound < linear[0].weight.abs().max() <= bound


@pytest.mark.parametrize("arch", ["vib-mlp", "vib-cnn"])
def test_logits_follow_from_mu_sigma_and_the_decoder(arch):
    built, x = net(arch).double(), images().double()
    scaled = 2 * x - 1
    hidden = built.features(scaled).flatten(1) if arch == "vib-cnn" else scaled.mean(1).flatten(1)
    for layer in [*built.wide, *built.narrow]:
        hidden = layer(hidden)
    code = built.code(hidden)
    mu, sigma = code[:, :8], F.softplus(code[:, 8:] - 5)
    assert all(torch.allclose(a, b) for a, b in zip(built.encode(x), (mu, sigma)))
    built.predictor = Mean()
    assert torch.allclose(built(x), built.decoder(mu))
    built.predictor = Bank(samples=3, seed=7)
    eps = torch.randn(3, 1, 8, generator=torch.Generator().manual_seed(7)).double()
    p = torch.stack([built.decoder(mu + sigma * each).softmax(1) for each in eps]).mean(0)
    assert torch.allclose(built(x), p.log())


def test_larger_images_are_cropped_around_the_centre_and_grey():
    built = net()
    large = torch.rand(2, 3, 20, 18)
    assert torch.equal(built.seen(large), large[:, :, 2:18, 1:17].mean(1).flatten(1))
    small = torch.rand(2, 3, 14, 16)
    padded = torch.zeros(2, 16, 16)
    padded[:, 1:15] = small.mean(1)
    assert torch.equal(built.seen(small), padded.flatten(1))


def test_the_mean_of_the_logits_is_the_logits_of_the_mean():
    built, x = net().double(), images().double()
    mu, sigma = built.encode(x)
    eps = torch.randn(50, 1, 8, dtype=torch.float64)
    logits = built.decoder(mu + sigma * torch.cat([eps, -eps]))
    built.predictor = Mean()
    assert torch.allclose(logits.mean(0), built(x))
    assert not torch.allclose(logits[0], built(x), atol=1e-2)


@pytest.mark.parametrize("arch", ["vib-mlp", "vib-cnn"])
def test_bank_gives_the_same_bits_for_any_batch_split(arch):
    side, n = (28, 199) if arch == "vib-mlp" else (8, 70)
    sizes = {"bottleneck": 30, "layers": 2, "width": 60, "side": side}  # no powers of 2
    built, x = models.build(arch, **sizes).eval(), images(n, side)
    with torch.no_grad():
        whole = built(x)
        for size in (1, 7, 33, 64):
            assert torch.equal(torch.cat([built(part) for part in x.split(size)]), whole), size
        order = torch.randperm(n)
        assert torch.equal(built(x[order]), whole[order])


def test_gradients_of_bank_are_the_same_bits_in_any_batch():
    built, x = net(), images(6)

    def gradient(x):
        x = x.clone().requires_grad_()
        return torch.autograd.grad(built(x)[:, 0].sum(), x)[0]

    assert torch.equal(gradient(x), torch.cat([gradient(each[None]) for each in x]))


def test_fresh_draws_at_each_query_and_repeats_from_a_seed():
    built, x = net(), images()
    built.predictor = Fresh(samples=4, seed=3)
    first, second = built(x), built(x)
    assert not torch.equal(first, second)
    built.predictor.restart(3)
    assert torch.equal(built(x), first)
    built.predictor = Fresh(samples=4_000)
    bank = net()
    bank.load_state_dict(built.state_dict())
    bank.predictor = Bank(samples=4_000)
    assert torch.allclose(built(x).exp(), bank(x).exp(), atol=0.05)


def test_without_noise_every_predictor_is_the_same():
    built, x = models.build("vib-mlp", noise="none", **SMALL).eval(), images()
    assert built.code.out_features == 8
    logits = []
    for predictor in (Mean(), Bank(), Fresh()):
        built.predictor = predictor
        logits.append(built(x).log_softmax(1))
    assert all(torch.allclose(each, logits[0], atol=1e-6) for each in logits)


@pytest.mark.parametrize("options", [{"noise": "unit"}, {"decoder": "mlp"}, {"noise": "none"}, {}])
def test_the_way_through_a_file(tmp_path, options):
    built, x = models.build("vib-mlp", **SMALL, **options).eval(), images()
    models.save(built, tmp_path / "net.pth", objective="vib")
    again = models.load(tmp_path / "net.pth")
    assert again.options == built.options and again.about == {"objective": "vib"}
    assert (again.predictor.name, again.predictor.samples, again.predictor.seed) == ("bank", 12, 0)
    assert torch.equal(again(x), built(x))
    assert hasattr(again, "class_means") == (options.get("noise") == "unit")
    copied = copy.deepcopy(again)
    assert torch.equal(copied(x), built(x))


@pytest.mark.parametrize("arch", ["vib-mlp", "vib-cnn", "allcnn"])
def test_taps_belong_to_the_same_pass(arch):
    options = {"width": 8} if arch == "allcnn" else SMALL
    built, x = models.build(arch, **options).eval(), images(3)
    for tap in ("layer3", "layer4"):
        logits, tapped = built(x, tap=tap)
        assert torch.equal(logits, built(x))
        assert tapped.shape[:2] == (3, built.tap_channels[tap]) and tapped.dim() == 4
    if arch != "allcnn":
        mu, _ = built.gaussian(tapped[:, :, 0, 0])
        assert torch.allclose(mu, built.encode(x)[0], atol=1e-6)


def test_allcnn_has_the_published_number_of_weights():
    full = models.build("allcnn")
    assert sum(weight.numel() for weight in full.parameters()) == 1_369_738
    x = images(2, 32).requires_grad_()
    full(x)[0, 3].backward()
    assert x.grad[0].any() and not x.grad[1].any()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"noise": "much"}, "noise of vib-mlp is 'much'; choose one of: learned, unit, none"),
        ({"decoder": "cnn"}, "decoder of vib-mlp is 'cnn'; choose one of: linear, mlp"),
        ({"bottleneck": 0}, "bottleneck of vib-mlp is 0; choose a whole number from 1 up"),
        (
            {"depth": 1},
            "vib-mlp has no option 'depth'; choose from: num_classes, width, layers",
        ),
    ],
)
def test_a_wrong_option_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        models.build("vib-mlp", **options)
