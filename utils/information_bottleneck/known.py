"""The entropy estimators on distributions whose entropy is known."""

from collections.abc import Iterator

import numpy

from utils.mi.feature_entropy import ESTIMATORS
from utils.mi.remez import entropy_term

BIT = float(numpy.log(2))  # nats


def distributions() -> dict[str, numpy.ndarray]:
    """Return {name: probabilities}."""
    zipf = {f"Zipf {m:,}": 1 / numpy.arange(1, m + 1) for m in (1000, 100_000)}
    uniform = {f"uniform {m:,}": numpy.ones(m) for m in (100, 10_000)}
    weights = uniform | zipf | {"geometric 1/2": 0.5 ** numpy.arange(1, 60)}
    return {name: each / each.sum() for name, each in weights.items()}


def rows(samples: tuple[int, ...], repetitions: int, seed: int) -> Iterator[dict]:
    """Yield a row for each distribution, number of samples and estimator: mean, bias and deviation
    in bits.
    """
    for name, p in distributions().items():
        truth = float(entropy_term(p).sum()) / BIT
        for n in samples:
            random = numpy.random.default_rng((seed, n))
            draws = [random.choice(len(p), n, p=p) for _ in range(repetitions)]
            for estimator, function in ESTIMATORS.items():
                values = numpy.array([function(draw) for draw in draws]) / BIT
                yield {
                    "distribution": name,
                    "n": n,
                    "estimator": estimator,
                    "entropy": truth,
                    "mean": float(values.mean()),
                    "bias": float(values.mean()) - truth,
                    "sd": float(values.std(ddof=1)),
                    "repetitions": repetitions,
                }
