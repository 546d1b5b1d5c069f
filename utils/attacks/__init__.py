"""Attacks: PGD, which training uses (`pgd`), and every other one by its name (`attack`).

Importing this package does not import torch: the command line reads the names of the attacks from
`utils.attacks.registry`.
"""

from utils.attacks.registry import attack

__all__ = ["attack", "pgd"]


def __getattr__(name: str):
    if name == "pgd":
        from utils.attacks.projected_gradient import pgd

        return pgd
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
