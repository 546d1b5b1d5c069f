"""The threat model: a norm and a budget, chosen and checked before anything is computed."""

from dataclasses import dataclass

from common.errors import InputError
from utils.attacks import registry
from utils.settings.options import EPSILON


@dataclass(frozen=True)
class ThreatModel:
    """A ball around each image: its norm, "linf" or "l2", and its radius in pixel units."""

    norm: str
    epsilon: float

    def __str__(self) -> str:
        """Return the ball as the script prints it."""
        return f"{self.norm} {self.epsilon:.4g}"


def threat_model(
    norm: str | None, epsilon: float | None, known: dict, attacks: str = ""
) -> ThreatModel:
    """Choose the norm and the budget: those asked for, else the network's own, else the paper's.

    Args:
        norm, epsilon: as given on the command line; None where they were not.
        known: what the network's run and file say of it.
        attacks: the value of --attacks; the columns of one norm imply that norm.
    """
    norm = norm or known.get("norm") or (attacks if attacks in EPSILON else "linf")
    if epsilon is None:
        epsilon = known["epsilon"] if known.get("norm") == norm else EPSILON[norm]
    return ThreatModel(norm, epsilon)


def check_budgets(attacks: str, threat: ThreatModel, sweep: list[float]) -> None:
    """Refuse columns of another norm, and Linf budgets above the range of a pixel.

    attacks: the value of --attacks; sweep: the budgets of --sweep.
    """
    if attacks in registry.COLUMNS and attacks != threat.norm:
        raise InputError(
            f"--attacks {attacks}: these columns are for --norm {attacks}, not for {threat.norm}; "
            f"give --norm {attacks}, or --attacks {threat.norm}"
        )
    budgets = [("--epsilon", threat.epsilon), *(("--sweep", budget) for budget in sweep)]
    for option, budget in budgets:
        if threat.norm == "linf" and budget > 1:
            raise InputError(
                f"{option} {budget:.6g}: is more than a pixel's range, which is 1; "
                f"write {budget:.6g}/255 for grey levels"
            )


def check_sweep(sweep: str | None, attacks: str, names: dict[str, dict]) -> None:
    """Refuse a sweep of budgets where no attack stays in a ball.

    sweep, attacks: the values of --sweep and --attacks; names: {attack: its settings}.
    """
    if sweep and not any(registry.parse(name).kind == "bounded" for name in names):
        raise InputError(
            f"--sweep {sweep}: {attacks} stays in no ball of a given radius; "
            "give an attack that does, say pgd-40"
        )
