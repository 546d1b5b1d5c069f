"""Measure what the representation of a bottleneck network keeps of images and labels."""

import math

import torch

from data.batches import in_order
from models.bottleneck import Bottleneck
from utils.attacks.projected_gradient import frozen
from utils.devices import Compute
from utils.mi import bottleneck
from utils.training.bottleneck_losses import ce

BIT = math.log(2)  # nats


@torch.no_grad()
def encode(
    net: Bottleneck, images: torch.Tensor, batch_size: int, compute: Compute
) -> tuple[torch.Tensor, torch.Tensor]:
    """Encode images, uint8 (N,3,H,W), in float32: mu and sigma of p(t|x), each (N,K)."""
    labels = torch.zeros(len(images), dtype=torch.int64)
    with frozen(net), compute.eager():
        parts = [net.encode(x) for x, _ in in_order(images, labels, batch_size, compute.device)]
    mu, sigma = zip(*parts)
    return torch.cat(mu), torch.cat(sigma)


@torch.no_grad()
def information(
    net: Bottleneck,
    mu: torch.Tensor,
    sigma: torch.Tensor,
    labels: torch.Tensor,
    generator: torch.Generator,
) -> dict[str, float]:
    """Compute the rate, and the lower bound H(Y) - CE of I(Y;T), in bits.

    The cross-entropy is that of the decoder at one draw of t for each image.
    """
    noise = torch.randn(mu.shape, generator=generator, device=mu.device, dtype=mu.dtype)
    labels = labels.to(mu.device)
    logits = net.decoder(mu + sigma * noise)
    classes = net.options["num_classes"]
    found = {
        "rate_bits": bottleneck.rate(mu, sigma).mean().item() / BIT,
        "label_bits": bottleneck.label_information(labels, ce(logits, labels).item(), classes)
        / BIT,
    }
    if net.noise == "none":
        del found["rate_bits"]  # infinite
    return found
