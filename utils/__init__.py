"""What scripts share: attacks, MI, training, evaluation, options, devices and processes."""

import os

# Figures go to files. Matplotlib reads this variable, and fails on an unknown value, at its import.
os.environ["MPLBACKEND"] = "agg"
