"""Compute the terms of Theorem 1 on joint Gaussians: `analyze_MI.py theorem1`."""

from pathlib import Path

from common.files import make_folder, write_csv
from utils.mi.theorem1 import theorem1_cases
from utils.plots import table


def measure(dim: int, outputs: int, seed: int, output: Path) -> None:
    """Compute the terms of each case, write theorem1.csv and print them.

    Args:
        dim: components of the patterns x and n.
        outputs: components of the output z.
        seed: seed of the random covariances and maps.
        output: the folder of the file.
    """
    make_folder(output, "--output")
    cases = {name: joint.theorem1() for name, joint in theorem1_cases(dim, outputs, seed).items()}
    write_csv(output / "theorem1.csv", [{"case": name, **terms} for name, terms in cases.items()])
    print("I(x~;z) = I(x;z) + I(n;z) - I(x;n;z) + H(z|x,n) - H(z|x~), in nats\n")
    terms = list(next(iter(cases.values())))
    print(table(["case", *terms], [_line(name, values) for name, values in cases.items()]))
    print(f"\nwritten: {output}/theorem1.csv")


def _line(name: str, terms: dict[str, float]) -> list[str]:
    """Write a case as a line of the printed table."""
    formats = dict.fromkeys(terms, ".4f") | {"difference": ".1e"}
    return [name, *(format(value, formats[term]) for term, value in terms.items())]
