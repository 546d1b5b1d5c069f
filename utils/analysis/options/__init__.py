"""The options of each part of analyze_MI.py. Nothing here imports torch."""
