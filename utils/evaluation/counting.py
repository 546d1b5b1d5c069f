"""Robust accuracy: what a network still gets right under an attack, image by image, kept as it comes.

`Evaluation` fixes everything but the attack; its results file holds one row per attack, grows with every batch, and is what the
same command goes on from.
"""
import contextlib
import itertools
import json
import math
import os
import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy
import torch
from tqdm import tqdm

from common.errors import InputError
from common.files import write_text
from data.batches import in_order
from utils.attacks import registry
from utils.attacks.projected_gradient import TOLERANCE, at_least_float32, l2_norm, to_levels
from utils.attacks.registry import Spec
from utils.devices import Compute, mix
from utils.evaluation.images import as_images, part_file, save_part

# Of a results file, the metadata: not compared when an evaluation is resumed.
TOLD = ("model", "surrogate", "hardware", "versions", "git_commit", "command", "date", "worst_case", "warnings", "saved")
UNSEEN = ("transport", "spatial")  # kinds of attacks whose budgets are of another kind, and kept by the attack


class Counted(torch.nn.Module):
    """A network that counts the images that pass through it, forwards and backwards, and runs in the precision of `compute`;
    its logits are float32 at least."""

    def __init__(self, network: torch.nn.Module, compute: Compute):
        super().__init__()
        self.network, self.compute = network, compute
        self.forwards = self.backwards = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.forwards += len(x)
        with self.compute.autocast():
            logits = at_least_float32(self.network(x))
        if logits.requires_grad:
            logits.register_hook(self._count)
        return logits

    def _count(self, gradient: torch.Tensor) -> None:
        self.backwards += len(gradient)


# A row before its first image. perturbed: images that the attack returned changed; outside: with pixels beyond [0,1].
EMPTY = {"standing": "", "seconds": 0.0, "forward_passes": 0, "backward_passes": 0, "attacked": 0, "norms": [], "outside": 0,
         "perturbed": 0}
SWEPT = " at "  # in the name of a row of --sweep, as in "pgd-40 at 0.1"
# What a row's metadata holds of the command that made it. A row that another commit, machine or version resumes says so.
MADE = ("date", "command", "git_commit", "hardware", "versions")


def marks(fooled: list[bool | None], within: list[bool]) -> str:
    """A letter for each image: r right before and after the attack; w wrong without one; f fallen within the budget; o fallen
    outside of it."""
    return "".join("w" if f is None else "f" if f and i else "o" if f else "r" for f, i in zip(fooled, within))


def unfinished(output: Path) -> Path:
    """The file beside a results file that holds the batch which AutoAttack is at."""
    return output.with_name(f".{output.name}.unfinished.npz")


