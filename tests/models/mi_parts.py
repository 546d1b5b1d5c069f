"""What the tests of the MI networks share: one network of each kind, and its input."""

from models.mi import (
    GlobalNet,
    InternalLastNet,
    InternalNet,
    LocalNet,
)

U = 136  # more than the local network's 128 channels, so that its shortcut can be an identity

NETS = {
    "local": lambda: LocalNet(U),
    "global": lambda: GlobalNet(10, U),
    "internal": lambda: InternalNet(6, U),
    "internal-last": lambda: InternalLastNet(6, U),
}
INPUTS = {
    "local": (4, 3, 32, 32),
    "global": (4, 10),
    "internal": (4, 6, 8, 8),
    "internal-last": (4, 6, 4, 4),
}
