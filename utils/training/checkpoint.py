"""Check what a checkpoint holds against the run that is to resume from it.

The fused optimizers of PyTorch trust their buffers: one of another shape, or in another order of
memory than its weight, makes them read and write outside of it.
"""

import math
from collections.abc import Iterator

import torch

from common.errors import InputError
from common.files import misfit
from common.schema import (
    ANYTHING,
    FLOAT,
    Each,
    Kind,
    OrNone,
    fault,
    number,
    require,
    whole,
)
from common.tensor_files import wrong_values

REMEDY = "copy it again, or start the run again with --restart"
PLAIN = (type(None), bool, int, float, str)
# What each optimizer keeps for a weight.
BUFFERS = {
    torch.optim.SGD: {"momentum_buffer"},
    torch.optim.Adam: {"exp_avg", "exp_avg_sq", "step"},
}


def _is_plain(value) -> bool:
    values = value if isinstance(value, list) else [value]
    return all(type(each) in PLAIN for each in values)


IDENTITY = {"identity?": Each(Kind("a plain value or a list of them", _is_plain))}
CELL = Kind("a plain value", lambda value: type(value) in PLAIN)
ROW = {"epoch": whole(1), "seconds": number(0), "score?": OrNone(FLOAT)}


def check_identity(saved: dict, path) -> None:
    """Raise InputError where the settings of a checkpoint are no plain values."""
    require(saved, IDENTITY, path, REMEDY)


def checked(
    saved: dict,
    path,
    nets: dict[str, torch.nn.Module],
    optimizer: torch.optim.Optimizer,
    length: tuple[int, int],
) -> dict:
    """Return the content of a checkpoint from which a run can resume.

    The optimizer's state in it has the hyperparameters of `optimizer`, and its buffers have the
    order of memory of their weights.

    Args:
        saved: what `common.files.read_file` returned for `path`.
        nets: {name: network} of the run.
        optimizer: the run's, with the hyperparameters of the command.
        length: epochs of the run, and batches of an epoch.

    Raises InputError that names the first field of another type, out of its range, or that does
    not fit the networks or the optimizer.
    """
    right = {
        **{"epoch": whole(0, length[0]), "index": whole(0, length[1]), "threads?": whole(1)},
        **{"rows": [Each(CELL)], "best": OrNone(number()), "means": Each(ANYTHING)},
        **{"nets": Each(Each(ANYTHING)), "optimizer": {"param_groups": [Each(ANYTHING)]}},
    }
    require(saved, right, path, REMEDY)
    require(saved, {"rows": [ROW]}, path, REMEDY)
    state = saved["optimizer"].get("state")
    faults = (
        *(_progress(saved, length[0]), _means(saved["means"]), _networks(saved["nets"], nets)),
        *(_groups(saved["optimizer"]["param_groups"], optimizer), _buffers(state, optimizer)),
    )
    if why := next(filter(None, faults), None):
        raise InputError(f"{path}: {why}; {REMEDY}")
    if optimizer.defaults.get("momentum") and not state and (saved["epoch"] or saved["index"]):
        raise InputError(f"{path}: optimizer.state has no momentum; {REMEDY}")
    return saved | {"optimizer": _relaid(saved["optimizer"], optimizer)}


def other_threads(saved: dict) -> str:
    """Return a line that warns of another number of CPU threads than before; "": it is the same.

    Checkpoints of earlier commits do not say it.
    """
    threads, now = saved.get("threads"), torch.get_num_threads()
    if threads in (None, now):
        return ""
    return (
        f"warning: the run used {threads} CPU threads before and uses {now} now, with which sums "
        "round otherwise: it may end with other bits than an uninterrupted run\n"
    )


def _progress(saved: dict, epochs: int) -> str | None:
    """Compare the epoch with the rows of the log, and the best score with theirs."""
    epoch, rows = saved["epoch"], saved["rows"]
    if [row["epoch"] for row in rows] != list(range(1, epoch + 1)):
        return f"epoch is {epoch}, but its {len(rows)} rows are of other epochs"
    if epoch == epochs and saved["index"]:
        return f"index is {saved['index']} after the last epoch, not 0"
    scores = [row["score"] for row in rows if row.get("score") is not None]
    best = max(scores) if scores else None
    if saved["best"] != best and all(map(math.isfinite, scores)):
        return f"best is {saved['best']}, but the best score of its rows is {best}"
    return None


def _means(means: dict) -> str | None:
    """Check the sums that the log's means are made of: (a float64 number, a count above 0)."""
    for name, entry in means.items():
        pair = isinstance(entry, list | tuple) and len(entry) == 2
        total, count = entry if pair else (None, 0)
        if not isinstance(total, torch.Tensor) or type(count) is not int or count < 1:
            return f"means.{name} is no sum and count"
        if total.shape != () or total.dtype != torch.float64:
            return f"means.{name} is no sum and count"
        if not total.isfinite():
            return f"means.{name} is NaN or infinite"
    return None