def wilson(correct: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's interval (95 % for the default z) of a share of which `correct` of `n` were seen, in percent."""
    share, spread = correct / n, z * z / n
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    return 100 * max(0.0, middle - half), 100 * min(1.0, middle + half)


@dataclass
class Evaluation:
    """What is evaluated: `model` on `images` (uint8, (N,3,H,W)) with `labels` (N,), adversarial images crafted on `source` (a
    surrogate; None: the model itself) in a ball of `norm` and `epsilon`. identity: what a results file has to agree with to be
    gone on with. output: the results file, or None to keep nothing."""

    model: torch.nn.Module
    source: torch.nn.Module | None
    images: torch.Tensor
    labels: torch.Tensor
    norm: str
    epsilon: float
    compute: Compute
    batch_size: int
    seed: int
    identity: dict
    output: Path | None = None
    rounded: bool = False  # adversarial images rounded to 256 levels before they are judged
    keep: Path | None = None  # a folder for the adversarial images, a file per attack and batch

    def __post_init__(self):
        self.model = Counted(self.model, self.compute).eval()
        self.source = self.model if self.source is None else Counted(self.source, self.compute).eval()
        self.results = {**self.identity, "attacks": {}}
        if self.output and self.output.is_file():
            self._go_on()

    def _go_on(self) -> None:
        try:
            found = json.loads(self.output.read_text())
            before = found.pop("attacks")
            rows = {name: EMPTY | _with_metadata(name, row, found, before) for name, row in before.items()}
            if not all(isinstance(row["standing"], str) and isinstance(row["norms"], list) for row in rows.values()):
                raise ValueError
        except (ValueError, KeyError, AttributeError, TypeError):
            raise InputError(f"--output {self.output}: is no results file; name another, or --restart to replace it") from None
        asked = json.loads(json.dumps(self.identity))
        other = [name for name in asked | found if asked.get(name) != found.get(name) and name not in TOLD]
        if other:
            raise InputError(f"--output {self.output}: holds another evaluation: {other[0]} {found.get(other[0])} "
                             f"(now {asked.get(other[0])}); name another file, or --restart to replace it")
        self.results = {**found, "attacks": rows}

    def run(self, spec: Spec, epsilon: float | None = None, **settings) -> dict:
        """The row of an attack, made or gone on with; `epsilon` in place of the evaluation's own makes a row of its own.

        Images that the network gets wrong without an attack count as wrong and are not attacked. Success is judged here, on
        the image that the attack returns: the network errs on it and, for an attack that has a budget, it is within.
        A minimum-norm attack is counted both within the budget and at any norm.
        """
        name = spec.name if epsilon is None else f"{spec.name}{SWEPT}{epsilon:.6g}"
        epsilon = self.epsilon if epsilon is None else epsilon
        keep = self.keep if epsilon == self.epsilon else None  # the images of the budget asked for, not of a sweep's
        early = spec.leaves and self.source is self.model and not keep and not self.rounded
        asked = registry.settings_of(spec.name, self.norm, epsilon, **settings)
        row = self.results["attacks"].get(name)
        if row is not None and (why := self._outdated(spec, row, asked, keep)):
            print(f"{name}: {why}; the row is made again", flush=True)
            row = None
        if row is None:
            row = dict(EMPTY, norms=[], settings=asked, stopped_early=early, made=self._made())
        done, n = len(row["standing"]), len(self.labels)
        if 0 < done < n and any(row["made"].get(each) != self.identity.get(each) for each in MADE[2:]):
            row.setdefault("resumed", []).append(self._made())
        if row.get("stopped_early"):
            settings = settings | {"until_fooled": True}
        with tqdm(total=n, initial=done, desc=name, unit="image", disable=not sys.stderr.isatty(), leave=False) as bar:
            first = 0
            batches = in_order(self.images, self.labels, self.batch_size, self.compute.device, channels_last=True)
            for number, (x, y) in enumerate(batches):
                first += len(y)
                if first <= done:
                    continue
                began = time.monotonic()
                found = self._batch(spec, x, y, epsilon, number, first - len(y), settings, keep)
                row["seconds"] += time.monotonic() - began
                for part, fallen in found.pop("parts").items():
                    if first == len(y) or "parts" in row:  # not in a row that began before parts were counted
                        row.setdefault("parts", {}).setdefault(part, 0)
                        row["parts"][part] += fallen
                for column, value in found.items():
                    row[column] += value
                self._sum_up(name, spec, row)
                bar.update(len(y))
                bar.set_postfix_str(f"{row['accuracy']:.1f} % of {len(row['standing'])} stand")
        return self.results["attacks"].setdefault(name, row)

    def _made(self) -> dict:
        """Return the metadata of a row that is made now."""
        return {name: self.identity.get(name) for name in MADE}

    def _outdated(self, spec: Spec, row: dict, asked: dict, keep: Path | None) -> str | None:
        """Say why a row made before has to be made again; None where it need not be."""
        if keep and row.get("stopped_early", spec.leaves):
            return "its images stopped at the first that fooled the network"
        if keep and self._lacks_images(spec, row):
            return "its images were not kept"
        if "settings" not in row:
            unfinished = len(row["standing"]) < len(self.labels)
            return "its settings are not known" if unfinished or spec.family in registry.CHANGED else None
        before, asked = row["settings"], json.loads(json.dumps(asked))
        other = [f"{name} {before.get(name)} (now {asked.get(name)})" for name in before | asked
                 if before.get(name) != asked.get(name)]
        return f"it was made with other settings: {', '.join(other)}" if other else None

    def _lacks_images(self, spec: Spec, row: dict) -> bool:
        """Whether the adversarial images of a row made before are not all kept, so that it has to be made again."""
        sizes = [len(y) for _, y in in_order(self.images, self.labels, self.batch_size)]
        done = sum(end <= len(row["standing"]) for end in itertools.accumulate(sizes))
        return any(not part_file(self.keep, spec.name, number).is_file() for number in range(done))

    def _right(self, x, y) -> torch.Tensor:
        """Which images the network gets right; one with a logit that is no number it does not."""
        with torch.no_grad():
            logits = self.model(x)
        return (logits.argmax(1) == y) & logits.isfinite().all(1)

    def _batch(self, spec, x, y, epsilon, number, first, settings, keep) -> dict:
        """What a batch adds to the columns of a row, and how many images fell to each part of AutoAttack."""
        right = self._right(x, y)
        x_adv, chosen = x.clone(), right.nonzero()[:, 0]
        self.source.forwards = self.source.backwards = 0
        stood = []
        if len(chosen):
            extra = dict(settings)
            if self.rounded and spec.restarts > 1:
                extra["rounded"] = True
            if spec.family == "tidim":
                extra["index"] = first + chosen.cpu()
            if spec.random:
                extra["seed"] = mix(self.seed, number) % 2**31
            if spec.family in registry.PARTS:
                x_adv[chosen], stood = self._craft_in_parts(spec, x[chosen], y[chosen], epsilon, extra)
            else:
                x_adv[chosen] = self._craft(spec, x[chosen], y[chosen], epsilon, extra)
        passes = {"forward_passes": self.source.forwards, "backward_passes": self.source.backwards}
        image = ((x_adv >= -TOLERANCE) & (x_adv <= 1 + TOLERANCE)).flatten(1).all(1)  # false also for what is no number
        x_adv = x_adv.where(x_adv.isfinite(), x).clamp(0, 1)
        if self.rounded:
            x_adv = to_levels(x, x_adv, self.norm, epsilon)
        if keep:
            save_part(keep, spec.name, number, x_adv)
        fooled, within, norms = self.judge(spec, x, x_adv, y, right, epsilon)
        fell = {part: before - after for part, before, after in zip(registry.PARTS.get(spec.family, ()), stood, stood[1:])}
        return {"standing": marks(fooled, within), "attacked": len(chosen), "norms": _of_fallen(fooled, norms),
                "outside": int((~image).sum()), "perturbed": int((x_adv != x).flatten(1).any(1).sum()), **passes,
                "parts": fell if self.source is self.model else {}}

    def _craft(self, spec, x, y, epsilon, extra):
        return registry.attack(spec.name, self.source, x, y, self.norm, epsilon, **extra)

    def _craft_in_parts(self, spec, x, y, epsilon, extra):
        """The images that AutoAttack makes of a batch, its parts one by one, and how many stand before each and in the end. Both
        are kept in a file beside the results, so that a long batch goes on after a kill with the part it was in."""
        parts, state = registry.PARTS[spec.family], None
        kept = self.output and unfinished(self.output)
        asked = {name: value for name, value in self.identity.items() if name not in TOLD}
        question = json.dumps([asked, epsilon, extra, x.sum().item()], default=str)
        if kept and kept.is_file():
            with (contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile),
                  numpy.load(kept, allow_pickle=False) as file):
                state = {name: file[name] for name in file.files} if file["question"] == question and "stood" in file else None
        x_adv, stood = x.clone(), []
        if state:
            x_adv, stood = torch.from_numpy(state["x_adv"]).to(x), state["stood"].tolist()
            self.source.forwards, self.source.backwards = state["passes"].tolist()
        for part in parts[len(stood):]:
            with torch.no_grad():
                left = (self.source(x_adv).argmax(1) == y).nonzero()[:, 0]
            if len(left) == 0:
                break
            x_adv[left] = self._craft(registry.parse(part), x[left], y[left], epsilon, extra)
            if self.rounded:  # the next part is for the images that are robust when rounded
                x_adv[left] = to_levels(x[left], x_adv[left], self.norm, epsilon)
            stood.append(len(left))
            if kept:
                beside = kept.with_name(f"{kept.name}.part.npz")
                numpy.savez(beside, question=question, x_adv=x_adv.cpu().contiguous().numpy(), stood=stood,
                            passes=[self.source.forwards, self.source.backwards])
                os.replace(beside, kept)
        if kept:
            kept.unlink(missing_ok=True)
        passes = self.source.forwards
        with torch.no_grad():
            stood.append(int((self.source(x_adv).argmax(1) == y).sum()))
        self.source.forwards = passes  # this pass is none of the attack's
        return x_adv, stood

    def judge(self, spec, x, x_adv, y, right, epsilon):
        """Of each image whether it fell (None where it was wrong before), whether within the budget, and the perturbation's
        norm."""
        wrong = ~self._right(x_adv, y)
        norms = l2_norm(x_adv - x) if self.norm == "l2" else (x_adv - x).flatten(1).abs().amax(1)
        within = norms <= epsilon * (1 + TOLERANCE) + TOLERANCE
        if spec is not None and spec.kind in UNSEEN:
            within = torch.ones_like(within)
        return [f if r else None for f, r in zip(wrong.tolist(), right.tolist())], within.tolist(), norms.tolist()

    def _sum_up(self, name: str, spec: Spec | None, row: dict, kind: str | None = None) -> None:
        """Write the row's figures from its images, and the results file."""
        n, standing = len(row["standing"]), row["standing"]
        correct = standing.count("r") + standing.count("o")
        row |= {"accuracy": 100 * correct / n, "correct": correct, "n": n, "interval": wilson(correct, n),
                "kind": kind or spec.kind}
        if spec and spec.kind in ("minimum-norm", "spatial"):
            anywhere = standing.count("r")
            row |= {"accuracy_any_norm": 100 * anywhere / n, "correct_any_norm": anywhere,
                    "interval_any_norm": wilson(anywhere, n),
                    "median_norm": float(numpy.median(row["norms"])) if row["norms"] else None}
        self.results["attacks"][name] = row
        self.write()

    def write(self) -> None:
        if self.output:
            write_text(self.output, json.dumps(self.results, indent=1) + "\n")

    def given(self, name: str, x_adv: numpy.ndarray) -> dict:
        """The row of adversarial images made before, float32 in [0,1] or uint8, (N,3,H,W), one for each of our images."""
        row, first, spec = dict(EMPTY, norms=[], made=self._made()), 0, None
        with contextlib.suppress(InputError):
            spec = registry.parse(name)  # an attack of ours is judged by the budget that it has
        for x, y in in_order(self.images, self.labels, self.batch_size, self.compute.device):
            part = as_images(x_adv[first:first + len(y)]).to(x.device)
            first += len(y)
            fooled, within, norms = self.judge(spec, x, part, y, self._right(x, y), self.epsilon)
            row["standing"] += marks(fooled, within)
            row["perturbed"] += int((part != x).flatten(1).any(1).sum())
            row["norms"] += _of_fallen(fooled, norms)
        self._sum_up(name, spec, row, kind="given")
        return row

    def attacks(self) -> dict[str, dict]:
        """Return all complete rows of this evaluation, {name: row}, those of a sweep left out."""
        return {name: row for name, row in self.results["attacks"].items()
                if SWEPT not in name and len(row["standing"]) == len(self.labels)}

    def conclude(self, warned: dict[str, list[str]], of_order: dict[str, list[str]]) -> None:
        """Give each row its warnings, sum up all rows, and write the file. warned: {row of this command: its warnings};
        of_order: {row: warnings that the other rows give rise to}. Rows of earlier commands keep theirs."""
        for name, row in self.results["attacks"].items():
            texts = warned[name] if name in warned else row.get("warnings", [])
            row["warnings"] = list(dict.fromkeys([*texts, *of_order.get(name, ())]))
        self.results["worst_case"] = self.worst_case()
        rows = self.results["attacks"].values()
        self.results["warnings"] = list(dict.fromkeys(text for row in rows for text in row["warnings"]))
        self.write()

    def worst_case(self) -> dict | None:
        """Count what is robust under every attack of this evaluation, within the budget; None for fewer than two."""
        names = list(self.attacks())
        if len(names) < 2:
            return None
        rows = [self.results["attacks"][name]["standing"] for name in names]
        correct = sum(all(mark in "ro" for mark in marks) for marks in zip(*rows))
        n = len(rows[0])
        return {"accuracy": 100 * correct / n, "correct": correct, "n": n, "interval": wilson(correct, n), "attacks": names}


def _with_metadata(name: str, row: dict, file: dict, names) -> dict:
    """Return a row of a results file with metadata and warnings of its own; in older files they stand beside all rows."""
    if "made" in row:
        return row
    general = [text for text in file.get("warnings", ()) if not _about_a_row(text, names)]
    own = [text for text in file.get("warnings", ()) if text.startswith((f"{name}: ", f"{name}, "))]
    return row | {"made": {each: file.get(each) for each in MADE}, "warnings": general + own}


def _about_a_row(text: str, names) -> bool:
    return any(text.startswith((f"{name}: ", f"{name}, ")) for name in names)


def _of_fallen(fooled: list[bool | None], norms: list[float]) -> list[float]:
    return [round(value, 6) for fell, value in zip(fooled, norms) if fell]
