"""The command line: `python -m backgroundr` and its flags."""

from __future__ import annotations

import sys

from .version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Optional


def main(argv: Optional[List[str]] = None) -> int:
    """Run the program with `argv`, by default the process's own; return its exit status."""
    argv = sys.argv[1:] if argv is None else argv
    shell = None
    if argv:  # argparse costs a client milliseconds that the plain start need not pay
        import argparse
        import shutil

        parser = argparse.ArgumentParser(
            prog="backgroundr",
            description="An MCP server for long-running shell commands. Without options it"
            " serves MCP on stdin and stdout, and is meant to be started by an MCP client.",
        )
        parser.add_argument("--version", action="version", version="backgroundr " + __version__)
        parser.add_argument(
            "--demo",
            action="store_true",
            help="play a client against a real server process, for some seconds; also checks"
            " that this machine can run backgroundr",
        )
        parser.add_argument(
            "--shell",
            metavar="PATH",
            help="the shell that runs commands, as 'PATH -c COMMAND'"
            " (default: /bin/sh; on Windows %%COMSPEC%%)",
        )
        options = parser.parse_args(argv)
        shell = options.shell
        if shell is not None and shutil.which(shell) is None:
            parser.error("argument --shell: there is no program %r to run" % shell)
        if options.demo:
            from .demo import run_demo

            return run_demo()
    from .server import run_stdio_server

    return run_stdio_server(shell)
