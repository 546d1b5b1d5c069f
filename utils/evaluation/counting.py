"""Robust accuracy: count, image by image, what a network still gets right under an attack.

`Evaluation` fixes everything but the attack. It makes a row per attack, batch by batch, and writes
the results after every batch, so that the same command resumes where it was stopped.
"""

import itertools
import json
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy
import torch
from tqdm import tqdm

from common.errors import InputError
from data.batches import in_order
from utils.attacks import registry
from utils.attacks.projected_gradient import TOLERANCE, l2_norm, to_levels
from utils.attacks.registry import Spec
from utils.devices import Compute, mix
from utils.evaluation.autoattack import BatchFile, craft_in_parts, unfinished
from utils.evaluation.counted import Counted
from utils.evaluation.images import all_kept, as_images, keep_images
from utils.evaluation.predictors import Predictors
from utils.evaluation.results import SWEPT, Results, add_columns, empty_row, letters, other_settings
from utils.evaluation.threat import ThreatModel

UNSEEN = ("transport", "spatial")  # kinds of attacks whose budgets cannot be read off an image
BOTH_WAYS = ("minimum-norm", "spatial")  # kinds that are counted within the budget and at any norm


@dataclass(frozen=True)
class Task:
    """What a row is made of: an attack, its budget, and how it is run.

    name: of the row. options: keywords of the attack that the user chose. keep: the folder for its
    images, or None. early: whether an image may leave the attack at the first iterate that fools.
    """

    name: str
    spec: Spec
    epsilon: float
    options: dict
    keep: Path | None
    early: bool


