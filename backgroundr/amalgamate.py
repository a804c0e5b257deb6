"""Join this package into one file: `python -m backgroundr.amalgamate`.

The file is the whole program for a machine where nothing may be installed, and readable for
whoever has to approve it there: every module as it stands, comments and docstrings included, in
an order in which each comes after those that it uses. All that is left out is what the modules
say to each other, their imports of one another. It also makes the package a zip application.
Both are the same, byte for byte, on every machine.
"""

from __future__ import annotations

import argparse
import ast
import io
import os
import pkgutil
import sys
import textwrap
import zipfile

from .guardian import PART_MARK
from .version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Optional, Set, Tuple

# What `import backgroundr` and `python -m backgroundr` begin with.
_ENTRIES = ("__init__", "__main__")
_RULE = "# " + "=" * 86
_LINE_CHARS = 100

# The text of the file LICENSE, which an installed package does not have.
_LICENSE = """\
MIT License

Copyright (c) 2026 The backgroundr maintainers

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""

_ABOUT = """
backgroundr %(version)s, the whole program in one file.

    python3 -I backgroundr.py           serve MCP on stdin and stdout, for an MCP client
    python3 -I backgroundr.py --demo    see it at work, and check that this machine can run it
    python3 -I backgroundr.py --help    the options
    import backgroundr                  the library

(-I keeps Python from importing what lies beside this file in the place of its own modules.)

It needs Python 3.8 or newer and nothing else. These are all the modules that it imports, and
all of them belong to Python; those in brackets are imported when they are needed, or on one
system only:

%(imports)s

What it does on a machine, beside what the commands do that it is asked to start:

  starts    /bin/sh or --shell, with these commands; prlimit, which marks them; the guardian, a
            Python of its own that runs four of the parts below; ps, lsof or netstat, where there
            is no /proc; for --demo itself, and two small Python programs
  reads     /proc, its own file, and the environment: BACKGROUNDR_..., PATH, HOME, COMSPEC,
            PYTHONUNBUFFERED, for --demo TERM and NO_COLOR
  writes    no file without --log-dir, but for --demo in a temporary directory
  connects  to nothing, but where the system cannot tell who listens on a port of this machine
            to that port, and for --demo to its own web server
  exec      runs in the guardian, which gets those four parts through a pipe: _LOADER, _PROGRAM

It was written by `python3 -m backgroundr.amalgamate` from the package of this version, which
writes the same bytes each time. Each part below is a module of the package as it stands there,
less its imports of the other modules, and uses only what stands above it. What is below
"if TYPE_CHECKING:" is for type checkers, and never runs. The parts:

"""


class _Module:
    """A module of the package. source: its text; tree: the same as `ast.Module`."""

    def __init__(self, name: str) -> None:
        data = pkgutil.get_data(__package__ or "backgroundr", name + ".py")
        assert data is not None
        self.source = data.decode("utf-8").replace("\r\n", "\n")
        self.tree = ast.parse(self.source)


def single_file() -> str:
    """Return the program as the text of one file."""
    modules = _in_reading_order(_ENTRIES)
    docstring_lines = modules["__init__"].tree.body[0].end_lineno
    docstring = modules["__init__"].source.split("\n")[:docstring_lines]
    head = "\n".join([*docstring, "", "from __future__ import annotations", ""])
    parts = []
    for name, module in modules.items():
        lines = _without_siblings(module)
        text = "\n".join(lines[docstring_lines:] if name == "__init__" else lines).strip()
        parts.append("%s\n%s%s.py\n%s\n\n%s\n" % (_RULE, PART_MARK, name, _RULE, text))
    # The contents stand above and tell the lines below: first how many lines they take.
    begin = (_about(modules, [0] * len(parts)) + head).count("\n")
    begins = []
    for part in parts:
        begins.append(begin + 3)  # behind two empty lines
        begin += 2 + part.count("\n")
    return "\n\n".join([_about(modules, begins) + head, *parts])


def zip_application() -> bytes:
    """Return the program as a zip application, which Python runs as it is.

    It holds the package, this module too; not compressed, for that would only delay the start.
    """
    files = {
        "backgroundr/%s.py" % name: module.source.encode()
        for name, module in _in_reading_order((*_ENTRIES, "amalgamate")).items()
    }
    files["backgroundr/py.typed"] = b""
    files["LICENSE"] = _LICENSE.encode()
    files["__main__.py"] = b"import sys\n\nfrom backgroundr.cli import main\n\nsys.exit(main())\n"
    data = io.BytesIO(b"#!/usr/bin/env python3\n")
    data.seek(0, os.SEEK_END)
    with zipfile.ZipFile(data, "a") as archive:
        for name in sorted(files):
            info = zipfile.ZipInfo(name)  # with the oldest date there is, 1980
            info.create_system = 3  # POSIX, wherever it is made
            info.external_attr = 0o644 << 16
            archive.writestr(info, files[name])
    return data.getvalue()


def _in_reading_order(entries: Tuple[str, ...]) -> Dict[str, _Module]:
    """Return `entries` and all modules that they need, each behind those that it imports."""
    read: Dict[str, _Module] = {}
    order: Dict[str, _Module] = {}

    def visit(name: str) -> None:
        if name not in read:
            read[name] = _Module(name)
            for node in ast.walk(read[name].tree):
                if isinstance(node, ast.ImportFrom) and _is_sibling_import(node):
                    visit(node.module or "__init__")
            order[name] = read[name]

    for name in entries:
        visit(name)
    return order


def _is_sibling_import(node: ast.AST) -> bool:
    return isinstance(node, ast.ImportFrom) and node.level > 0


def _without_siblings(module: _Module) -> List[str]:
    """Return the lines of a module without its imports of siblings and of __future__.

    Up to the first such import they are all there.
    """
    dropped: Set[int] = set()

    def drop(node: ast.stmt) -> None:
        assert node.end_lineno is not None
        dropped.update(range(node.lineno - 1, node.end_lineno))

    def is_left(body: List[ast.stmt]) -> bool:
        """Drop what is to be dropped of a suite; return whether anything is left of it."""
        left = False
        for node in body:
            if _is_sibling_import(node) or (
                isinstance(node, ast.ImportFrom) and node.module == "__future__"
            ):
                drop(node)
                continue
            suites = (getattr(node, field, ()) for field in ("body", "orelse", "finalbody"))
            left_of_each = [is_left(suite) for suite in suites if suite]
            if isinstance(node, ast.If) and not any(left_of_each):
                drop(node)
                continue
            if not all(left_of_each):
                raise ValueError("nothing would be left of a suite at line %d" % node.lineno)
            left = True
        return left

    is_left(module.tree.body)
    kept: List[str] = []
    in_gap = False
    for number, line in enumerate(module.source.split("\n")):
        if number in dropped:
            in_gap = True
        elif line or not in_gap or (kept[-1] and not kept[-1].endswith(":")):
            kept.append(line)
            in_gap = False
        # else: of a gap not the empty lines on both sides
    return kept


def _about(modules: Dict[str, _Module], lines: List[int]) -> str:
    """Return the comment at the top of the single file."""
    about = _LICENSE + _ABOUT % {"version": __version__, "imports": _imports(modules)}
    for name, line in zip(modules, lines):
        summary = (ast.get_docstring(modules[name].tree) or "").split("\n")[0]
        summary = textwrap.shorten(summary, _LINE_CHARS - 27, placeholder=" ...")
        about += "%7d  %-15s %s\n" % (line, name, summary)
    comments = [("# " + line).rstrip() for line in about.split("\n")]
    return "#!/usr/bin/env python3\n%s\n" % "\n".join(comments)


def _imports(modules: Dict[str, _Module]) -> str:
    """Return the names of all imported modules, those not always imported in brackets."""
    always: Set[str] = set()
    all_of_them: Set[str] = set()
    for module in modules.values():
        always.update(*map(_imported, module.tree.body))
        all_of_them.update(*map(_imported, ast.walk(module.tree)))
    words = [name if name in always else "(%s)" % name for name in sorted(all_of_them)]
    return textwrap.fill(
        " ".join(words), _LINE_CHARS - 8, initial_indent="    ", subsequent_indent="    "
    )


def _imported(node: ast.AST) -> Set[str]:
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module is not None:
        return {node.module}
    return set()


def run_amalgamate(argv: Optional[List[str]] = None) -> int:
    """Run the program with `argv`, by default the process's own; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m backgroundr.amalgamate",
        description="Write backgroundr as one file, for machines where nothing may be installed.",
    )
    parser.add_argument("--pyz", action="store_true", help="a zip application of the package")
    parser.add_argument(
        "file", nargs="?", help="where to write it (default: dist/backgroundr.py, or .pyz)"
    )
    options = parser.parse_args(argv)
    path = options.file or os.path.join(
        "dist", "backgroundr.pyz" if options.pyz else "backgroundr.py"
    )
    try:
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        # Not before it is known what to write: that may be read from there.
        data = zip_application() if options.pyz else single_file().encode()
        with open(path, "wb", opener=lambda name, flags: os.open(name, flags, 0o777)) as file:
            file.write(data)
    except OSError as error:
        parser.error(str(error))
    print("%s (%d KiB)" % (path, len(data) // 1024))
    return 0


if __name__ == "__main__":
    sys.exit(run_amalgamate())
