"""The loop that every stage trains with: epochs of steps, a record, and a state to go on from.

A stage gives its step and what to evaluate; the loop draws the batches, sets the learning rate, saves and resumes. Each
random draw is fixed by (seed, epoch, step), so a run that was stopped anywhere ends with the same weights.
"""
import math
import signal
import sys
import time
from collections.abc import Callable

import torch
from tqdm import tqdm

from common.errors import Diverged, Interrupted
from data.batches import Batches
from utils import distributed
from utils.devices import Compute
from utils.plots import plot_curves
from utils.training.run_folder import RunFolder
from utils.training.schedules import learning_rate

SAVE_EVERY = 600  # seconds between saves inside a long epoch


class _Signals:
    """Inside, the first SIGINT or SIGTERM is noted in `number`, for the loop to stop between two steps; the
    second ends the program at once."""

    def __enter__(self):
        self.number = None
        self.before = {each: signal.signal(each, self._note) for each in (signal.SIGINT, signal.SIGTERM)}
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
        self.sums = {name: [total.to(device), count] for name, (total, count) in (saved or {}).items()}

    def add(self, values: dict[str, torch.Tensor], n: int) -> None:
        for name, value in values.items():
            entry = self.sums.setdefault(name, [torch.zeros((), dtype=torch.float64, device=value.device), 0])
            entry[0] += n * value.detach()
            entry[1] += n

    def get(self) -> dict[str, float]:
        return {name: total.item() / count for name, (total, count) in self.sums.items()}

    def state(self) -> dict:
        return {name: (total.cpu(), count) for name, (total, count) in self.sums.items()}