@dataclass
class Evaluation:
    """What is evaluated: a network on images, under attacks within a ball around each image.

    Args:
        model: the network that is judged.
        source: the surrogate on which adversarial images are crafted; None: the model itself.
        images, labels: uint8 (N,3,H,W) and int64 (N,).
        threat: the ball.
        compute, batch_size, seed: how the attacks are run.
        results: the rows, and the file they are kept in.
        rounded: round adversarial images to 256 levels before they are judged.
        keep: a folder for the adversarial images, a file per attack and batch.
        predictors: the classifiers that a network with a bottleneck is judged and attacked as.
    """

    model: torch.nn.Module
    source: torch.nn.Module | None
    images: torch.Tensor
    labels: torch.Tensor
    threat: ThreatModel
    compute: Compute
    batch_size: int
    seed: int
    results: Results = field(default_factory=Results)
    rounded: bool = False
    keep: Path | None = None
    predictors: Predictors | None = None

    def __post_init__(self):
        """Wrap both networks to count passes; `attacked` is the one that images are crafted on."""
        source = self.source
        if self.predictors:
            self.model = self.predictors.judged
            source = source or (self.predictors.attacked if self.random else None)
        self.model = self.attacked = Counted(self.model, self.compute).eval()
        if source is not None:
            self.attacked = Counted(source, self.compute).eval()

    @property
    def black_box(self) -> bool:
        """Return whether images are crafted on a surrogate."""
        return self.source is not None

    @property
    def random(self) -> bool:
        """Return whether the network that is judged draws at each query."""
        return self.predictors is not None and self.predictors.random

    def run(self, spec: Spec, epsilon: float | None = None, **options) -> dict:
        """Make or resume the row of an attack; another `epsilon` than the evaluation's has its own.

        Images that the network gets wrong without an attack count as wrong and are not attacked.
        Success is judged on the image that the attack returns: the network errs on it and, where
        the attack has a budget, the image is within. A minimum-norm attack is counted both within
        the budget and at any norm.
        """
        task = self._task(spec, epsilon, options)
        row = self._row(task)
        if row.get("stopped_early"):
            task = replace(task, options=task.options | {"until_fooled": True})
        done, first = len(row["outcomes"]), 0
        silent = not sys.stderr.isatty()
        n, any_norm = len(self.labels), spec.kind in BOTH_WAYS
        with tqdm(
            total=n, initial=done, desc=task.name, unit="image", disable=silent, leave=False
        ) as bar:
            for number, (x, y) in enumerate(self._batches(channels_last=True)):
                start, first = first, first + len(y)
                if first <= done:
                    continue
                began = time.monotonic()
                found = self._batch(task, x, y, number, start)
                row["seconds"] += time.monotonic() - began
                add_columns(row, found, start == 0)
                self.results.add(task.name, row, spec.kind, any_norm)
                bar.update(len(y))
                bar.set_postfix_str(f"{row['accuracy']:.1f} % of {len(row['outcomes'])} robust")
        return self.results.rows.setdefault(task.name, row)

    def _batches(self, channels_last: bool = False):
        """Yield the images, in [0,1], and labels in order, on the device."""
        device = self.compute.device
        return in_order(self.images, self.labels, self.batch_size, device, channels_last)

    def _task(self, spec: Spec, epsilon: float | None, options: dict) -> Task:
        """Decide how the row of an attack is made; only images within the threat model are kept."""
        name = spec.name if epsilon is None else f"{spec.name}{SWEPT}{epsilon:.6g}"
        epsilon = self.threat.epsilon if epsilon is None else epsilon
        keep = self.keep if epsilon == self.threat.epsilon else None
        # With predictors, images are judged on fresh draws too: a first success says nothing there.
        whole = self.black_box or self.predictors is not None or self.rounded
        early = spec.leaves and not whole and not keep
        return Task(name, spec, epsilon, options, keep, early)

    def _row(self, task: Task) -> dict:
        """Return the row to resume, or a new one where there is none or it has to be made again."""
        norm, row = self.threat.norm, self.results.rows.get(task.name)
        settings = registry.settings_of(task.spec.name, norm, task.epsilon, **task.options)
        if row is not None and (why := self._outdated(task, row, settings)):
            print(f"{task.name}: {why}; the row is made again", flush=True)
            row = None
        now = self.results.made()
        if row is None:
            return empty_row(settings=settings, stopped_early=task.early, made=now)
        setup = ("git_commit", "hardware", "versions")
        other = any(row["made"].get(key) != now[key] for key in setup)
        if other and 0 < len(row["outcomes"]) < len(self.labels):
            row.setdefault("resumed", []).append(now)
        return row

    def _outdated(self, task: Task, row: dict, settings: dict) -> str | None:
        """Explain why a row made before has to be made again; None where it need not be."""
        if task.keep and row.get("stopped_early", task.spec.leaves):
            return "its images stopped at the first that fooled the network"
        if task.keep and self._lacks_images(task.keep, task.spec.name, row):
            return "its images were not kept"
        if "settings" not in row:
            partial = len(row["outcomes"]) < len(self.labels)
            return "its settings are not known" if partial or task.spec.changed else None
        other = other_settings(row["settings"], settings)
        return f"it was made with other settings: {other}" if other else None

    def _lacks_images(self, keep: Path, attack: str, row: dict) -> bool:
        """Decide whether some adversarial images of a row made before were not kept."""
        sizes = [len(y) for _, y in in_order(self.images, self.labels, self.batch_size)]
        done = sum(end <= len(row["outcomes"]) for end in itertools.accumulate(sizes))
        return not all_kept(keep, attack, done)

    def _right(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return which images the network gets right; not those with a non-finite logit."""
        with torch.no_grad():
            logits = self.model(x)
        return (logits.argmax(1) == y) & logits.isfinite().all(1)

    def _batch(self, task: Task, x, y, number: int, first: int) -> dict:
        """Attack a batch and judge it.

        Args:
            x, y: images in [0,1], (N,3,H,W), and labels (N,).
            number, first: of the batch, and of its first image.

        Returns what the batch adds to each column of the row.
        """
        if self.predictors:
            self.predictors.restart(mix(self.seed, number) % 2**31)
        right = self._right(x, y)
        x_adv, chosen = x.clone(), right.nonzero()[:, 0]
        self.attacked.forwards = self.attacked.backwards = 0
        fooled_by: dict[str, int] = {}
        if len(chosen):
            options = self._options(task, chosen, number, first)
            x_adv[chosen], fooled_by = self._craft(task, x[chosen], y[chosen], options)
        forwards, backwards = self.attacked.forwards, self.attacked.backwards
        # Comparisons with NaN are false, so that an image with NaN is outside as well.
        inside = (x_adv >= -TOLERANCE) & (x_adv <= 1 + TOLERANCE)
        x_adv = x_adv.where(x_adv.isfinite(), x).clamp(0, 1)
        if self.rounded:
            x_adv = to_levels(x, x_adv, self.threat.norm, task.epsilon)
        if task.keep:
            keep_images(task.keep, task.spec.name, number, x_adv)
        return {
            **self.judge(task.spec, x, x_adv, y, right, task.epsilon),
            "attacked": len(chosen),
            "outside": int((~inside.flatten(1).all(1)).sum()),
            "forward_passes": forwards,
            "backward_passes": backwards,
            "parts": {} if self.black_box else fooled_by,
        }

    def _options(self, task: Task, chosen: torch.Tensor, number: int, first: int) -> dict:
        """Return the keywords of the attack on the `chosen` images of a batch."""
        options = dict(task.options)
        if self.rounded and task.spec.restarts > 1:
            options["rounded"] = True
        if self.random and task.spec.restarts > 1:
            options["by_loss"] = True
        if self.random and task.spec.takes_draws:
            options["draws"] = 1  # `attacked` averages over its draws itself
        if task.spec.takes_index:
            options["index"] = first + chosen.cpu()
        if task.spec.random:
            options["seed"] = mix(self.seed, number) % 2**31
        return options

    def _craft(self, task: Task, x, y, options: dict) -> tuple[torch.Tensor, dict[str, int]]:
        """Attack images that the network gets right.

        Returns the adversarial images and, for AutoAttack, {part: images that it fooled}.
        """
        norm, epsilon = self.threat.norm, task.epsilon
        parts = registry.PARTS.get(task.spec.family)
        if not parts:
            name = task.spec.name
            return registry.attack(name, self.attacked, x, y, norm, epsilon, **options), {}

        def craft(part, x, y):
            """Attack by one part; the next one gets the images that are robust when rounded."""
            x_adv = registry.attack(part, self.attacked, x, y, norm, epsilon, **options)
            return to_levels(x, x_adv, norm, epsilon) if self.rounded else x_adv

        output, asked = self.results.path, [self.results.question, epsilon, options, x.sum().item()]
        file = BatchFile(output and unfinished(output), json.dumps(asked, default=str))
        x_adv, robust = craft_in_parts(parts, self.attacked, x, y, craft, file)
        fooled = {part: before - after for part, before, after in zip(parts, robust, robust[1:])}
        return x_adv, fooled

    def judge(self, spec: Spec | None, x, x_adv, y, right, epsilon: float) -> dict:
        """Judge adversarial images.

        Args:
            spec: the attack; None for an unknown one, which is judged by the norm.
            right: which natural images the network gets right, (N,).

        Returns the columns outcomes (see results.py), norms (of the perturbations that fooled),
        and perturbed (how many images differ from their natural ones).
        """
        wrong, delta = ~self._right(x_adv, y), x_adv - x
        norms = l2_norm(delta) if self.threat.norm == "l2" else delta.flatten(1).abs().amax(1)
        within = norms <= epsilon * (1 + TOLERANCE) + TOLERANCE
        if spec is not None and spec.kind in UNSEEN:
            within = torch.ones_like(within)
        fooled = right & wrong
        return {
            "outcomes": letters(right, fooled, within),
            "norms": [round(size, 6) for size in norms[fooled].tolist()],
            "perturbed": int((x_adv != x).flatten(1).any(1).sum()),
            **({"fresh_right": self.predictors.right(x_adv, y)} if self.predictors else {}),
        }

    def given(self, name: str, x_adv: numpy.ndarray) -> dict:
        """Make the row of adversarial images made before.

        x_adv: float32 in [0,1] or uint8, (N,3,H,W), one for each image of the evaluation.
        """
        row, first, spec = empty_row(made=self.results.made()), 0, None
        with suppress(InputError):
            spec = registry.parse(name)  # an attack of ours is judged by the budget that it has
        for x, y in self._batches():
            part = as_images(x_adv[first : first + len(y)]).to(x.device)
            first += len(y)
            add_columns(row, self.judge(spec, x, part, y, self._right(x, y), self.threat.epsilon))
        any_norm = spec is not None and spec.kind in BOTH_WAYS
        self.results.add(name, row, "given", any_norm)
        return row
