"""An epoch waits for nothing: no operation in it asks the device for a value."""

import traceback

import pytest
import torch
from conftest import ESTIMATOR, SMALL, succeed
from torch.utils._python_dispatch import TorchDispatchMode

from data.batches import Batches

WAITS = (
    "aten._local_scalar_dense",
    "aten.nonzero",
    "aten.is_nonzero",
    "aten.equal",
    "aten.masked_select",
)
# Of the loop: at the end of an epoch, or once in ten minutes. Of the averaged weights: their count of steps is on the CPU.
MAY_WAIT = ("_check_finite", "_save", "evaluate", "get", "state", "update")


class Waits(TorchDispatchMode):
    """Notes operations that would wait for an accelerator, from an epoch's first batch to its
    last."""

    def __init__(self):
        super().__init__()
        self.found, self.steps, self.inside = [], 0, False

    def epoch(self, true_epoch):
        """Batches.epoch, with a note of when the script's loop runs."""

        def noted(*arguments, **options):
            self.inside = True
            yield from true_epoch(*arguments, **options)
            self.inside = False

        return noted

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        names = [frame.name for frame in traceback.extract_stack()] if self.inside else []
        if names and not set(MAY_WAIT) & set(names):
            self.steps += str(function).startswith(("aten.convolution", "aten.addmm"))
            if str(function).startswith(WAITS) and all(
                arg.numel() for arg in args if isinstance(arg, torch.Tensor)
            ):
                self.found.append((str(function), names[-4:]))
        return function(*args, **(kwargs or {}))


def epoch_of(stage: str, chain, tmp_path) -> None:
    words = {
        "standard": [
            "train_standard.py",
            *SMALL,
            "--defense",
            "trades",
            "--epochs",
            1,
            "--ema",
            0.9,
            "--awp",
            0.01,
        ],
        "estimators": [
            "train_MI_estimator.py",
            *ESTIMATOR,
            "--epochs",
            1,
            "--pre-target",
            chain / "standard/best_model.pth",
        ],
        "namid": [
            "train_MIAT.py",
            *SMALL,
            "--epochs",
            1,
            "--warmup-epochs",
            0,
            "--estimator-dir",
            chain / "estimators",
        ],
        "vib": [
            *["train_VIB.py", "--dataset", "digits", "--epsilon", 0.15, "--batch-size", 64],
            *["--adversarial", "fgsm", "--width", 8, "--bottleneck", 4, "--epochs", 1],
        ],
    }[stage]
    words[words.index("--epochs") + 1] = 1
    succeed(*words, "--limit-train", 140, "--holdout", 10, "--model-dir", tmp_path)


STAGES = ["standard", "estimators", "namid", "vib"]


@pytest.mark.parametrize("stage", STAGES)
def test_nothing_in_an_epoch_waits_for_the_device(stage, chain, tmp_path, monkeypatch):
    watch = Waits()
    monkeypatch.setattr(Batches, "epoch", watch.epoch(Batches.epoch))
    with watch:
        epoch_of(stage, chain, tmp_path)
    assert watch.steps > 20 and not watch.found


@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="counts what waits for a CUDA device; there is none here"
)
@pytest.mark.parametrize("stage", STAGES)
def test_nothing_in_an_epoch_waits_for_cuda(stage, chain, tmp_path, monkeypatch):
    """As PyTorch itself counts it: inside the loop over batches, whatever waits is an error."""
    true_epoch = Batches.epoch

    def strict(self, *arguments, **options):
        for number, batch in enumerate(true_epoch(self, *arguments, **options)):
            if number == 1:  # libraries wait when they are first used
                torch.cuda.set_sync_debug_mode("error")
            yield batch
        torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(Batches, "epoch", strict)
    try:
        epoch_of(stage, chain, tmp_path)
    finally:
        torch.cuda.set_sync_debug_mode("default")
