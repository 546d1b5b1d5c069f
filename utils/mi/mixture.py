"""Worst-case mutual information of linear classifiers on a Gaussian mixture, in closed form.

Labels y = +-1 are equally likely, x ~ N(y theta, S), the representation is z = g(x) = sgn(w.x), and
an adversary moves x within a ball of radius epsilon in the p-norm. Three numbers decide everything
(1/p + 1/q = 1):

    a = w.theta, the margin;   s = sqrt(w'Sw), the spread;   b = epsilon |w|_q, the shift of w.x.

Zhu, Zhang and Evans, ICML 2020, section 3.2. Their Theorem 3.2 prints its two bounds exchanged, and
their Equation A.1 has P where P/2 belongs; docs/worst_case_MI.md says how this was found.
"""

import math

import numpy
from scipy.special import ndtr  # the distribution function of N(0, 1)

from utils.mi.caps import binary_entropy


def closed_form(margin, spread, shift) -> dict:
    """Compute the mutual information, risks and bounds of sgn(w.x), in nats; numbers or arrays.

    Args:
        margin: a, of either sign: the classifier f* takes the better of z and -z.
        spread: s, above 0.
        shift: b, 0 or more.

    Returns:
        P: the probability that w.x lies within b of 0, where the adversary chooses z.
        I, I_worst, RV: I(X; z), its infimum over perturbed inputs, and their difference.
        risk, adv_risk, adversarial_gap: of f*, and adv_risk - risk. gap <= P <= 2 gap.
        rv_lower, rv_upper: the bounds on RV of the corrected Theorem 3.2.
    """
    a, s, b = (numpy.asarray(each, dtype=float) for each in (margin, spread, shift))
    inside = ndtr((a + b) / s) - ndtr((a - b) / s)
    risk, adv_risk = ndtr(-abs(a) / s), ndtr((b - abs(a)) / s)
    gap = adv_risk - risk
    worst = binary_entropy((1 - inside) / 2)
    values = {
        "P": inside,
        "I": math.log(2) + 0 * inside,
        "I_worst": worst,
        "RV": math.log(2) - worst,
        "risk": risk,
        "adv_risk": adv_risk,
        "adversarial_gap": gap,
        "rv_lower": math.log(2) - binary_entropy((1 - gap) / 2),
        "rv_upper": math.log(2) - binary_entropy(numpy.maximum(0, 0.5 - gap)),
    }
    return values if inside.ndim else {name: float(value) for name, value in values.items()}


def dual_norm(w: numpy.ndarray, p: float) -> float:
    """Compute |w|_q with 1/p + 1/q = 1, for p above 1; p may be infinite."""
    return float(numpy.linalg.norm(w, 1 if math.isinf(p) else p / (p - 1)))


def worst_shift(w: numpy.ndarray, p: float) -> numpy.ndarray:
    """Compute the direction v, |v|_p = 1, in which w.v = |w|_q, the most possible; p is above 1.

    One shift of every input, x - epsilon v or x + epsilon v, attains I_worst.
    """
    power = 0 if math.isinf(p) else 1 / (p - 1)  # q/p
    return numpy.sign(w) * (abs(w) / dual_norm(w, p)) ** power


def of_classifier(
    w: numpy.ndarray, theta: numpy.ndarray, covariance: numpy.ndarray, p: float, epsilon: float
) -> tuple[float, float, float]:
    """Compute margin, spread and shift of w on the mixture of theta and covariance."""
    return float(w @ theta), math.sqrt(w @ covariance @ w), epsilon * dual_norm(w, p)


def robust_classifier(theta: numpy.ndarray, epsilon: float) -> numpy.ndarray:
    """Compute the linear classifier w, |w|_2 = 1, of least adversarial risk under Linf, where
    S = sigma^2 I: theta with every component moved towards 0 by epsilon.

    Its adversarial risk is Phi(-|w before it is scaled|_2 / sigma). Raises ValueError where no
    component of theta exceeds epsilon: every classifier's adversarial risk is then 1/2 or more.
    """
    w = numpy.sign(theta) * numpy.maximum(abs(theta) - epsilon, 0)
    if not w.any():
        raise ValueError(
            f"epsilon {epsilon:g} is no smaller than the largest component of theta, "
            f"{abs(theta).max():g}: no linear classifier has an adversarial risk below 1/2"
        )
    return w / numpy.linalg.norm(w)
