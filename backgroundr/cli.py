"""The command line: `python -m backgroundr` and its flags."""

from __future__ import annotations

import sys

from .jsonrpc import MAX_MESSAGE_BYTES
from .manager import MAX_TASKS
from .version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import List, Optional

# The handshakes of known clients take up to 1 KiB.
_LEAST_MESSAGE_BYTES = 4096


def main(argv: Optional[List[str]] = None) -> int:
    """Run the program with `argv`, by default the process's own; return its exit status."""
    argv = sys.argv[1:] if argv is None else argv
    shell = None
    max_message_bytes = MAX_MESSAGE_BYTES
    max_tasks = MAX_TASKS
    if argv:  # argparse costs a client milliseconds that the plain start need not pay
        options = _parse(argv)
        if options.demo:
            from .demo import run_demo

            return run_demo()
        shell = options.shell
        max_message_bytes = options.max_message_bytes
        max_tasks = options.max_tasks
    from .server import run_stdio_server

    return run_stdio_server(shell, max_message_bytes, max_tasks)


def _parse(argv: List[str]) -> argparse.Namespace:
    """Return the options; exits with a message when there is a wrong one."""
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
    parser.add_argument(
        "--max-tasks",
        metavar="N",
        type=int,
        default=MAX_TASKS,
        help="how many tasks may run at once; a further one is refused with an error"
        " (default: %(default)d)",
    )
    parser.add_argument(
        "--max-message-bytes",
        metavar="N",
        type=int,
        default=MAX_MESSAGE_BYTES,
        help="the longest line that is taken from the client; a longer one is answered with"
        " an error and skipped (default: %(default)d)",
    )
    options = parser.parse_args(argv)
    if options.shell is not None and shutil.which(options.shell) is None:
        parser.error("argument --shell: there is no program %r to run" % options.shell)
    if options.max_tasks < 1:
        parser.error("argument --max-tasks: must be at least 1, or no task could run")
    if options.max_message_bytes < _LEAST_MESSAGE_BYTES:
        parser.error(
            "argument --max-message-bytes: must be at least %d, or no client could get in"
            % _LEAST_MESSAGE_BYTES
        )
    return options
