"""Robust accuracy: networks, images, counting, results, warnings and the report."""
