"""What scripts share: attacks, MI, training, evaluation, options, devices and processes."""
