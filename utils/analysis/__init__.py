"""The parts of analyze_MI.py: a file each, with its options beside it in `options`."""
