"""Run what no ablation changes of a training loop: resuming, signals, checkpoints, log, progress
bar.

    with Loop(stage, nets, optimizer, training, keep, title) as loop:
        for epoch in loop.epochs():
            for x, y in loop.batches(epoch):
                loss = ...
                loop.step(loss, log)
            loop.end_of_epoch(evaluate(epoch))

The script computes the loss; the loop draws the batches, sets the learning rate, steps the
optimizer, saves and resumes. Each random draw depends on (seed, epoch, step) only, so an
interrupted run ends with the same weights.
"""

import sys
import time
from collections.abc import Callable, Iterator

import torch
from tqdm import tqdm

from common.errors import InputError, Interrupted
from utils import distributed
from utils.plots import plot_curves
from utils.schedules import learning_rate
from utils.training.checkpoint import checked, other_threads
from utils.training.finite import FiniteSteps, after_steps, stop_if
from utils.training.means import Means
from utils.training.signals import Signals
from utils.training.stages import Stage


class Loop:
    """Train from the state in the run folder's last.ckpt to the end.

    Several processes run it in step: each on its part of a batch, with the mean of all gradients;
    the first one writes.

    Args:
        stage: device, batches and run folder (`open_stage`).
        nets: {name: network} whose state a checkpoint holds.
        optimizer: steps their weights.
        training: epochs, schedule, learning rate and seed (`utils.settings.options.Training`).
        keep: keep("best") and keep("last") write the script's model files.
        title: the title of curves.png, which is drawn at the end.

    Attributes:
        index: the current batch of the epoch, from 0.
        generator: the random numbers of this batch, seeded by (seed, epoch, index).

    Raises Diverged where a loss or a weight is non-finite, and Interrupted on SIGINT or SIGTERM,
    with the state saved.
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
        self.keep, self.title, self.tracker = keep, title, stage.tracker
        self.weights = [weight for net in nets.values() for weight in net.parameters()]
        self.rows: list[dict] = []
        self.best: float | None = None
        self.generator: torch.Generator | None = None
        self.first, self.index, self.means = 0, 0, Means()
        self.steps, self.save_every = FiniteSteps(), stage.save_every
        if self.folder.checkpoint:
            try:
                self._resume(self.folder.checkpoint)
            except InputError as error:
                self._resume(self.folder.before_last(error))
        self.elapsed = self.rows[-1]["seconds"] if self.rows else 0.0

    def _resume(self, saved: dict) -> None:
        """Restore the state of a checkpoint; raise InputError where it does not fit the run."""
        length = self.training.epochs, len(self.data)
        saved = checked(saved, self.folder.checkpoint_file, self.nets, self.optimizer, length)
        self.first, self.index = saved["epoch"], saved["index"]
        self.rows, self.best = saved["rows"], saved["best"]
        self.means = Means(saved["means"], self.compute.device)
        for name, net in self.nets.items():
            net.load_state_dict(saved["nets"][name])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.folder.write_metrics(self.rows)
        if self.compute.device.type == "cpu":
            print(other_threads(saved), end="")
        done = "already finished" if self.first == self.training.epochs else "resumed"
        print(
            f"{self.folder.path}: {done} after epoch {self.first}"
            + f", batch {self.index}" * bool(self.index)
        )

    def __enter__(self) -> "Loop":
        self.folder.begin()
        self.signals = Signals()
        self.signals.__enter__()
        self.tracker.start(self.folder.path, self.folder.options, self.rows)
        return self

    def __exit__(self, kind, *error) -> None:
        self.signals.__exit__()
        self.tracker.close()
        if kind is None and distributed.first():
            self.keep("last")
            if self.best is None:
                self.keep("best")
            plot_curves(self.rows, self.folder.path / "curves.png", self.title)
            print(_best_and_last(self.rows), end="")

    def epochs(self) -> Iterator[int]:
        """Yield the remaining epochs, counted from 0."""
        for epoch in range(self.first, self.training.epochs):
            self.began = self.saved_at = time.monotonic()
            yield epoch

    def batches(self, epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield the remaining batches of an epoch: x (N,3,H,W) in [0,1] and labels y (N,)."""
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
            batches = self.data.epoch(self.training.seed, epoch, start=begin)
            for index, (x, y) in enumerate(batches, start=begin):
                self.index = index
                for group in self.optimizer.param_groups:
                    group["lr"] = learning_rate(self.training, epoch, index, total)
                self.generator = self.compute.generator(self.training.seed, epoch, index)
                yield x, y
                images += self.data.size(index)
                now = time.monotonic()
                # Once a second, because reading the loss waits for the device.
                if not bar.disable and now - shown_at > 1:
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
        """Stop after a signal; save where the last save was `save_every` seconds ago."""
        # A signal reaches the processes in different steps.
        number = distributed.any_number(self.signals.number)
        if number:
            self._stop(epoch, self.index + 1, number)
        if now - self.saved_at >= self.save_every:
            self._check_finite(epoch)
            self._save(epoch, self.index + 1)
            self.saved_at = now

    def step(self, loss: torch.Tensor, log: dict[str, torch.Tensor] | None = None) -> None:
        """Take a step of the optimizer with the gradient of `loss`, averaged over the processes.

        The loss and the scalars of `log` are logged as means over the epoch's images.
        """
        loss.backward()
        gradients = [weight.grad for weight in self.weights if weight.grad is not None]
        distributed.average(gradients)
        where = f"epoch {len(self.rows) + 1}, batch {self.index + 1}"
        wrong = self.steps.wrong({"loss": loss, **(log or {})}, gradients, where)
        stop_if(wrong, self.folder.path / "last.ckpt")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.loss = loss.detach()
        self.means.add({"loss": self.loss, **(log or {})}, self.data.size(self.index))

    def end_of_epoch(self, values: dict, warnings: Callable = lambda row: ()) -> None:
        """Log a row for the epoch, keep the best model and save the state.

        Args:
            values: {name: value} measured after the epoch; the largest "score" marks the best
                epoch.
            warnings: warnings(row) -> texts to print.
        """
        epoch = len(self.rows)
        row = {
            "epoch": epoch + 1,
            "lr": self.optimizer.param_groups[0]["lr"],
            **self.means.get(),
            **values,
            "images_per_second": self.images_per_second,
        }
        if distributed.first():
            self.folder.check_place()
        self.elapsed += time.monotonic() - self.began
        self.rows.append(row | {"seconds": self.elapsed})
        if "score" in row and (self.best is None or row["score"] > self.best):
            self.best = row["score"]
            if distributed.first():
                self.keep("best")
        self.index, self.means = 0, Means()
        self._save(epoch + 1, 0)
        self.folder.write_metrics(self.rows)
        self.tracker.add(self.rows[-1])
        print(_line(self.rows[-1], self.training.epochs), flush=True)
        for text in warnings(self.rows[-1]):
            print(f"warning: {text}", flush=True)
        # A signal may have come during the evaluation.
        number = distributed.any_number(self.signals.number)
        if number and epoch + 1 < self.training.epochs:
            self._stop(epoch + 1, 0, number)

    def _save(self, epoch: int, index: int) -> None:
        """Write the state after batch `index` - 1 of `epoch`, both from 0."""
        nets = {name: net.state_dict() for name, net in self.nets.items()}
        self.folder.save(
            epoch=epoch,
            index=index,
            rows=self.rows,
            best=self.best,
            means=self.means.state(),
            optimizer=self.optimizer.state_dict(),
            nets=nets,
            threads=torch.get_num_threads(),
        )

    def _stop(self, epoch: int, index: int, number: int) -> None:
        """Save the state and raise Interrupted."""
        self._check_finite(epoch)
        self._save(epoch, index)
        if distributed.first():
            where = f"in epoch {epoch + 1} after batch {index}"
            print(
                f"{self.folder.path}: state saved {where}; the same command resumes",
                file=sys.stderr,
            )
        raise Interrupted(number)

    def _check_finite(self, epoch: int) -> None:
        """Raise Diverged where a logged mean or a weight is non-finite."""
        wrong = after_steps(self.means.get(), self.nets, f"epoch {epoch + 1}")
        stop_if(wrong, self.folder.path / "last.ckpt")


