"""Say which architectures a state dict comes nearest to, and what differs."""

from collections.abc import Callable, Mapping

from torch import Tensor

from common.errors import InputError
from common.sketches import sketched
from models.targets import Target

SHOWN = 3  # architectures that a message names


def nearest(
    state: dict[str, Tensor], classes: Mapping[str, type[Target]], build: Callable[..., Target]
) -> str:
    """Name the architectures that a state dict fits, or those that come nearest and what differs.

    classes: {architecture: its class}. build: `models.build`. The widths and the number of classes
    are those of the tensors' shapes.
    """
    found = {arch: _differences(arch, kind, build, state) for arch, kind in classes.items()}
    fitting = [arch for arch, faults in found.items() if not faults]
    if fitting:
        return f"it fits {' and '.join(fitting)}"
    ranked = sorted(found, key=lambda arch: len(found[arch]))[:SHOWN]
    lines = [f"{arch} ({_shortened(found[arch])})" for arch in ranked]
    return f"it fits none; nearest: {', '.join(lines)}"


def _differences(
    arch: str, kind: type[Target], build: Callable[..., Target], state: dict[str, Tensor]
) -> list[str]:
    """Return what keeps a state dict from fitting an architecture, a text for each entry."""
    try:
        state = kind.adapt(state)
        own = sketched(lambda: build(arch, **kind.sizes_of(state))).state_dict()
    except (InputError, RuntimeError, TypeError, ZeroDivisionError) as error:
        return [f"cannot be built: {str(error).splitlines()[0]}"] * len(state)
    names = {name for name in own.keys() | state if not name.endswith("num_batches_tracked")}
    faults = [f"{name} is missing" for name in names - state.keys()]
    faults += [f"{name} is unknown" for name in names - own.keys()]
    for name in names & own.keys() & state.keys():
        shape, right = tuple(state[name].shape), tuple(own[name].shape)
        if shape != right:
            faults.append(f"{name} has shape {shape}, not {right}")
    return sorted(faults)


def _shortened(faults: list[str]) -> str:
    """Return the first two of several texts, and how many more there are."""
    more = f" and {len(faults) - 2} more" if len(faults) > 2 else ""
    return ", ".join(faults[:2]) + more
