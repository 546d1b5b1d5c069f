"""What the training stages and the evaluation share: attacks, losses, the training loop, files of a run, reports."""
