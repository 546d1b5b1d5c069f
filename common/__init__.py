"""What every package needs: the ways a command ends, files and locks."""
