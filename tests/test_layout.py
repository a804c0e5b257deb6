"""The shape of the code: the floors, what is imported, and what importing costs."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

from .client import ENVIRONMENT
from .forms import ROOT, checkout_only

pytestmark = checkout_only  # it looks at the sources, not at what is made of them

PACKAGE = ROOT / "backgroundr"

# Arrows point down only: a file imports from lower floors. What is of neither side below may see
# both, the protocol's and the processes'.
FLOORS = [
    {"version", "errors", "cancel", "taskinput"},
    {"lifecycle", "output", "screen", "reader", "ending", "marks", "proctree_win", "logfile"}
    | {"stdio", "ports", "jsonrpc", "schema", "board"},
    {"proctable", "subscriptions", "paging", "terminal"},
    {"proctree_posix", "guardian"},
    {"proctree"},
    {"keeper", "arguments"},
    {"status", "policy"},
    {"waiting", "sending"},
    {"manager"},
    {"report", "hints"},
    {"handlers", "resources"},
    {"tool"},
    {"tools"},
    {"mcp"},
    {"service"},
    {"server"},
    {"demo"},
    {"cli", "amalgamate"},
    {"__init__", "__main__"},
]
PROTOCOL_SIDE = {"jsonrpc", "schema", "subscriptions"}
PROCESS_SIDE = {
    "lifecycle",
    "output",
    "screen",
    "reader",
    "paging",
    "logfile",
    "status",
    "arguments",
    "policy",
    "taskinput",
    "stdio",
    "ports",
    "terminal",
    "waiting",
    "sending",
    "ending",
    "keeper",
    "marks",
    "proctable",
    "proctree_posix",
    "proctree_win",
    "guardian",
    "proctree",
    "manager",
}

# Each costs 3 to 60 ms, before the first answer.
EXPENSIVE = {
    "argparse",
    "asyncio",
    "concurrent.futures",
    "ctypes",
    "dataclasses",
    "difflib",
    "http.client",
    "inspect",
    "logging",
    "traceback",
    "typing",
    "uuid",
}

FILES = sorted(path.stem for path in PACKAGE.glob("*.py"))


@functools.lru_cache(maxsize=None)
def tree_of(name):
    return ast.parse((PACKAGE / (name + ".py")).read_text(encoding="utf-8"))


@functools.lru_cache(maxsize=None)
def imports_of(name):
    """Return the import nodes of a file, wherever they stand in it."""
    return [
        node for node in ast.walk(tree_of(name)) if isinstance(node, (ast.Import, ast.ImportFrom))
    ]


def siblings_of(name):
    """Return the names of the files of the package that a file imports from."""
    return {
        node.module for node in imports_of(name) if isinstance(node, ast.ImportFrom) and node.level
    }


def floor_of(name):
    return next(number for number, floor in enumerate(FLOORS) if name in floor)


def test_each_file_has_its_floor():
    """The table of floors names every file, once, and no other."""
    assert sorted(name for floor in FLOORS for name in floor) == FILES


@pytest.mark.parametrize("name", FILES)
def test_arrows_point_down(name):
    """A file imports from lower floors only, so that there is no cycle."""
    for sibling in siblings_of(name):
        assert floor_of(sibling) < floor_of(name), sibling


@pytest.mark.parametrize("name", FILES)
def test_the_two_sides_do_not_see_each_other(name):
    """The protocol knows no processes, and the manager no protocol."""
    if name in PROTOCOL_SIDE:
        assert not siblings_of(name) & PROCESS_SIDE
    if name in PROCESS_SIDE:
        assert not siblings_of(name) & (PROTOCOL_SIDE | {"mcp", "tools"})


@pytest.mark.parametrize("name", FILES)
def test_siblings_are_imported_by_name(name):
    """A file imports names, relatively and without renaming: so files can be joined."""
    for node in imports_of(name):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1
            assert node.module
            assert [alias.asname for alias in node.names] == [None] * len(node.names)
        else:
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names]
            assert not any(str(imported).split(".")[0] == "backgroundr" for imported in names)


@pytest.mark.skipif(sys.version_info < (3, 10), reason="needs sys.stdlib_module_names")
@pytest.mark.parametrize("name", FILES)
def test_only_the_standard_library_is_imported(name):
    """A file imports nothing that Python does not bring along."""
    for node in imports_of(name):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif not node.level:
            modules = [node.module]
        for module in modules:
            assert module.split(".")[0] in sys.stdlib_module_names


def names_defined_in(body):
    """Yield the names that statements define at the top level, in whatever branch."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign):
            yield node.target.id
        elif isinstance(node, (ast.Import, ast.ImportFrom)) and not getattr(node, "level", 0):
            for alias in node.names:
                yield "import " + (alias.asname or alias.name.split(".")[0])
        elif isinstance(node, ast.If):
            yield from names_defined_in(node.body + node.orelse)


def test_top_level_names_are_unique():
    """No two files define the same name, so that they can be joined into one."""
    seen = {}
    for name in FILES:
        for one in set(names_defined_in(tree_of(name).body)) - {"TYPE_CHECKING", "__all__"}:
            if one.startswith("import "):
                one, place = one[len("import ") :], "an import"
            else:
                place = name
            assert seen.setdefault(one, place) == place, "%s, in %s and %s" % (one, seen[one], name)


@pytest.mark.parametrize("name", FILES)
def test_public_things_have_contracts(name):
    """Every module, public class, function and method says in a docstring what it promises."""
    tree = tree_of(name)
    assert ast.get_docstring(tree)

    def visit(node, inherits):
        for child in node.body:
            if isinstance(child, ast.ClassDef):
                assert ast.get_docstring(child), child.name
                visit(child, bool(child.bases))
            elif isinstance(child, ast.FunctionDef) and not child.name.startswith("_"):
                # An override has the contract of its base; what is inside a private class or
                # a function is nobody's interface.
                private = isinstance(node, ast.ClassDef) and node.name.startswith("_")
                assert ast.get_docstring(child) or inherits or private, child.name

    visit(tree, False)


def loaded_by(statement):
    """Return what a fresh interpreter has loaded after `statement`, beyond what it starts with."""
    program = (
        "import sys, json, threading, subprocess, selectors, signal; before = set(sys.modules)\n"
        "%s\nprint(*sorted(set(sys.modules) - before))" % statement
    )
    output = subprocess.run(
        [sys.executable, "-S", "-c", program],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        check=True,
    ).stdout
    return set(output.decode().split())


def test_importing_is_cheap_and_starts_nothing():
    """Neither the library nor the server loads an expensive module before it is needed."""
    assert not loaded_by("import backgroundr") & EXPENSIVE
    assert not loaded_by("import backgroundr.server, backgroundr.cli") & EXPENSIVE
    started = loaded_by("import backgroundr, threading; assert threading.active_count() == 1")
    assert "backgroundr.server" not in started


def test_the_package_is_typed():
    """The marker that tells type checkers of the annotations is part of the package."""
    assert Path(PACKAGE, "py.typed").exists()
