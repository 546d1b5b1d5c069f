"""Leave out the attacks whose library is missing or broken."""

import importlib

from common.errors import InputError
from utils.attacks import registry

OPTIONAL = ("utils.attacks.cw_ddn",)  # modules that import a library of requirements-attacks.txt


def available(attacks: dict[str, dict]) -> dict[str, dict]:
    """Return those of {name: its settings} that can run, and name the others in one warning.

    Raises InputError where none can.
    """
    wrong: dict[str, str] = {}
    for module in OPTIONAL:
        names = [name for name in attacks if _module(name) == module]
        try:
            if names:
                importlib.import_module(module)
        except InputError as error:
            wrong |= dict.fromkeys(names, str(error))
    left = {name: settings for name, settings in attacks.items() if name not in wrong}
    for reason in dict.fromkeys(wrong.values()):
        listed = ", ".join(name for name in wrong if wrong[name] == reason)
        if not left:
            raise InputError(f"--attacks {listed}: {reason}")
        print(f"warning: {listed} left out: {reason}", flush=True)
    return left


def _module(name: str) -> str:
    """Return the module of the attack of that name."""
    return registry.FAMILIES[registry.parse(name).family].function.rpartition(".")[0]
