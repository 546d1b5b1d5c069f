"""Name the normalisations with which published networks were trained. Imports no torch."""

from common.errors import InputError

# The mean and the standard deviation of each channel of images in [0,1]: (x - mean) / std.
Normalisation = tuple[tuple[float, ...], tuple[float, ...]]

NORMALISATIONS: dict[str, Normalisation] = {
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "svhn": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
}


def checked(mean, std) -> Normalisation:
    """Return a mean and a standard deviation as three numbers each; a single number counts for
    all channels.

    Raises InputError where they are something else, or where a deviation is not above 0.
    """
    sides = []
    for side in (mean, std):
        numbers = list(side) if isinstance(side, list | tuple) else [side]
        valid = len(numbers) in (1, 3) and all(type(n) in (int, float) for n in numbers)
        # A NaN is not equal to itself.
        if not valid or any(n != n or abs(n) == float("inf") for n in numbers):
            raise InputError(f"mean or std {side}: give one number, or one for each of 3 channels")
        sides.append(tuple(float(n) for n in numbers * (3 // len(numbers))))
    if min(sides[1]) <= 0:
        raise InputError(f"std {std}: give numbers above 0, by which the channels are divided")
    return sides[0], sides[1]


def agreed(asked: Normalisation | None, own: Normalisation | None, what: str) -> Normalisation:
    """Choose the normalisation of a network: its own, or the one that was asked for.

    asked, own: None where there is none; an own one of mean 0 and std 1 is none. Raises InputError,
    which begins with `what`, where both are given and differ by more than float32 rounds.
    """
    if own == NORMALISATIONS["none"]:
        own = None
    if asked and own:
        pairs = zip((n for side in asked for n in side), (n for side in own for n in side))
        if any(abs(a - b) > 1e-5 for a, b in pairs):
            raise InputError(f"{what} says its own {described(own)}; leave --normalize out")
    return own or asked or NORMALISATIONS["none"]


def described(normalisation: Normalisation) -> str:
    """Return a normalisation as a message prints it."""
    mean, std = (",".join(f"{n:.4g}" for n in side) for side in normalisation)
    return f"normalisation (mean {mean}, std {std})"
