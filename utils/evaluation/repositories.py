"""Import the modules of a user's repository beside ours, although both may be called `models`.

Most repositories have packages or files `models`, `utils` and `data`, as ours has. A module of the
user's is therefore kept in `sys.modules` under a private prefix, and gets builtins of its own, with
an `__import__` that looks into its repository first. Python takes `__import__` from the builtins of
the module whose code runs. So `models` is the user's in the user's code, also in functions that
are called later, and ours in ours. `builtins`, `sys.path` and our entries of `sys.modules` stay as
they are.
"""

import builtins
import importlib
import os
import sys
import sysconfig
import traceback
import types
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import resolve_name
from pathlib import Path

OURS = Path(__file__).resolve().parents[2]
PACKAGES = ("common", "data", "models", "utils")  # ours, which a user's code may call
INSTALLED = ("site-packages", "dist-packages")  # folders that hold installed packages
LIBRARY = os.path.realpath(sysconfig.get_paths()["stdlib"]) + os.sep


class Repository:
    """Hold how the code of a user's repository is imported.

    root: the folder of its top-level modules. prefix: what their names in `sys.modules` begin with.
    """

    def __init__(self, root: Path):
        self.root = root
        self.prefix = f"_factory_{len(_REPOSITORIES) + 1}"
        self.builtins = {**vars(builtins), "__import__": self._import}
        self.importlib = _Importlib(self)
        self._owned: dict[tuple, bool] = {}
        self._path = list(sys.path)
        package = types.ModuleType(self.prefix)
        package.__path__ = [str(root)]
        sys.modules[self.prefix] = package

    def search(self) -> list[str]:
        """Return Python's path as a script of the repository would have it: `root` instead of our
        folder.
        """
        path = [str(self.root) if _folder(entry) == OURS else entry for entry in sys.path]
        return path if str(self.root) in path else [str(self.root), *path]

    def private(self, name: str) -> str:
        """Return the name in `sys.modules` of what the user's code calls `name`."""
        return f"{self.prefix}.{name}" if self.owns(name.partition(".")[0]) else name

    def owns(self, top: str) -> bool:
        """Decide whether a top-level name is that of a module of the user's, not an installed one.

        A module that was imported already, under its own name and from the same file, stays so.
        """
        if f"{self.prefix}.{top}" in sys.modules:
            return True
        key = (top, *sys.path)
        if key not in self._owned:
            self._owned[key] = top not in sys.stdlib_module_names and self._finds(top)
        return self._owned[key]

    def _finds(self, top: str) -> bool:
        """Search for a top-level name that is not imported yet."""
        spec = PathFinder.find_spec(top, self.search())
        if spec is None or spec.origin is None:
            return any(map(self._is_package, (spec and spec.submodule_search_locations) or ()))
        known = getattr(sys.modules.get(top), "__file__", None)
        return not _installed(spec.origin) and known != spec.origin

    def _is_package(self, folder: str) -> bool:
        """Decide whether a folder without __init__.py is a package: `data` often holds images.

        It holds code, and lies in the repository or on a path that the user's code added.
        """
        above = str(Path(folder).parent)
        added = above == str(self.root) or above not in self._path
        return added and any(any(Path(folder).glob(code)) for code in ("*.py", "*/*.py"))

    def _import(
        self,
        name: str,
        globals: Mapping | None = None,
        locals: Mapping | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> types.ModuleType:
        """Import for a statement in the user's code; see the built-in `__import__`."""
        top = name.partition(".")[0]
        full = name if level else self.private(name)
        module = builtins.__import__(full, globals, locals, fromlist or (), level)
        if module is importlib:  # whose import_module does not say whose code calls it
            return self.importlib
        return module if fromlist or full == name else sys.modules[f"{self.prefix}.{top}"]

    def module(self, name: str) -> types.ModuleType:
        """Import a module of the repository by the name that it has there."""
        return importlib.import_module(f"{self.prefix}.{name}")


class _Importlib(types.ModuleType):
    """Be the `importlib` of the user's code."""

    def __init__(self, repository: Repository):
        super().__init__("importlib")
        self._repository = repository

    def import_module(self, name: str, package: str | None = None) -> types.ModuleType:
        """Import as `importlib.import_module`, the user's module where there is one."""
        if name.startswith(".") and package:
            name = resolve_name(name, package)
        return importlib.import_module(self._repository.private(name), package)

    def __getattr__(self, name: str):
        return getattr(importlib, name)


class _Loader(SourceFileLoader):
    """Run a module of the user's with its repository's builtins."""

    def __init__(self, repository: Repository, name: str, path: str):
        super().__init__(name, path)
        self.repository = repository

    def exec_module(self, module: types.ModuleType) -> None:
        vars(module)["__builtins__"] = self.repository.builtins
        super().exec_module(module)


class _Finder:
    """Find the modules under the private prefixes."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a user's module, with a loader of ours; None for any other name."""
        prefix, _, rest = name.partition(".")
        repository = next((each for each in _REPOSITORIES.values() if each.prefix == prefix), None)
        if repository is None or path is None:
            return None
        spec = PathFinder.find_spec(name, path if "." in rest else repository.search(), target)
        if spec and type(spec.loader) is SourceFileLoader:
            spec.loader = _Loader(repository, name, spec.loader.path)
        return spec


_REPOSITORIES: dict[Path, Repository] = {}


def at(root: Path) -> Repository:
    """Return the repository whose top-level modules lie in the folder `root`."""
    if not any(each is _Finder for each in sys.meta_path):
        sys.meta_path.insert(0, _Finder)
    root = root.resolve()
    if root not in _REPOSITORIES:
        _REPOSITORIES[root] = Repository(root)
    return _REPOSITORIES[root]


def of_module(name: str) -> Repository | None:
    """Return the repository, in the current folder or on Python's path, of package.module.

    None where the module is ours, installed, imported already, or nowhere.
    """
    for entry in (os.getcwd(), *sys.path):
        where: Sequence[str] = [entry]
        spec = None
        for part in name.split("."):
            spec = PathFinder.find_spec(part, where)
            where = (spec and spec.submodule_search_locations) or []
        if spec and spec.origin:
            known = getattr(sys.modules.get(name), "__file__", None) == spec.origin
            plain = known or _folder(entry) == OURS or _installed(spec.origin)
            return None if plain else at(Path(entry))
    return None


def where_raised(error: BaseException) -> str:
    """Return " (file, line N)", the user's line on which an error was raised; "" where it is none
    of the user's.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({error.filename}, line {error.lineno})"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        ours = any(OURS / package in path.parents for package in PACKAGES)
        if path.is_file() and not ours and not _installed(frame.filename):
            return f" ({frame.filename}, line {frame.lineno})"
    return ""


def _folder(entry: str) -> Path:
    """Return the folder that an entry of Python's path means; "" is the current one."""
    return Path(entry or ".").resolve()


def _installed(path: str) -> bool:
    """Return whether a path belongs to an installed package or to Python's library."""
    return os.path.realpath(path).startswith(LIBRARY) or any(
        part in INSTALLED for part in Path(path).parts
    )
