"""Average the values that the steps of an epoch log."""

import torch


class Means:
    """Average logged values over samples; sums stay on the device.

    Reading a mean waits for the device; adding to it does not.
    """

    def __init__(self, saved: dict | None = None, device="cpu"):
        self.sums = {
            name: [total.to(device), count] for name, (total, count) in (saved or {}).items()
        }

    def add(self, values: dict[str, torch.Tensor], n: int) -> None:
        """Add the means `values` of a batch of `n` samples."""
        for name, value in values.items():
            entry = self.sums.setdefault(
                name, [torch.zeros((), dtype=torch.float64, device=value.device), 0]
            )
            entry[0] += n * value.detach()
            entry[1] += n

    def get(self) -> dict[str, float]:
        """Return the mean of each value."""
        return {name: total.item() / count for name, (total, count) in self.sums.items()}

    def state(self) -> dict:
        """Return the sums on the CPU, for a checkpoint."""
        return {name: (total.cpu(), count) for name, (total, count) in self.sums.items()}
