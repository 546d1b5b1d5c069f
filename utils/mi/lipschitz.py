"""Bound the Lipschitz constant of an encoder from above and below.

Above: the product of the layers' spectral norms; ReLU, pooling and softplus have slope 1 at most.
Below: the largest spectral norm of the Jacobian at given images. Both in the Euclidean norm.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

ITERATIONS = 1000
TOLERANCE = 1e-10  # relative change of the norm at which the power iteration ends


def power_iteration(
    forward: Callable, backward: Callable, start: torch.Tensor, batched: bool = False
) -> torch.Tensor:
    """Compute the largest singular value of a linear map.

    Args:
        forward, backward: the map and its transpose.
        start: the first vector, of the input's shape; with `batched` one for each of (N, ...).

    Returns a scalar, or (N,). It approaches the largest singular value from below.
    """

    def norms(v):
        flat = v.flatten(1) if batched else v.reshape(1, -1)
        return flat.norm(dim=1).clamp_min(torch.finfo(v.dtype).tiny)

    def unit(v):
        return v / norms(v).reshape(-1, *[1] * (v.ndim - 1)) if batched else v / norms(v)

    v, before = unit(start), None
    for _ in range(ITERATIONS):
        image = forward(v)
        now = norms(image)
        if before is not None and ((now - before).abs() <= TOLERANCE * now).all():
            break
        v, before = unit(backward(image)), now
    return now if batched else now[0]


def _start(shape, like: torch.Tensor) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(like.device)


@torch.no_grad()
def spectral_norm(layer: nn.Linear | nn.Conv2d, input_shape: torch.Size | tuple) -> float:
    """Compute the largest singular value of a layer's linear map, in float64.

    input_shape: of one input, without the batch: (features,) or (C,H,W). A convolution is taken on
    the map of that size, zero padding included.
    """
    weight = layer.weight.double()
    if isinstance(layer, nn.Linear):
        return torch.linalg.matrix_norm(weight, 2).item()

    def forward(v):
        return F.conv2d(v, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)

    start = _start((1, *input_shape), weight)
    with torch.enable_grad():
        leaf = start.clone().requires_grad_(True)
        output = forward(leaf)

    def backward(u):
        return torch.autograd.grad(output, leaf, u, retain_graph=True)[0]

    return power_iteration(forward, backward, start).item()


def lipschitz_product(net: nn.Module, run: Callable, prefix: float = 1.0) -> float:
    """Compute `prefix` times the product of the spectral norms of a network's layers.

    Args:
        net: a chain of linear layers, convolutions and maps of slope 1 at most.
        run: run() passes one input through it, which tells the sizes of the feature maps.
        prefix: the slope of what precedes the first layer.
    """
    shapes, hooks = {}, []
    layers = [layer for layer in net.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    for layer in layers:
        hooks.append(
            layer.register_forward_hook(
                lambda layer, inputs, _: shapes.update({layer: inputs[0].shape[1:]})
            )
        )
    try:
        with torch.no_grad():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    product = prefix
    for layer in layers:
        product *= spectral_norm(layer, shapes[layer])
    return product


def largest_slope(function: Callable, x: torch.Tensor) -> float:
    """Compute max_i ||J(x_i)||_2, the largest spectral norm of the Jacobian over inputs (N, ...).

    function: (N, ...) -> (N,K), of each input by itself. A lower bound of its Lipschitz constant.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        output = function(x)
        dual = torch.zeros_like(output, requires_grad=True)
        (pulled,) = torch.autograd.grad(output, x, dual, create_graph=True)  # J'u, linear in u

    def forward(v):
        return torch.autograd.grad(pulled, dual, v, retain_graph=True)[0]

    def backward(u):
        return torch.autograd.grad(output, x, u, retain_graph=True)[0]

    start = _start(x.shape, x).to(x.dtype)
    return power_iteration(forward, backward, start, batched=True).max().item()


def wasserstein2(mu, sigma, mu_other, sigma_other) -> torch.Tensor:
    """Compute the 2-Wasserstein distance of Gaussians with diagonal covariance, (N,)."""
    squares = (mu - mu_other).square().sum(1) + (sigma - sigma_other).square().sum(1)
    return squares.sqrt()
