"""What `./run bench` runs: the time, arithmetic and memory of each step of training, and how they grow.

Importing this package does not import torch.
"""

# Part: its title in the table. "naive" is the arrangement of the same loss in benchmarks/naive.py.
PARTS = {
    "loader": "loader, a batch",
    "pgd": "PGD step",
    "at": "AT step",
    "namid": "NAMID step",
    "naive-namid": "naive NAMID step",
    "stage2": "stage-2 step",
    "naive-stage2": "naive stage-2 step",
    "evaluation": "evaluation, a batch",
}
