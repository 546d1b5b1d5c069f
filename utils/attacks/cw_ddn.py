"""The L2 attacks of Carlini and Wagner 2017 and Rony et al. 2019 (DDN), from advertorch 0.2.3.

advertorch, the paper's library, imports a function that PyTorch 1.9 removed; neither of these two
attacks calls it.
"""

import sys

import torch
import torch.autograd.gradcheck

from common.errors import InputError
from utils.attacks.common import contained, in_float32

# The module by its name: torch.autograd.gradcheck is also the name of a function, which hides it.
_gradcheck = sys.modules["torch.autograd.gradcheck"]
vars(_gradcheck).setdefault("zero_gradients", None)
try:
    from advertorch.attacks import CarliniWagnerL2Attack, DDNL2Attack
except Exception as error:  # a library of 2020 may break in any way
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    raise InputError(
        f"cw and ddn need advertorch 0.2.3, which cannot be imported ({reason}); run ./run setup"
    ) from None


def cw(
    model, x, y, steps=20, step_size=0.01, confidence=0.0, initial_constant=1.0, searches=4
) -> torch.Tensor:
    """Attack by Carlini and Wagner: `searches` times `steps` steps of Adam, and a binary search on
    the constant between.

    The library's early abort is off: it looks at the sum of the losses of a batch, so that the
    result of a sample would depend on the others.
    """
    predict = in_float32(model, x)
    with contained(0):
        with torch.no_grad():
            classes = predict(x[:1].float()).shape[1]
        attack = CarliniWagnerL2Attack(
            predict,
            classes,
            confidence=confidence,
            learning_rate=step_size,
            binary_search_steps=searches,
            max_iterations=steps,
            abort_early=False,
            initial_const=initial_constant,
        )
        return attack.perturb(x.float().contiguous(), y).clamp(0, 1).to(x.dtype)


def ddn(model, x, y, steps=20, gamma=0.05, initial_norm=1.0, levels=256) -> torch.Tensor:
    """Attack by decoupled direction and norm: `steps` steps, after each of which the norm shrinks
    or grows by the factor 1 - gamma or 1 + gamma and the image is rounded to `levels` levels."""
    with contained(0):
        attack = DDNL2Attack(
            in_float32(model, x), nb_iter=steps, gamma=gamma, init_norm=initial_norm, levels=levels
        )
        return attack.perturb(x.float().contiguous(), y).clamp(0, 1).to(x.dtype)
