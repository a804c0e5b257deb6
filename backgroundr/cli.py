"""The command line: `python -m backgroundr` and its flags."""

from __future__ import annotations

import os
import sys

from .jsonrpc import MAX_MESSAGE_BYTES
from .logfile import LOG_BYTES
from .manager import BUFFER_BYTES, FINISHED_BUFFER_BYTES, MAX_TASKS
from .version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any, Dict, List, Optional

# The handshakes of known clients take up to 1 KiB.
_LEAST_MESSAGE_BYTES = 4096
_LEAST_BUFFER_BYTES = 1024


def main(argv: Optional[List[str]] = None) -> int:
    """Run the program with `argv`, by default the process's own; return its exit status."""
    argv = sys.argv[1:] if argv is None else argv
    options: Dict[str, Any] = {}
    if argv:  # argparse costs a client milliseconds that the plain start need not pay
        options = vars(_parse(argv))
        if options.pop("demo"):
            from .demo import run_demo

            return run_demo()
    from .server import run_stdio_server

    return run_stdio_server(**options)


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
        "--buffer-bytes",
        metavar="N",
        type=int,
        default=BUFFER_BYTES,
        help="how much of its most recent output is kept in memory a task (default: %(default)d)",
    )
    parser.add_argument(
        "--finished-buffer-bytes",
        metavar="N",
        type=int,
        default=FINISHED_BUFFER_BYTES,
        help="how much output finished tasks keep together; beyond it, those that ended first"
        " give theirs up (default: %(default)d)",
    )
    parser.add_argument(
        "--log-dir",
        metavar="DIR",
        help="write the whole output of each task to a file in DIR, which is made if it is"
        " missing (default: no files)",
    )
    parser.add_argument(
        "--log-bytes",
        metavar="N",
        type=int,
        default=LOG_BYTES,
        help="how long each of these files may become (default: %(default)d)",
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
    if options.buffer_bytes < _LEAST_BUFFER_BYTES:
        parser.error("argument --buffer-bytes: must be at least %d" % _LEAST_BUFFER_BYTES)
    if options.finished_buffer_bytes < 0:
        parser.error("argument --finished-buffer-bytes: must be 0 or more")
    if options.log_bytes < 1:
        parser.error("argument --log-bytes: must be at least 1")
    if options.log_dir is not None:
        options.log_dir = os.path.expanduser(options.log_dir)  # clients start us without a shell
        try:
            os.makedirs(options.log_dir, 0o700, exist_ok=True)
        except OSError as error:
            parser.error("argument --log-dir: %s" % error)
        if not os.access(options.log_dir, os.W_OK | os.X_OK):
            parser.error(
                "argument --log-dir: no file can be made in the directory %r" % options.log_dir
            )
    if options.max_message_bytes < _LEAST_MESSAGE_BYTES:
        parser.error(
            "argument --max-message-bytes: must be at least %d, or no client could get in"
            % _LEAST_MESSAGE_BYTES
        )
    return options
