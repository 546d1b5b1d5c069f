"""Declare the options of an evaluation beyond networks, images and attacks.

Nothing here imports torch.
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass
class Others:
    """What an evaluation reads and writes besides."""

    estimator_dir: Path | None = None
    """The MI estimators that mi-N and mi-values-N attack; when not given the folder that the run in
    --model-dir was trained with.
    """
    corruptions: Path | None = None
    """Accuracy on the corrupted images in this folder, such as CIFAR-10-C, instead of attacks."""
    robustbench_json: Path | None = None
    """Write this file for RobustBench's leaderboard, from the rows none and aa."""
