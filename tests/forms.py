"""The forms in which backgroundr is used. TEST_FORM in the environment says which one is tested:

package   the checkout, the default
wheel     installed from a wheel, with its command `backgroundr`
single    all in one file
pyz       a zip application
vendored  a copy inside of another package, where another version is installed too

Imported before everything else of the tests, so that whatever they import, and every process that
they start, is of that form.
"""

from __future__ import annotations

import atexit
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FORM = os.environ.get("TEST_FORM", "package")
# The name by which the package is imported.
PACKAGE = "backgroundr"
# The command line of a server.
SERVER = [sys.executable, "-m", PACKAGE]
# Statements that load all of a server, and name its `main`.
LOAD_SERVER = "import backgroundr.server; from backgroundr.cli import main"

checkout_only = pytest.mark.skipif(FORM != "package", reason="looks at the checkout itself")

_DIRECTORY = Path(tempfile.mkdtemp(prefix="backgroundr-form-"))
_MODULES = sorted(path.stem for path in (ROOT / "backgroundr").glob("*.py"))
_OTHER_VERSION = "raise ImportError('the version that is installed was imported')\n"


def _run(*arguments: object) -> None:
    subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, check=True)


def _build(directory: Path) -> list[Path]:
    """Make what is to be tested; return where Python shall look for it."""
    global PACKAGE, SERVER, LOAD_SERVER
    if FORM == "package":
        return [ROOT]
    if FORM == "wheel":
        # From a copy: setuptools leaves files behind where it builds, and packs them again.
        source = directory / "source"
        source.mkdir()
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, source)
        shutil.copytree(ROOT / "backgroundr", source / "backgroundr")
        pip = ["-m", "pip", "--quiet", "--disable-pip-version-check"]
        _run(*pip, "wheel", "--no-deps", "--wheel-dir", directory, source)
        (wheel,) = directory.glob("*.whl")
        _run(*pip, "install", "--no-deps", "--target", directory / "site", wheel)
        SERVER = [sys.executable, str(directory / "site" / "bin" / "backgroundr")]
        return [directory / "site"]
    if FORM == "single":
        file = directory / "backgroundr.py"
        _run("-m", "backgroundr.amalgamate", file)
        SERVER = [sys.executable, str(file)]
        LOAD_SERVER = "from backgroundr import main"
        return [directory]
    if FORM == "pyz":
        file = directory / "backgroundr.pyz"
        _run("-m", "backgroundr.amalgamate", "--pyz", file)
        SERVER = [sys.executable, str(file)]
        return [file]
    if FORM == "vendored":
        vendor = directory / "othertool" / "_vendor"
        shutil.copytree(ROOT / "backgroundr", vendor / "backgroundr")
        for package in (vendor, vendor.parent):
            (package / "__init__.py").touch()
        installed = directory / "installed" / "backgroundr"
        installed.mkdir(parents=True)
        (installed / "__init__.py").write_text(_OTHER_VERSION)
        PACKAGE = "othertool._vendor.backgroundr"
        SERVER = [sys.executable, "-m", PACKAGE]
        LOAD_SERVER = f"import {PACKAGE}.server; from {PACKAGE}.cli import main"
        return [installed.parent, directory]
    raise ValueError("TEST_FORM must be package, wheel, single, pyz or vendored, not %r" % FORM)


def _import_as_backgroundr() -> None:
    """Have the tests find the modules of the form under the names that they have in a checkout."""
    package = importlib.import_module(PACKAGE)
    sys.modules["backgroundr"] = package
    for name in set(_MODULES) - {"__init__", "__main__", "amalgamate", "proctree_win"}:
        if FORM == "single":
            # There is one module; as an attribute of itself for who names a path to patch.
            module = vars(package).setdefault(name, package)
        else:
            module = importlib.import_module(PACKAGE + "." + name)
        sys.modules["backgroundr." + name] = module


def copy_to(directory: Path) -> tuple[list[str], str]:
    """Copy what is tested; return the command line of a server of the copy, and its PYTHONPATH."""
    if FORM == "package":
        shutil.copytree(str(ROOT / "backgroundr"), str(directory / "backgroundr"))
        return SERVER, str(directory)
    shutil.copytree(str(_DIRECTORY), str(directory))
    moved = [word.replace(str(_DIRECTORY), str(directory)) for word in SERVER]
    return moved, os.environ["PYTHONPATH"].replace(str(_DIRECTORY), str(directory))


def _choose() -> None:
    atexit.register(shutil.rmtree, str(_DIRECTORY), True)
    # Servers are started by the hundred: the first one compiles for all, wherever it may be that
    # nothing is to be written beside the source.
    cache = tempfile.mkdtemp(prefix="backgroundr-cache-")
    atexit.register(shutil.rmtree, cache, True)
    os.environ["PYTHONPYCACHEPREFIX"] = cache
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    places = [str(place) for place in _build(_DIRECTORY)]
    sys.path[:0] = places
    os.environ["PYTHONPATH"] = os.pathsep.join(places)
    if FORM != "package":
        _import_as_backgroundr()


_choose()
