"""Share the training stages' code: the loop, the run folder, losses."""
