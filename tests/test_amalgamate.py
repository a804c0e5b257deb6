"""The single file and the zip application: the whole program, readable, the same on every build."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import zipfile

import pytest

import backgroundr

from .client import ENVIRONMENT, Client
from .forms import FORM, PACKAGE, ROOT
from .programs import eventually, linux_only, new_mark, processes_with
from .pythons import MINORS, find

pytestmark = pytest.mark.skipif(FORM == "single", reason="the single file does not make itself")

MODULES = {path.stem: path.read_text() for path in (ROOT / "backgroundr").glob("*.py")}


def build(*arguments, python=sys.executable):
    """Run the program that joins the package; return what it printed."""
    command = [python, "-m", PACKAGE + ".amalgamate", *map(str, arguments)]
    return subprocess.check_output(command, env=ENVIRONMENT).decode()


@pytest.fixture(scope="module")
def single(dist):
    """The path of the single file."""
    return dist / "backgroundr.py"


@pytest.fixture(scope="module", autouse=True)
def lonely_demo(single, tmp_path_factory):
    """--demo of the single file where there is no network; it takes seconds, beside other tests."""
    unshare = ["unshare", "-n"]
    try:
        subprocess.run([*unshare, "true"], stderr=subprocess.DEVNULL, check=True)
    except (OSError, subprocess.CalledProcessError):
        yield None
        return
    with subprocess.Popen(
        [*unshare, sys.executable, "-I", str(single), "--demo"],
        cwd=str(tmp_path_factory.mktemp("elsewhere")),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        yield process


@pytest.fixture(scope="module")
def pyz(dist):
    """The path of the zip application."""
    return dist / "backgroundr.pyz"


def test_the_same_bytes_come_of_every_build(single, pyz, tmp_path):
    """Any Python, and the zip application itself, write the same two files."""
    other = MINORS[-1] if sys.version_info[1] == MINORS[0] else MINORS[0]
    python = find(other) or sys.executable
    told = build(tmp_path / "again.py", python=python)
    assert told.startswith(str(tmp_path / "again.py"))
    assert (tmp_path / "again.py").read_bytes() == single.read_bytes()
    build("--pyz", tmp_path / "again.pyz", python=python)
    assert (tmp_path / "again.pyz").read_bytes() == pyz.read_bytes()
    subprocess.run(
        [sys.executable, "-m", "backgroundr.amalgamate", str(tmp_path / "third.py")],
        env={**ENVIRONMENT, "PYTHONPATH": str(pyz)},
        cwd=str(tmp_path),
        stdout=subprocess.DEVNULL,
        check=True,
    )
    assert (tmp_path / "third.py").read_bytes() == single.read_bytes()


class WithoutSiblings(ast.NodeTransformer):
    """Removes the imports that modules make of each other, and what would be empty without."""

    def visit_ImportFrom(self, node):
        return None if node.level or node.module == "__future__" else node

    def visit_If(self, node):
        self.generic_visit(node)
        return node if node.body or node.orelse else None


def statements(source):
    tree = WithoutSiblings().visit(ast.parse(source))
    return [ast.dump(node) for node in tree.body]


def test_every_module_is_in_it_as_it_stands(single):
    """A part is its module, comments and docstrings too, less its imports of other modules."""
    parts = re.split(r"^# backgroundr/(\w+)\.py$", single.read_text(), flags=re.MULTILINE)
    found = dict(zip(parts[1::2], parts[2::2]))
    assert set(found) == set(MODULES) - {"amalgamate"}
    for name, text in found.items():
        first = 1 if name == "__init__" else 0  # the docstring of that is the file's
        assert statements(MODULES[name])[first:] == statements(text)
        comments = re.findall(r"^ *# .*$", MODULES[name], re.MULTILINE)
        assert [line for line in comments if line not in text] == []


def test_the_top_tells_version_licence_and_contents(single):
    """Whoever opens it reads what it is, under which licence, and in which line what begins."""
    text = single.read_text()
    lines = text.split("\n")
    assert lines[0] == "#!/usr/bin/env python3"
    top = re.sub("^# ?", "", text[: text.index('"""')], flags=re.MULTILINE)
    assert (ROOT / "LICENSE").read_text() in top
    assert "backgroundr %s, the whole program in one file" % backgroundr.__version__ in top
    contents = re.findall(r"^ +(\d+)  (\w+) ", top, re.MULTILINE)
    assert len(contents) == len(MODULES) - 1
    for number, name in contents:
        assert lines[int(number)] == "# backgroundr/%s.py" % name
    assert max(map(len, lines)) <= 100


