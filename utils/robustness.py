"""Robust accuracy: what a network still gets right under an attack, image by image."""
import sys
import time

import torch
from tqdm import tqdm

from data.batches import in_order
from utils import attack_suite
from utils.devices import mix


def robust_accuracy(spec: attack_suite.Spec, model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, norm: str,
                    epsilon: float, device: torch.device, batch_size: int = 256, seed: int = 1,
                    step_size: float | None = None) -> dict:
    """{"accuracy": percent, "correct", "n", "seconds"} of `model` on `images` (uint8, (N,3,H,W)) under the attack `spec`.

    Images that the network gets wrong without an attack count as wrong and are not attacked. Whether an attack succeeds is
    judged here, on the image it returns.
    """
    began, correct = time.monotonic(), 0
    settings = {"step_size": step_size} if step_size is not None and spec.family in ("bim", "pgd") else {}
    with tqdm(total=len(labels), desc=spec.name, unit="image", disable=not sys.stderr.isatty(), leave=False) as bar:
        for number, (x, y) in enumerate(in_order(images, labels, batch_size, device)):
            with torch.no_grad():
                right = model(x).argmax(1) == y
            if right.any():
                x_adv = attack_suite.attack(spec.name, model, x[right], y[right], norm, epsilon,
                                            **({"seed": mix(seed, number)} if spec.random else {}), **settings)
                with torch.no_grad():
                    correct += (model(x_adv).argmax(1) == y[right]).sum().item()
            bar.update(len(y))
    return {"accuracy": 100 * correct / len(labels), "correct": correct, "n": len(labels), "seconds": time.monotonic() - began}
