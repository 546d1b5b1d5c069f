"""What the training stages share: the loop, the run folder, losses, schedules."""
