"""Robust accuracy: counting, warnings, and where a network comes from."""
