"""Theorem 1 where each of its terms is known: on a joint Gaussian."""

import math

import numpy


class JointGaussian:
    """Model a natural pattern x ~ N(0, C), an adversarial pattern n = K x + m, the adversarial
    sample x~ = x + n and the output z = A x~ + B x + e, with m ~ N(0, s_m^2) and e ~ N(0, s_e^2)
    independent of x and of each other. All in float64.

    Args:
        covariance: C (d, d), positive definite.
        follow: K (d, d), how the adversarial pattern follows the natural one.
        through, direct: A and B (k, d); B is 0 where the output sees x~ alone.
        spread, noise: s_m and s_e, above 0.
    """

    def __init__(
        self, covariance, follow, through, direct, spread: float = 0.3, noise: float = 0.3
    ):
        k, d = through.shape
        one, nothing = numpy.eye(d), numpy.zeros((d, k))
        of_sources = {  # of x, m and e
            "x": [one, 0 * one, nothing],
            "n": [follow, one, nothing],
            "x~": [one + follow, one, nothing],
            "z": [through @ (one + follow) + direct, through, numpy.eye(k)],
        }
        self.maps = {name: numpy.hstack(parts) for name, parts in of_sources.items()}
        self.sources = numpy.diag([0.0] * d + [spread**2] * d + [noise**2] * k)
        self.sources[:d, :d] = covariance

    def covariance(self, names: tuple[str, ...], others: tuple[str, ...]) -> numpy.ndarray:
        """Compute the covariance of the variables `names`, one below the other, with `others`."""
        rows, columns = (
            numpy.vstack([self.maps[name] for name in some]) for some in (names, others)
        )
        return rows @ self.sources @ columns.T

    def entropy(self, names: tuple[str, ...], given: tuple[str, ...] = ()) -> float:
        """Compute the differential entropy H(names | given) in nats. No variable may be a function
        of the others."""
        rest = self.covariance(names, names)
        if given:
            cross = self.covariance(names, given)
            rest = rest - cross @ numpy.linalg.solve(self.covariance(given, given), cross.T)
        return float(numpy.linalg.slogdet(2 * math.pi * math.e * rest)[1] / 2)

    def mi(self, a: str, b: str, given: tuple[str, ...] = ()) -> float:
        """Compute I(a; b | given) in nats."""
        return self.entropy((a,), given) + self.entropy((b,), given) - self.entropy((a, b), given)

    def theorem1(self) -> dict[str, float]:
        """Compute the terms of Theorem 1 in nats, each by itself,

            I(x~; z) = I(x; z) + I(n; z) - I(x; n; z) + H(z | x, n) - H(z | x~),
            I(x; n; z) = I(x; n) - I(x; n | z),

        the sum on its right, and the difference of the two sides.
        """
        terms = {
            "I(x~;z)": self.mi("x~", "z"),
            "I(x;z)": self.mi("x", "z"),
            "I(n;z)": self.mi("n", "z"),
            "I(x;n;z)": self.mi("x", "n") - self.mi("x", "n", ("z",)),
            "H(z|x,n)": self.entropy(("z",), ("x", "n")),
            "H(z|x~)": self.entropy(("z",), ("x~",)),
        }
        right = (
            terms["I(x;z)"]
            + terms["I(n;z)"]
            - terms["I(x;n;z)"]
            + terms["H(z|x,n)"]
            - terms["H(z|x~)"]
        )
        return terms | {"right side": right, "difference": terms["I(x~;z)"] - right}


def theorem1_cases(dim: int, outputs: int, seed: int) -> dict[str, JointGaussian]:
    """Build joint Gaussians of random covariances and maps that differ in how n follows x and in
    what z sees."""
    random = numpy.random.default_rng(seed)
    root, follow = random.normal(size=(2, dim, dim)) / math.sqrt(dim)
    through, direct = random.normal(size=(2, outputs, dim)) / math.sqrt(dim)
    covariance = root @ root.T + 0.5 * numpy.eye(dim)
    return {
        "n independent of x": JointGaussian(covariance, 0 * follow, through, 0 * direct),
        "n correlated with x": JointGaussian(covariance, follow, through, 0 * direct),
        "n takes 80 % of x away": JointGaussian(
            covariance, -0.8 * numpy.eye(dim), through, 0 * direct
        ),
        "z sees x beside x~": JointGaussian(covariance, follow, through, direct),
    }