def _networks(saved: dict, nets: dict[str, torch.nn.Module]) -> str | None:
    """Compare the networks' tensors with those of the run: names, shapes, types, finite values."""
    if saved.keys() != nets.keys():
        return f"nets has {', '.join(saved) or 'none'}, not {', '.join(nets)}"
    for name, net in nets.items():
        state, own = saved[name], net.state_dict()
        if wrong := [key for key in own if not isinstance(state.get(key), torch.Tensor)]:
            return f"nets.{name}.{wrong[0]} is no tensor"
        if why := misfit(net, state):
            return f"nets.{name}.{why}"
        for key, tensor in state.items():
            if tensor.dtype != own[key].dtype:
                return f"nets.{name}.{key} has type {tensor.dtype}, not {own[key].dtype}"
            if why := wrong_values(tensor, own[key]):
                return f"nets.{name}.{key} {why}"
    return None


def _groups(saved: list[dict], optimizer: torch.optim.Optimizer) -> str | None:
    """Compare the hyperparameters with those of the command; each step sets its learning rate."""
    own = optimizer.state_dict()["param_groups"]
    if len(saved) != len(own):
        return f"optimizer has {len(saved)} groups of weights, not {len(own)}"
    for before, now in zip(saved, own):
        if why := fault(before, {"lr": number(0)}, "optimizer.param_groups"):
            return why
        for name, value in now.items():
            if name == "lr" or name not in before:  # a later PyTorch has more of them
                continue
            if type(before[name]) is not type(value) or before[name] != value:
                known = "other weights" if name == "params" else f"the command's {value!r}"
                return f"optimizer.param_groups.{name} does not agree with {known}"
    return None


def _weights(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """List the weights in the order in which the state numbers them."""
    return [weight for group in optimizer.param_groups for weight in group["params"]]


def _buffers(state, optimizer: torch.optim.Optimizer) -> str | None:
    """Compare the buffers with their weights: names, shapes, types, finite values."""
    if not isinstance(state, dict):
        return "optimizer.state is no dict"
    weights = _weights(optimizer)
    names = {name for kind in BUFFERS if isinstance(optimizer, kind) for name in BUFFERS[kind]}
    for number_, buffers in state.items():
        where = f"optimizer.state[{number_!r:.20}]"
        if type(number_) is not int or not 0 <= number_ < len(weights):
            return f"{where} belongs to no weight"
        if not isinstance(buffers, dict) or not buffers.keys() >= names:
            return f"{where} does not hold {' and '.join(sorted(names))}"
        for name, buffer in buffers.items():
            if why := _buffer(name, buffer, weights[number_]):
                return f"{where}.{name} {why}"
    return None


def _buffer(name: str, buffer, weight: torch.Tensor) -> str | None:
    """Compare one buffer with its weight."""
    if buffer is None and name == "momentum_buffer":
        return None  # of a weight that has had no gradient, or without momentum
    if not isinstance(buffer, torch.Tensor):
        return "is no tensor"
    shape = torch.Size() if name == "step" else weight.shape
    dtype = torch.float32 if name == "step" else weight.dtype
    if buffer.shape != shape:
        return f"has shape {tuple(buffer.shape)}, not {tuple(shape)}"
    if buffer.dtype != dtype:
        return f"has type {buffer.dtype}, not {dtype}"
    if not buffer.isfinite().all():
        return "holds NaN or infinite values"
    if name in ("step", "exp_avg_sq") and buffer.min() < 0:
        return "holds negative values"
    return None


def _relaid(saved: dict, optimizer: torch.optim.Optimizer) -> dict:
    """Return the optimizer's state in the order of memory of its weights."""
    weights = _weights(optimizer)
    groups = [
        now | {"lr": before["lr"]}
        for before, now in zip(saved["param_groups"], optimizer.state_dict()["param_groups"])
    ]
    state = {
        number_: dict(_like(buffers, weights[number_]))
        for number_, buffers in saved["state"].items()
    }
    return {"state": state, "param_groups": groups}


def _like(buffers: dict, weight: torch.Tensor) -> Iterator[tuple[str, torch.Tensor | None]]:
    """Copy the buffers of a weight, so that each has the weight's strides and memory of its own."""
    for name, buffer in buffers.items():
        if buffer is not None and buffer.shape == weight.shape:
            strided = torch.empty_strided(weight.shape, weight.stride(), dtype=weight.dtype)
            buffer = strided.copy_(buffer)
        yield name, buffer
