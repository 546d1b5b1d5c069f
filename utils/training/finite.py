"""Find what became NaN or infinite: a term of the loss, the gradient, a logged mean or a weight."""

import math
from pathlib import Path

import torch

from common.errors import Diverged
from utils import distributed

OF = "is non-finite (NaN or infinite) in"


class FiniteSteps:
    """Watch the values of each training step.

    On the CPU a step's values are looked at in that step. On CUDA, where that would make the host
    wait, they are looked at in the next step, when they are on the host.
    """

    def __init__(self) -> None:
        self.pending: tuple | None = None

    def wrong(
        self, terms: dict[str, torch.Tensor], gradients: list[torch.Tensor], where: str
    ) -> str | None:
        """Name the first of a step's terms, or its gradient, that is NaN or infinite; None: none.

        On CUDA the answer is about the step of the call before.

        Args:
            terms: scalars, the loss among them.
            gradients: of the weights, averaged over the processes.
            where: the step in words.
        """
        norm = torch.nn.utils.get_total_norm(gradients)
        # Of several processes all stop, or none: the averaged gradient is what they share.
        values = {**(terms if distributed.count() == 1 else {}), "the gradient's norm": norm}
        flags = torch.stack(
            [value.detach().isfinite().all().to(norm.device) for value in values.values()]
        )
        if flags.device.type == "cpu":
            return _first(list(values), flags, where)
        host = torch.empty(flags.shape, dtype=torch.bool, pin_memory=True)
        host.copy_(flags, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()
        before, self.pending = self.pending, (list(values), host, where, arrived)
        if before is None:
            return None
        before[3].synchronize()
        return _first(*before[:3])


def _first(names: list[str], flags: torch.Tensor, where: str) -> str | None:
    finite = flags.tolist()
    return None if all(finite) else f"{names[finite.index(False)]} {OF} {where}"


def stop_if(wrong: str | None, kept: Path) -> None:
    """Raise Diverged with what is wrong, unless that is None. kept: the checkpoint."""
    if wrong:
        state = "no state was saved before"
        if kept.exists():
            state = f"the last good state stays in {kept}"
        raise Diverged(f"{wrong}; {state}; a smaller --lr or --alpha, or an --alpha-ramp, may help")


def after_steps(
    means: dict[str, float], nets: dict[str, torch.nn.Module], where: str
) -> str | None:
    """Name the first logged mean or network's weight that is NaN or infinite; None: none is."""
    wrong = [name for name, value in means.items() if not math.isfinite(value)]
    wrong += [
        f"a weight of {name}"
        for name, net in nets.items()
        if not torch.stack([weight.isfinite().all() for weight in net.parameters()]).all()
    ]
    return f"{wrong[0]} {OF} {where}" if wrong else None