def test_the_list_of_imports_is_complete(single):
    """The modules that an auditor is told of are those that are imported, all of them Python's."""
    text = single.read_text()
    told = re.search(r"system only:\n#\n(.*?)\n#\n", text, re.DOTALL).group(1)
    told = {word.strip("()") for word in told.replace("#", " ").split()}
    imported = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(node.module)
    assert told == imported
    if sys.version_info >= (3, 10):
        assert {name.split(".")[0] for name in told} <= sys.stdlib_module_names


def test_it_is_the_same_library(single):
    """`import backgroundr` finds the same names in the file as in the package."""
    program = "import backgroundr; print(backgroundr.__file__, *sorted(backgroundr.__all__))"
    shown = subprocess.check_output(
        [sys.executable, "-W", "error", "-c", program + "; from backgroundr import *"],
        env={**ENVIRONMENT, "PYTHONPATH": str(single.parent)},
        cwd=str(single.parent),
    ).decode()
    assert shown.split() == [str(single), *sorted(backgroundr.__all__)]


def test_an_application_is_a_plain_zip(pyz):
    """What is in it can be looked at, and is not compressed."""
    with zipfile.ZipFile(str(pyz)) as archive:
        names = archive.namelist()
        assert {"backgroundr/%s.py" % name for name in MODULES} < set(names)
        assert {"__main__.py", "LICENSE", "backgroundr/py.typed"} < set(names)
        for info in archive.infolist():
            assert info.compress_type == zipfile.ZIP_STORED
        assert archive.read("backgroundr/mcp.py").decode() == MODULES["mcp"]


def test_a_file_that_cannot_be_written_is_an_error(tmp_path):
    """Where it cannot write, it says so in a line."""
    (tmp_path / "file").touch()
    with pytest.raises(subprocess.CalledProcessError) as failure:
        subprocess.run(
            [sys.executable, "-m", PACKAGE + ".amalgamate", str(tmp_path / "file" / "x.py")],
            env=ENVIRONMENT,
            stderr=subprocess.PIPE,
            check=True,
        )
    assert b"error: [Errno" in failure.value.stderr
    assert b"Traceback" not in failure.value.stderr


@linux_only
@pytest.mark.parametrize("kind", ["single", "pyz"])
def test_a_stranger_runs_it_with_nothing_else(request, tmp_path, kind):
    """An empty home, no environment, no write access: a task runs, and none is left behind."""
    file = tmp_path / ("a file." + kind)
    file.write_bytes(request.getfixturevalue(kind).read_bytes())
    mark = new_mark()
    places = {"HOME": str(tmp_path / "home"), "PATH": "/usr/bin:/bin"}
    os.mkdir(places["HOME"])
    os.chmod(str(tmp_path), 0o555)
    with Client(
        server=["env", "-i", *map("=".join, places.items()), sys.executable, "-I", str(file)],
        cwd=places["HOME"],
    ) as client:
        client.open()
        client.start("env -i setsid -f sleep %s; exec sleep %s" % (mark, mark))
        eventually(lambda: len(processes_with("sleep\0" + mark)) == 2, "the tree")
        client.process.kill()
        eventually(lambda: not processes_with("sleep\0" + mark), "the end of all")
    assert os.listdir(places["HOME"]) == []
    assert sorted(os.listdir(str(tmp_path))) == [file.name, "home"]


@linux_only
def test_the_demonstration_needs_no_network(lonely_demo):
    """In a sandbox without even a loopback it says so, and shows the rest."""
    if lonely_demo is None:
        pytest.skip("makes a network namespace")
    out, err = lonely_demo.communicate(timeout=60)
    assert b"its page cannot be fetched here" in out
    assert b"All is well" in out
    assert (lonely_demo.returncode, err) == (0, b"")
