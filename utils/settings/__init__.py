"""Declare and read the command line: options, presets, values."""
