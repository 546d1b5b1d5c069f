"""Read the activations of every hidden layer of any network in one forward pass.

A hidden layer is the output of a nonlinearity, whether a module (`nn.ReLU`) or a call (`F.relu`)
computes it. Its name is the path of the module that calls it: "dense.1", or "layer1.0" and
"layer1.0#2" for the two ReLUs of a residual block; "net" for a call of the network itself.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from common.errors import InputError

NONLINEARITIES = (
    *("relu", "relu6", "leaky_relu", "prelu", "rrelu", "elu", "selu", "celu", "gelu", "silu"),
    *("mish", "hardtanh", "hardswish", "hardsigmoid", "softplus", "softsign", "tanh", "sigmoid"),
)
ROOT = "net"  # the name of a nonlinearity that the network itself calls


@dataclass
class Pass:
    """Hold what one forward pass computed.

    output: what the network returned. layers: {name: activations (N,d), averaged over space where
    they are maps}, in the order of the pass. dense: the names of those that are not maps.
    """

    output: torch.Tensor | None = None
    layers: dict[str, torch.Tensor] = field(default_factory=dict)
    dense: list[str] = field(default_factory=list)


def tapped(model: nn.Module, x: torch.Tensor) -> Pass:
    """Run `model` on x once and return its output and the activations of every hidden layer.

    Maps (N,C,H,W) are averaged over H and W, tokens (N,T,d) over T. The gradient reaches the
    network. No hook stays behind, and the network's mode is the caller's. A network that
    torch.compile compiled must run eagerly. Raises InputError where the network has no hidden
    layer of a kind in NONLINEARITIES, or one that has not a row for each image (a network that
    predicts from several draws).
    """
    found = Pass()
    with _names(model) as running, _Taps(found, running):
        found.output = model(x)
    if not found.layers:
        raise InputError(
            f"the network {type(model).__name__}: no hidden layer was seen; its nonlinearities "
            f"must be functions or modules of PyTorch: {', '.join(NONLINEARITIES)}"
        )
    for name, a in found.layers.items():
        if len(a) != len(x):
            raise InputError(
                f"the network {type(model).__name__}: its layer {name} has {len(a)} rows for "
                f"{len(x)} images; give a network without draws"
            )
    return found


def select(found: Pass, layers: str | None) -> list[str]:
    """Choose hidden layers by the value of --layers, in the order of the pass.

    layers: "dense", "all", "stages" (the last hidden layer of each child module of the network), or
    names between commas; None: the dense ones, or the stages where there are none.
    """
    names = list(found.layers)
    stages = list({name.split("#")[0].split(".")[0]: name for name in names}.values())
    if layers is None:
        return found.dense or stages
    if layers == "dense" and not found.dense:
        raise InputError("--layers dense: the network has no dense hidden layer; give stages")
    groups = {"dense": found.dense, "all": names, "stages": stages}
    chosen = groups.get(layers) or layers.split(",")
    unknown = [name for name in chosen if name not in names]
    if unknown:
        raise InputError(
            f"--layers {layers}: {unknown[0]!r} is no hidden layer; "
            f"give {', '.join(groups)} or some of {','.join(names)}"
        )
    return [name for name in names if name in chosen]


class _Taps(TorchFunctionMode):
    """Note the output of each call of a nonlinearity under the name of the running module."""

    def __init__(self, found: Pass, running: list[str]):
        super().__init__()
        self.found, self.running = found, running

    def __torch_function__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        if getattr(function, "__name__", "").rstrip("_") in NONLINEARITIES:
            self._note(output)
        return output

    def _note(self, output: torch.Tensor) -> None:
        """Add a hidden layer; the second of a name gets #2."""
        name, layers = self.running[-1], self.found.layers
        number = 1 + sum(known.split("#")[0] == name for known in layers)
        name += f"#{number}" * (number > 1)
        layers[name] = averaged(output)
        if output.ndim == 2:
            self.found.dense.append(name)


def averaged(activations: torch.Tensor) -> torch.Tensor:
    """Average maps (N,C,H,W) over space and tokens (N,T,d) over tokens; (N,d) stays."""
    if activations.ndim == 3:
        return activations.mean(1)
    return activations.flatten(2).mean(2) if activations.ndim > 2 else activations


@contextlib.contextmanager
def _names(model: nn.Module) -> Iterator[list[str]]:
    """Keep the paths of the modules that run, the innermost last, while the block lasts."""
    running, handles = [], []

    def enter(name):
        """Return a hook that notes that the module begins."""
        return lambda *_: running.append(name)

    def leave(*_):
        """Note that the innermost module has ended."""
        running.pop()

    try:
        for name, module in model.named_modules():
            handles.append(module.register_forward_pre_hook(enter(name or ROOT)))
            handles.append(module.register_forward_hook(leave, always_call=True))
        yield running
    finally:
        for handle in handles:
            handle.remove()
