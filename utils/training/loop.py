"""What no ablation changes of a training loop: resuming, signals, checkpoints, the log and the progress bar.

    with Loop(stage, nets, optimizer, training, keep, title) as loop:
        for epoch in loop.epochs():
            for x, y in loop.batches(epoch):
                loss, log = ...
                loop.step(loss, log)
            loop.end_of_epoch(evaluate(epoch))

The script computes the loss; the loop draws the batches, sets the learning rate, steps the optimizer, saves and resumes. Each
random draw is fixed by (seed, epoch, step), so a run that was stopped anywhere ends with the same weights.
"""

import math
import signal
import sys
import time
from collections.abc import Callable, Iterator

import torch
from tqdm import tqdm

from common.errors import Diverged, Interrupted
from utils import distributed
from utils.plots import plot_curves
from utils.training.schedules import learning_rate
from utils.training.stages import Stage

SAVE_EVERY = 600  # seconds between saves inside a long epoch


class _Signals:
    """Inside, the first SIGINT or SIGTERM is noted in `number`, for the loop to stop between two steps; the
    second ends the program at once."""

    def __enter__(self):
        self.number = None
        self.before = {
            each: signal.signal(each, self._note) for each in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def _note(self, number, frame):
        self.number = number
        if distributed.first():
            print("\nstopping after this step; once more to stop at once", file=sys.stderr)
        for each, handler in self.before.items():
            signal.signal(each, handler)

    def __exit__(self, *error):
        for each, handler in self.before.items():
            signal.signal(each, handler)


class Means:
    """Means over samples of what the steps log, summed on the device: reading one waits for it, adding does not."""

    def __init__(self, saved: dict | None = None, device="cpu"):
        self.sums = {
            name: [total.to(device), count] for name, (total, count) in (saved or {}).items()
        }

    def add(self, values: dict[str, torch.Tensor], n: int) -> None:
        for name, value in values.items():
            entry = self.sums.setdefault(
                name, [torch.zeros((), dtype=torch.float64, device=value.device), 0]
            )
            entry[0] += n * value.detach()
            entry[1] += n

    def get(self) -> dict[str, float]:
        return {name: total.item() / count for name, (total, count) in self.sums.items()}

    def state(self) -> dict:
        return {name: (total.cpu(), count) for name, (total, count) in self.sums.items()}


class Loop:
    """Train from where the run folder's last.ckpt stands to the end.

    Several processes go through it in step: each on its part of a batch, with the mean of all gradients; the first writes.

    Args:
        stage: device, batches and run folder (`open_stage`).
        nets: {name: network} whose state a checkpoint holds.
        optimizer: steps their weights.
        training: epochs, schedule, learning rate and seed (`utils.settings.options.Training`).
        keep: keep("best") and keep("last") write the script's model files.
        title: of curves.png, which is drawn at the end.

    Attributes:
        index: the batch of the epoch that the script is at, from 0.
        generator: the random numbers of this batch, fixed by (seed, epoch, index).

    Raises Diverged where a loss or a weight is not finite, and Interrupted on SIGINT or SIGTERM, with the state saved.
    """

    def __init__(
        self,
        stage: Stage,
        nets: dict[str, torch.nn.Module],
        optimizer: torch.optim.Optimizer,
        training,
        keep: Callable,
        title: str,
    ):
        self.folder, self.data, self.compute = stage.folder, stage.batches, stage.compute
        self.nets, self.optimizer, self.training = nets, optimizer, training
        self.keep, self.title = keep, title
        self.weights = [weight for net in nets.values() for weight in net.parameters()]
        self.rows, self.best, self.generator = [], None, None
        self.first, self.index, self.means = 0, 0, Means()
        if self.folder.checkpoint:
            self._resume(self.folder.checkpoint)
        self.elapsed = self.rows[-1]["seconds"] if self.rows else 0.0

    def _resume(self, saved: dict) -> None:
        self.first, self.index, self.rows, self.best = (
            saved["epoch"],
            saved["index"],
            saved["rows"],
            saved["best"],
        )
        self.means = Means(saved["means"], self.compute.device)
        for name, net in self.nets.items():
            net.load_state_dict(saved["nets"][name])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.folder.write_metrics(self.rows)
        done = "already finished" if self.first == self.training.epochs else "resumed"
        print(
            f"{self.folder.path}: {done} after epoch {self.first}"
            + f", batch {self.index}" * bool(self.index)
        )

    def __enter__(self) -> "Loop":
        self.signals = _Signals()
        self.signals.__enter__()
        return self

    def __exit__(self, kind, *error) -> None:
        self.signals.__exit__()
        if kind is None and distributed.first():
            self.keep("last")
            if self.best is None:
                self.keep("best")
            plot_curves(self.rows, self.folder.path / "curves.png", self.title)

    def epochs(self) -> Iterator[int]:
        """Yield the epochs that are left, counted from 0."""
        for epoch in range(self.first, self.training.epochs):
            self.began = self.saved_at = time.monotonic()
            yield epoch

    def batches(self, epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield the batches of an epoch that are left: x (N,3,H,W) in [0,1] and labels y (N,)."""
        images, begin, total = 0, self.index, len(self.data)
        with tqdm(
            total=total,
            initial=begin,
            desc=f"epoch {epoch + 1}/{self.training.epochs}",
            unit="batch",
            disable=not (sys.stderr.isatty() and distributed.first()),
            leave=False,
        ) as bar:
            shown_at = 0.0
            for index, (x, y) in enumerate(
                self.data.epoch(self.training.seed, epoch, start=begin), start=begin
            ):
                self.index = index
                for group in self.optimizer.param_groups:
                    group["lr"] = learning_rate(self.training, epoch, index, total)
                self.generator = self.compute.generator(self.training.seed, epoch, index)
                yield x, y
                images += self.data.size(index)
                now = time.monotonic()
                if (
                    not bar.disable and now - shown_at > 1
                ):  # reading the loss waits for the device: once a second
                    shown_at = now
                    bar.set_postfix_str(
                        f"loss {self.loss.item():.4f}, {images / (now - self.began):.0f} images/s"
                    )
                bar.update()
                self._after_batch(epoch, now)
        self._check_finite(epoch)
        seconds = time.monotonic() - self.began
        self.images_per_second = images / seconds if images else None

    def _after_batch(self, epoch: int, now: float) -> None:
        """Stop where a signal came; save where the last save is long ago."""
        asked = distributed.any_number(
            self.signals.number
        )  # a signal reaches the processes in different steps
        if asked:
            self._stop(epoch, self.index + 1, asked)
        if now - self.saved_at > SAVE_EVERY:
            self._check_finite(epoch)
            self._save(epoch, self.index + 1)
            self.saved_at = now

    def step(self, loss: torch.Tensor, log: dict[str, torch.Tensor]) -> None:
        """Take the gradient of `loss`, average it over the processes, step the optimizer, and log the loss and the scalars of
        `log`, means over the epoch's images."""
        loss.backward()
        distributed.average([weight.grad for weight in self.weights if weight.grad is not None])
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.loss = loss.detach()
        self.means.add({"loss": self.loss, **log}, self.data.size(self.index))

    def end_of_epoch(self, values: dict, warnings: Callable = lambda row: ()) -> None:
        """Log a row for the epoch, keep the best model and save the state.

        values: {name: value} measured after the epoch; a "score" among them chooses the best epoch. warnings(row) -> texts to
        print.
        """
        epoch = len(self.rows)
        row = {
            "epoch": epoch + 1,
            "lr": self.optimizer.param_groups[0]["lr"],
            **self.means.get(),
            **values,
            "images_per_second": self.images_per_second,
        }
        self.elapsed += time.monotonic() - self.began
        self.rows.append(row | {"seconds": self.elapsed})
        if "score" in row and (self.best is None or row["score"] > self.best):
            self.best = row["score"]
            if distributed.first():
                self.keep("best")
        self.index, self.means = 0, Means()
        self._save(epoch + 1, 0)
        self.folder.write_metrics(self.rows)
        print(_line(self.rows[-1], self.training.epochs), flush=True)
        for text in warnings(self.rows[-1]):
            print(f"warning: {text}", flush=True)
        asked = distributed.any_number(self.signals.number)  # it came in the evaluation
        if asked and epoch + 1 < self.training.epochs:
            self._stop(epoch + 1, 0, asked)

    def _save(self, epoch: int, index: int) -> None:
        nets = {name: net.state_dict() for name, net in self.nets.items()}
        self.folder.save(
            epoch=epoch,
            index=index,
            rows=self.rows,
            best=self.best,
            means=self.means.state(),
            optimizer=self.optimizer.state_dict(),
            nets=nets,
        )

    def _stop(self, epoch: int, index: int, number: int) -> None:
        """Save the state and raise Interrupted."""
        self._check_finite(epoch)
        self._save(epoch, index)
        if distributed.first():
            print(
                f"{self.folder.path}: state saved in epoch {epoch + 1} after batch {index}; the same command resumes",
                file=sys.stderr,
            )
        raise Interrupted(number)

    def _check_finite(self, epoch: int) -> None:
        """Raise Diverged where a mean of the log or a weight is not finite."""
        wrong = [name for name, value in self.means.get().items() if not math.isfinite(value)]
        wrong += [
            f"a weight of {name}"
            for name, net in self.nets.items()
            if not torch.stack([weight.isfinite().all() for weight in net.parameters()]).all()
        ]
        if wrong:
            kept = self.folder.path / "last.ckpt"
            raise Diverged(
                f"{wrong[0]} is not a finite number in epoch {epoch + 1}; "
                + (
                    f"the last good state stays in {kept}"
                    if kept.exists()
                    else "no state was saved before"
                )
                + "; a smaller --lr or --alpha, or an --alpha-ramp, may help"
            )


def _line(row: dict, epochs: int) -> str:
    """A row of the record as an aligned line."""
    shown = [
        ("loss", "loss {:8.4f}"),
        ("mi_loss", "L_mi {:8.4f}"),
        ("natural_accuracy", "natural {:5.1f}%"),
        ("robust_accuracy", "robust {:5.1f}%"),
        ("natural_mi_of_natural_W", "MI over W: E_n(x;h(x)) {:8.3f}"),
        ("natural_mi_of_adversarial_W", "E_n(x;h(x~)) {:8.3f}"),
        ("adversarial_mi_of_natural_W", "E_a(n;h(x)) {:8.3f}"),
        ("adversarial_mi_of_adversarial_W", "E_a(n;h(x~)) {:8.3f}"),
        ("images_per_second", "{:7.0f} images/s"),
        ("seconds", "{:7.1f} s"),
    ]
    texts = [text.format(row[name]) for name, text in shown if row.get(name) is not None]
    return f"epoch {row['epoch']:{len(str(epochs))}}/{epochs}  lr {row['lr']:7.2g}  " + "  ".join(
        texts
    )
