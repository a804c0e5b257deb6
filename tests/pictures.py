"""Make the README's pictures of the task board: python3 -m tests.pictures

A real browser shows a real server's tasks; the programs that these run are stand-ins.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from pathlib import Path

from .browser import Browser
from .client import Client
from .forms import ROOT
from .host import Host
from .programs import eventually

WIDTH = 760
DIRECTORY = ROOT / "tests" / "pictures"

PROGRAMS = {
    "npm": r"""
echo
echo "  VITE v7.1.4  ready in 312 ms"
echo
echo "  Local:   http://localhost:5173/"
echo
i=0
while [ $i -lt 14 ]; do
    i=$((i + 1))
    echo "10:15:$((20 + i)) [vite] hmr update /src/App.tsx, /src/index.css (x$i)"
    [ $i = 9 ] && echo "10:15:29 [vite] Pre-transform error: Unexpected token (42:7)" >&2
    sleep 0.$((i % 4 + 1))
done
exec sleep 600""",
    "make": r"""
echo "cc -O2 -c src/lexer.c -o lexer.o"
echo "cc -O2 -c src/parse.c -o parse.o"
echo "src/parse.c:118:9: error: unknown type name 'tokn'" >&2
echo "make: *** [Makefile:14: parse.o] Error 1" >&2
exit 2""",
    "pytest": "sleep 1.4; echo '214 passed in 1.38s'",
    "postgres": "trap '' TERM; echo 'LOG:  database system is ready to accept connections'\n"
    "sleep 600 & wait; wait",
    "python3": "echo 'Python 3.13.0 on linux'; printf '>>> '; cat >/dev/null",
}


def main() -> None:
    DIRECTORY.mkdir(exist_ok=True)
    programs = Path(tempfile.mkdtemp())
    app = Path(tempfile.gettempdir(), "app")
    app.mkdir(exist_ok=True)
    for name, script in PROGRAMS.items():
        (programs / name).write_text("#!/bin/sh\n" + script + "\n")
        (programs / name).chmod(stat.S_IRWXU)
    env = {"PATH": "%s:%s" % (programs, os.environ["PATH"])}
    browser = Browser(tempfile.mkdtemp())
    try:
        with Client(env=env, cwd=str(app)) as client:
            client.open()
            client.start("make -j4", name="build")
            client.start("pytest -q", name="tests")
            client.start("postgres -D data", name="db", until_output=["ready"])
            client.start("python3 -q", name="repl", pty=True)
            client.start("npm run dev", name="web")
            hosts = [
                Host(browser, client, context={"theme": theme}, width=WIDTH)
                for theme in ("light", "dark")
            ]
            hosts[1].click("web", ".row")
            hosts[1].see("(x14)", "#lines")
            client.send_call("end_background_task", task_id="db", grace_seconds=9)
            for host, theme in zip(hosts, ("light", "dark")):
                if theme == "light":
                    host.see("SIGKILL in ", "#tasks")
                    take(host, "list-light")
                    host.click("web", ".row")
                    host.see("(x14)", "#lines")
                    take(host, "task-light")
                else:
                    take(host, "task-dark")
                    host.click("Back to all tasks")
                    host.see("SIGKILL in ", "#tasks")
                    take(host, "list-dark")
            client.call("end_background_task", task_id="db", signal="SIGKILL")
    finally:
        browser.close()
        for directory in (programs, app):
            shutil.rmtree(str(directory))


def take(host: Host, name: str) -> None:
    """Take a picture of the board, and of nothing below."""
    height = host.heard("ui/notifications/size-changed")[-1]["params"]["height"]
    host.page.resize(WIDTH, height, scale=2)
    eventually(lambda: host.page.run("innerHeight") == height, "the size")
    host.page.picture(DIRECTORY / (name + ".webp"))
    host.page.resize(WIDTH, 900)


if __name__ == "__main__":
    main()
