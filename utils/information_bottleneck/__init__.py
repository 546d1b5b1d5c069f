"""Studies of trained bottleneck networks, and of estimators where the truth is known."""
