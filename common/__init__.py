"""Share what every package needs: errors, files and locks."""
