"""The shape of the product: imports that go one way, short functions, short files.

Imports: scripts -> reproduction, benchmarks -> utils -> models, data -> common.
"""

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

from conftest import ROOT

FOLDERS = ("common", "data", "models", "utils", "reproduction", "benchmarks")
# A folder that imports a script, and why it may.
EXCEPTIONS = {
    # A benchmark times the step of a script as it stands there, not a copy of it.
    ("benchmarks.steps", "train_standard"),
    ("benchmarks.steps", "train_MI_estimator"),
    ("benchmarks.steps", "train_MIAT"),
    ("benchmarks.encoder", "train_worst_case_MI"),
    ("benchmarks.retraining", "train_entropic"),
    # The defaults of an option stand in the script that has it, and are compared with results.
    ("reproduction.question", "test_comparison"),
}
# Imports between two modules of a folder that close a circle, and why.
CIRCLES = set()
LONGEST_FUNCTION, LONGEST_FILE = 60, 300  # lines


def files() -> list[Path]:
    """List the product's Python files: the scripts and all files of FOLDERS."""
    return [
        *ROOT.glob("*.py"),
        *(path for each in FOLDERS for path in ROOT.glob(f"{each}/**/*.py")),
    ]


def modules() -> dict[str, ast.Module]:
    """Parse the product code: {dotted name: tree}."""
    found = {}
    for path in files():
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = ast.parse(path.read_text())
    return found


def imported(tree: ast.Module, known: Iterable[str]) -> Iterator[str]:
    """Name the modules of the product that a module imports, also within functions and by
    import_module of a written name."""
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "an import relative to a folder"
            # from folder import module, or from module import name
            within = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [each if each in known else node.module for each in within]
        elif isinstance(node, ast.Call) and "import_module" in ast.unparse(node.func):
            names = [each.value for each in node.args if isinstance(each, ast.Constant)]
        yield from (name for name in names if name in known)


def imports() -> dict[str, set[str]]:
    trees = modules()
    return {name: set(imported(tree, trees)) - {name} for name, tree in trees.items()}


def place(module: str) -> str:
    """Name the folder of a module; within utils its folder there, or the single module."""
    parts = module.split(".")
    return ".".join(parts[: 2 if parts[0] == "utils" else 1])


def circle(edges: dict[str, set[str]]) -> list[str]:
    """Find a way along the edges that comes back to where it began; [] where there is none."""
    done, way = set(), []

    def walk(name):
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return []
        way.append(name)
        found = next(filter(None, map(walk, sorted(edges.get(name, ())))), [])
        way.pop()
        done.add(name)
        return found

    return next(filter(None, map(walk, sorted(edges))), [])


def test_a_circle_is_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}}) == []


def test_no_folder_imports_a_script():
    edges = imports()
    scripts = {path.stem for path in ROOT.glob("*.py")}
    found = {(name, other) for name in edges.keys() - scripts for other in edges[name] & scripts}
    assert found == EXCEPTIONS


def test_imports_between_folders_form_no_circle():
    between = {}
    for name, others in imports().items():
        for other in others:
            if place(other) != place(name):
                between.setdefault(place(name), set()).add(place(other))
    assert {"utils.training", "utils.mi", "utils.devices", "data"} <= between.keys()
    assert not circle(between), " -> ".join(circle(between))


def test_modules_form_no_circle():
    edges = imports()
    for name, other in CIRCLES:
        edges[name].remove(other)
    found = circle(edges)
    assert not found, " -> ".join(found)


def functions(text: str) -> list[tuple[str, int]]:
    """List each function of a file with its number of lines, decorators left out."""
    defined = (ast.FunctionDef, ast.AsyncFunctionDef)
    found = [node for node in ast.walk(ast.parse(text)) if isinstance(node, defined)]
    return [(node.name, node.end_lineno - node.lineno + 1) for node in found]


def test_lines_of_a_function_are_counted():
    text = "@cache\ndef one():\n    return 1\n\n\nclass A:\n    def one(self):\n        pass\n\n"
    assert sorted(functions(text)) == [("one", 2), ("one", 2)]


def test_no_function_is_long():
    found = [(path.name, *each) for path in files() for each in functions(path.read_text())]
    assert {"train_standard.py", "registry.py"} <= {name for name, *_ in found}
    assert not [each for each in found if each[2] > LONGEST_FUNCTION]


def test_no_file_is_long():
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files()}
    assert not {path for path, length in lengths.items() if length > LONGEST_FILE}


# What writes a file, by the name of a call, and the modules that may call it.
WRITES = {"write_text", "write_bytes", "savefig", "save", "savez", "savez_compressed", "open"}
WRITERS = {"common.writing", "common.files", "utils.plots"}
# An open log, to which a command writes as it runs; a terminal that is not there.
STREAMS = {("reproduction.run", "open(log, 'a')"), ("utils.distributed", "open(os.devnull, 'w')")}


def writes(tree: ast.Module) -> Iterator[str]:
    """Yield the calls of a module that write a file by its path."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        name = getattr(called, "attr", getattr(called, "id", None))
        owner = ast.unparse(called.value) if isinstance(called, ast.Attribute) else ""
        if name not in WRITES or (name == "write_text" and not owner):
            continue
        if name == "open":
            mode = ast.unparse(node.args[1]) if len(node.args) > 1 else "r"
            if owner or not set(mode.strip("'b")) <= set("wax+"):
                continue
        elif name.startswith("save"):
            opened = node.args and ast.unparse(node.args[0]) == "file"
            if opened or owner not in ("numpy", "np", "torch", "figure"):
                continue
        yield ast.unparse(node)


def test_a_call_that_writes_is_found():
    found = list(writes(ast.parse("open(p, 'wb')\nopen(p)\np.write_text(t)\nnumpy.save(p, x)")))
    assert found == ["open(p, 'wb')", "p.write_text(t)", "numpy.save(p, x)"]
    assert not list(writes(ast.parse("numpy.savez(file, x=x)\nwrite_text(p, t)")))


def test_one_function_writes_files():
    """Everything else gives it what is to be written (`common.writing.atomic`)."""
    trees = modules().items()
    found = {(name, call) for name, tree in trees for call in writes(tree) if name not in WRITERS}
    assert found == STREAMS
