"""Objectives over per-sample MI values (N,): of the estimators (stage 2) and the target (stage 3).

In stage 2, ``a`` is an estimator's value on its own kind of sample and ``b`` on the other:

    natural estimator      a = E_n(x; h(x))     b = E_n(x; h(x~))
    adversarial estimator  a = E_a(n; h(x~))    b = E_a(n; h(x))

``masks`` are the sets C, R, W of `utils.mi.patterns.select`. cos_S(a, b) is the cosine similarity,
as that of torch.nn.functional, of the vectors that a and b form over a set S. An empty set
contributes 0 with zero gradient, and values outside a set do not reach its terms, not even as NaN.
Sets are weights, never indices: no function here waits for the device.
"""

import torch
import torch.nn.functional as F


def _sum(values, mask):
    return torch.where(mask, values, 0).sum()


def _mean(values, mask):
    return _sum(values, mask) / mask.sum().clamp(min=1)


def _cosine(a, b, mask):
    """Compute cos_S(a, b); 0 for an empty set and where a vector is 0."""
    return F.cosine_similarity(torch.where(mask, a, 0), torch.where(mask, b, 0), dim=0)


def _cosine_gap(a, b, mask):
    """Compute |1 - cos|; 0 for an empty set."""
    return torch.where(mask.any(), (1 - _cosine(a, b, mask)).abs(), 0)


def cosine_natural(
    a: torch.Tensor, b: torch.Tensor, masks: dict[str, torch.Tensor]
) -> torch.Tensor:
    """Compute the released code's objective of the natural estimator:

        [5 |cos_W(a,b)| - sum_W a / |C|] + 0.5 [5 |1 - cos_R(a,b)| - sum_R a / |C|].

    Where the attack fools the target (W) the two outputs are to share no information about the
    image, where it does not (R) the same. With C empty: -mean a.
    """
    correct, robust, fooled = masks["C"], masks["R"], masks["W"]
    n_correct = correct.sum().clamp(min=1)
    on_fooled = 5 * _cosine(a, b, fooled).abs() - _sum(a, fooled) / n_correct
    on_robust = 5 * _cosine_gap(a, b, robust) - _sum(a, robust) / n_correct
    return torch.where(correct.any(), on_fooled + 0.5 * on_robust, -a.mean())


def cosine_adversarial(
    a: torch.Tensor, b: torch.Tensor, masks: dict[str, torch.Tensor]
) -> torch.Tensor:
    """Compute the released code's objective of the adversarial estimator:

        [5 |cos_W(a,b)| - mean_W a] + 0.5 [8 |1 - cos_R(a,b)| + 0.1 mean_R a].

    With C empty: -mean a.
    """
    correct, robust, fooled = masks["C"], masks["R"], masks["W"]
    on_fooled = 5 * _cosine(a, b, fooled).abs() - _mean(a, fooled)
    on_robust = 8 * _cosine_gap(a, b, robust) + 0.1 * _mean(a, robust)
    return torch.where(correct.any(), on_fooled + 0.5 * on_robust, -a.mean())


def difference(a: torch.Tensor, b: torch.Tensor, masks: dict[str, torch.Tensor]) -> torch.Tensor:
    """Compute the paper's Eq. 5, to be minimised: -(mean_W a - mean_W b)."""
    return _mean(b, masks["W"]) - _mean(a, masks["W"])


def maximum(
    a: torch.Tensor, b: torch.Tensor | None, masks: dict[str, torch.Tensor], over: str = "C"
) -> torch.Tensor:
    """Compute the paper's Eq. 4, to be minimised: minus the mean of `a` over ``masks[over]``.

    The natural estimator's set is C; the adversarial one's, {argmax h(x~) != y}, is for the caller
    to add to `masks`. `b` is not used and may be None: all stage-2 objectives are called alike.
    """
    return -_mean(a, masks[over])


def wmim(standard_adv: torch.Tensor) -> torch.Tensor:
    """Compute L_mi of WMIM, to be minimised: -mean_i E_s(x~_i; h(x~_i)), of the standard MI values
    (N,) of whole adversarial images."""
    return -standard_adv.mean()


def namid_parts(
    natural: torch.Tensor | None,
    natural_adv: torch.Tensor | None,
    adversarial: torch.Tensor | None,
    adversarial_adv: torch.Tensor | None,
    mask: torch.Tensor,
    lam: float = 0.1,
    without: str | None = None,
) -> dict[str, torch.Tensor]:
    """Compute the three terms of L_mi (the paper's Eq. 8), lambda included; `namid` is their sum.

        natural      |1 - cos( E_n(x;h(x~)), E_n(x;h(x)) )|
        adversarial  |1 - cos( E_a(n;h(x~)), E_a(n;h(x)) )|
        difference   lambda mean[ E_a(n;h(x~)) - E_n(x;h(x~)) ]

    Args:
        natural, natural_adv: E_n(x;h(x)) and E_n(x;h(x~)), (N,).
        adversarial, adversarial_adv: E_a(n;h(x)) and E_a(n;h(x~)), (N,).
        mask: boolean (N,), the samples the terms are taken over: W of `utils.mi.patterns.select`
            (Eq. 6).
        lam: lambda; 0 is the paper's ablation (iii).
        without: "adversarial" is its ablation (i), "natural" its ablation (ii). That estimator's
            cosine term is 0, in lambda's term the other estimator's mean alone stays, and its two
            values are not read and may be None.

    Returns: three scalars; all 0 where `mask` is empty.

    Raises ValueError for another `without`.
    """
    if without not in (None, "natural", "adversarial"):
        raise ValueError(f"without {without!r} is unknown; choose natural, adversarial or None")
    zero = torch.zeros((), device=mask.device)
    natural_gap = natural_mean = adversarial_gap = adversarial_mean = zero
    if without != "natural":
        natural_gap = _cosine_gap(natural_adv, natural, mask)
        natural_mean = _mean(natural_adv, mask)
    if without != "adversarial":
        adversarial_gap = _cosine_gap(adversarial_adv, adversarial, mask)
        adversarial_mean = _mean(adversarial_adv, mask)
    return {
        "natural": natural_gap,
        "adversarial": adversarial_gap,
        "difference": lam * (adversarial_mean - natural_mean),
    }


def namid(
    natural: torch.Tensor | None,
    natural_adv: torch.Tensor | None,
    adversarial: torch.Tensor | None,
    adversarial_adv: torch.Tensor | None,
    mask: torch.Tensor,
    lam: float = 0.1,
    without: str | None = None,
) -> torch.Tensor:
    """Compute L_mi, the mutual-information loss of NAMID, a scalar: the sum of `namid_parts`, which
    explains the arguments."""
    parts = namid_parts(natural, natural_adv, adversarial, adversarial_adv, mask, lam, without)
    return parts["natural"] + parts["adversarial"] + parts["difference"]