# (column, its format) of the line that is printed after each epoch.
SHOWN = [
    ("loss", "loss {:8.4f}"),
    ("mi_loss", "L_mi {:8.4f}"),
    ("J1", "held out J1 {:7.3f}"),
    ("J2", "J2 {:7.3f}"),
    ("natural_accuracy", "natural {:5.1f}%"),
    ("robust_accuracy", "robust {:5.1f}%"),
    ("rate_bits", "E R {:7.1f} bits"),
    ("label_bits", "I(Y;T) >= {:5.2f} bits"),
    ("natural_mi_of_natural_W", "MI over W: E_n(x;h(x)) {:8.3f}"),
    ("natural_mi_of_adversarial_W", "E_n(x;h(x~)) {:8.3f}"),
    ("adversarial_mi_of_natural_W", "E_a(n;h(x)) {:8.3f}"),
    ("adversarial_mi_of_adversarial_W", "E_a(n;h(x~)) {:8.3f}"),
    ("images_per_second", "{:7.0f} images/s"),
    ("seconds", "{:7.1f} s"),
]


def _best_and_last(rows: list[dict]) -> str:
    """Compare the best epoch with the last in two lines; "" where no epoch has a score.

    Robust overfitting (Rice et al. 2020) is the difference.
    """
    scored = [row for row in rows if row.get("score") is not None and "robust_accuracy" in row]
    if not scored:
        return ""
    lines = ""
    for what, row in (("best", max(scored, key=lambda row: row["score"])), ("last", scored[-1])):
        accuracies = (
            f"natural {row['natural_accuracy']:.2f} %, robust {row['robust_accuracy']:.2f} %"
        )
        lines += f"{what} epoch {row['epoch']}, held-out images: {accuracies}\n"
    return lines


def _line(row: dict, epochs: int) -> str:
    """Format a row of the log as an aligned line."""
    epoch = f"epoch {row['epoch']:{len(str(epochs))}}/{epochs}"
    texts = [text.format(row[name]) for name, text in SHOWN if row.get(name) is not None]
    return "  ".join([epoch, f"lr {row['lr']:7.2g}", *texts])
