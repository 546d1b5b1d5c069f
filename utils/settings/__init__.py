"""The command line: options, presets, and how they are read."""
