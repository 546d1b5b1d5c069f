"""Measure time, arithmetic and memory of each step of training, and how they grow: ./run bench

Importing this package does not import torch.
"""

# {part: its title in the table}. "naive" is the arrangement of the same loss in naive.py.
PARTS = {
    "loader": "loader, a batch",
    "pgd": "PGD step",
    "at": "AT step",
    "namid": "NAMID step",
    "naive-namid": "naive NAMID step",
    "stage2": "stage-2 step",
    "naive-stage2": "naive stage-2 step",
    "evaluation": "evaluation, a batch",
    "worst-case": "worst-case MI step",
    "vib": "VIB step with FGSM",
    "entropic": "entropic step",
}
