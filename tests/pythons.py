"""Lists the Pythons on this machine that backgroundr supports: version and path, a line each.

Looks on PATH and among the versions that pyenv installed.
"""

from __future__ import annotations

import glob
import os
import shutil
import subprocess

MINORS = range(8, 14)


def find(minor: int) -> str | None:
    """Return the path of a Python 3.`minor` that runs, or None."""
    root = os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))
    installed = sorted(glob.glob("%s/versions/3.%d.*/bin/python" % (root, minor)), reverse=True)
    on_path = shutil.which("python3.%d" % minor)
    for path in installed + ([on_path] if on_path else []):
        # A shim of pyenv may stand for a version that is not there, so each is tried.
        asked = subprocess.run(
            [path, "-c", "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=False,
        )
        if asked.returncode == 0 and asked.stdout.decode().strip() == "3.%d" % minor:
            return path
    return None


if __name__ == "__main__":
    for minor in MINORS:
        path = find(minor)
        if path is not None:
            print("3.%d %s" % (minor, path))