def fit(folder: RunFolder, settings, compute: Compute, batches: Batches, step: Callable, evaluate: Callable,
        optimizer: torch.optim.Optimizer, nets: dict[str, torch.nn.Module], keep: Callable, title: str,
        warnings: Callable = lambda row: ()) -> None:
    """Train, from where the folder's last.ckpt stands, to the end.

    step(x, y, epoch, index, generator) -> (loss, {name: scalar tensor to log}), on a batch of [0,1] images.
    evaluate(epoch) -> {name: value}; a "score" among them chooses the best epoch. keep(which), with which "best" or
    "last", writes the stage's model files. title: of curves.png, which is drawn at the end. warnings(row) -> texts to print
    after an epoch. Raises Diverged when the loss is not finite and Interrupted on a signal.

    Several processes go through it in step: each on its part of a batch, with the mean of all gradients; the first writes.
    """
    training, rows, best = settings.training, [], None
    first, index, means = 0, 0, Means()
    if folder.checkpoint:
        saved = folder.checkpoint
        first, index, rows, best = saved["epoch"], saved["index"], saved["rows"], saved["best"]
        means = Means(saved["means"], compute.device)
        for name, net in nets.items():
            net.load_state_dict(saved["nets"][name])
        optimizer.load_state_dict(saved["optimizer"])
        folder.write_metrics(rows)
        done = first == training.epochs
        print(f"{folder.path}: {'already finished' if done else 'going on'} after epoch {first}"
              + f", batch {index}" * bool(index))
    elapsed = rows[-1]["seconds"] if rows else 0.0

    weights = [weight for net in nets.values() for weight in net.parameters()]

    def save(epoch: int, index: int) -> None:
        folder.save(epoch=epoch, index=index, rows=rows, best=best, means=means.state(), optimizer=optimizer.state_dict(),
                    nets={name: net.state_dict() for name, net in nets.items()})

    def finite(epoch: int) -> None:
        wrong = [name for name, value in means.get().items() if not math.isfinite(value)]
        wrong += [f"a weight of {name}" for name, net in nets.items()
                  if not torch.stack([weight.isfinite().all() for weight in net.parameters()]).all()]
        if wrong:
            kept = folder.path / "last.ckpt"
            raise Diverged(f"{wrong[0]} is not a finite number in epoch {epoch + 1}; "
                           + (f"the last good state stays in {kept}" if kept.exists() else "no state was saved before")
                           + "; a smaller --lr or --alpha, or an --alpha-ramp, may help")

    def stopped(epoch: int, index: int, number: int) -> None:
        finite(epoch)
        save(epoch, index)
        if distributed.first():
            print(f"{folder.path}: state saved in epoch {epoch + 1} after batch {index}; the same command goes on",
                  file=sys.stderr)
        raise Interrupted(number)

    with _Signals() as stop:
        for epoch in range(first, training.epochs):
            began, saved_at, shown_at = time.monotonic(), time.monotonic(), 0.0
            bar = tqdm(total=len(batches), initial=index, desc=f"epoch {epoch + 1}/{training.epochs}", unit="batch",
                       disable=not (sys.stderr.isatty() and distributed.first()), leave=False)
            images, begin = 0, index
            for index, (x, y) in enumerate(batches.epoch(training.seed, epoch, start=begin), start=begin):
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(training, epoch, index, len(batches))
                optimizer.zero_grad(set_to_none=True)
                loss, logged = step(x, y, epoch, index, compute.generator(training.seed, epoch, index))
                loss.backward()
                distributed.average([weight.grad for weight in weights if weight.grad is not None])
                optimizer.step()
                means.add({"loss": loss, **logged}, batches.size(index))
                images += batches.size(index)
                now = time.monotonic()
                if not bar.disable and now - shown_at > 1:  # reading the loss waits for the device: once a second
                    shown_at = now
                    bar.set_postfix_str(f"loss {loss.item():.4f}, {images / (now - began):.0f} images/s")
                bar.update()
                asked = distributed.any_number(stop.number)  # a signal reaches the processes in different steps
                if asked:
                    bar.close()
                    stopped(epoch, index + 1, asked)
                if now - saved_at > SAVE_EVERY:
                    finite(epoch)
                    save(epoch, index + 1)
                    saved_at = now
            bar.close()
            finite(epoch)
            train_seconds = time.monotonic() - began
            row = {"epoch": epoch + 1, "lr": optimizer.param_groups[0]["lr"], **means.get(), **evaluate(epoch),
                   "images_per_second": images / train_seconds if images else None}
            elapsed += time.monotonic() - began
            rows.append(row | {"seconds": elapsed})
            if "score" in row and (best is None or row["score"] > best):
                best = row["score"]
                if distributed.first():
                    keep("best")
            index, means = 0, Means()
            save(epoch + 1, 0)
            folder.write_metrics(rows)
            print(_line(rows[-1], training.epochs), flush=True)
            for text in warnings(rows[-1]):
                print(f"warning: {text}", flush=True)
            if (asked := distributed.any_number(stop.number)) and epoch + 1 < training.epochs:  # it came in the evaluation
                stopped(epoch + 1, 0, asked)
    if distributed.first():
        keep("last")
        if best is None:
            keep("best")
        plot_curves(rows, folder.path / "curves.png", title)


def _line(row: dict, epochs: int) -> str:
    """A row of the record as an aligned line."""
    shown = [("loss", "loss {:8.4f}"), ("mi_loss", "L_mi {:8.4f}"), ("natural_accuracy", "natural {:5.1f}%"),
             ("robust_accuracy", "robust {:5.1f}%"), ("natural_mi_of_natural_W", "MI over W: E_n(x;h(x)) {:8.3f}"),
             ("natural_mi_of_adversarial_W", "E_n(x;h(x~)) {:8.3f}"),
             ("adversarial_mi_of_natural_W", "E_a(n;h(x)) {:8.3f}"), ("adversarial_mi_of_adversarial_W", "E_a(n;h(x~)) {:8.3f}"),
             ("images_per_second", "{:7.0f} images/s"), ("seconds", "{:7.1f} s")]
    texts = [text.format(row[name]) for name, text in shown if row.get(name) is not None]
    return f"epoch {row['epoch']:{len(str(epochs))}}/{epochs}  lr {row['lr']:7.2g}  " + "  ".join(texts)
