"""Read the layouts in which other projects save their networks.

A file may hold its parameters under a key of its own (MAIR: ``rmodel``) and, as two of the entries,
the mean and the standard deviation by which the images are normalised. `common.files` removes the
prefixes of the modules around the network.
"""

from collections.abc import Mapping

from torch import Tensor

# Where the parameters are, in this order: the network, then averages of its weights.
KEYS = (
    *("state_dict", "net", "model_state_dict", "model", "rmodel"),
    *("ema", "ema_state_dict", "state_dict_ema", "model_ema"),
)
MEAN_AND_STD = (("mean", "std"), ("mu", "sigma"))  # what entries of a normalisation are called
OTHERS = ("n_classes",)  # further entries of MAIR, which are no parameters


def unwrapped(content: dict) -> dict:
    """Return the content of a file with its parameters under "state_dict".

    The entries of a normalisation are left out of them and stand as lists of numbers under
    "normalisation", (mean, std). A content of ours, which names its architecture, and one without
    recognisable parameters are returned as they are.
    """
    if {"arch", "options", "state_dict"} <= content.keys():
        return content
    state = content
    while key := next((key for key in KEYS if isinstance(state.get(key), Mapping)), None):
        state = state[key]
    if not _is_state(state):
        return content
    state, normalisation = _split(state)
    found = {"normalisation": normalisation} if normalisation else {}
    return {**content, "state_dict": state, **found}


_EXTRAS = {name for pair in MEAN_AND_STD for name in pair} | set(OTHERS)


def _split(state: dict) -> tuple[dict, tuple[list, list] | None]:
    """Separate the parameters from the normalisation's entries, of which (mean, std) is made."""
    extras = {name: value for name, value in state.items() if name.rpartition(".")[2] in _EXTRAS}
    rest = {name: value for name, value in state.items() if name not in extras}
    for pair in MEAN_AND_STD:
        sides = [[v for n, v in extras.items() if n.rpartition(".")[2] == each] for each in pair]
        if all(len(side) == 1 and side[0].numel() in (1, 3) for side in sides):
            mean, std = (side[0].flatten().tolist() for side in sides)
            return rest, (mean, std)
    if all(name.rpartition(".")[2] in OTHERS for name in extras):
        return rest, None
    return state, None  # they are none of a normalisation


def _is_state(state) -> bool:
    """Return whether an object is a dict of named tensors."""
    named = isinstance(state, Mapping) and bool(state)
    return named and all(isinstance(n, str) and isinstance(v, Tensor) for n, v in state.items())
