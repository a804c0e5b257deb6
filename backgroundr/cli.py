"""The command line: `python -m backgroundr`, its options, and their form in the environment."""

from __future__ import annotations

import os
import sys

from .errors import InvalidValue
from .jsonrpc import MAX_MESSAGE_BYTES
from .logfile import LOG_BYTES
from .manager import BUFFER_BYTES, FINISHED_BUFFER_BYTES, MAX_TASKS
from .marks import ENV_NAME
from .policy import pattern_words
from .version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any, Callable, Dict, List, Mapping, NoReturn, Optional

_SETTING_PREFIX = "BACKGROUNDR_"
_SWITCHES = {"1": True, "true": True, "yes": True, "on": True}
_SWITCHES.update({"0": False, "false": False, "no": False, "off": False})
# The handshakes of known clients take up to 1 KiB.
_LEAST_MESSAGE_BYTES = 4096
_LEAST_BUFFER_BYTES = 1024
_SHOWN_VALUE_CHARS = 200


def main(argv: Optional[List[str]] = None) -> int:
    """Run the program with `argv`, by default the process's own; return its exit status."""
    argv = sys.argv[1:] if argv is None else argv
    options: Dict[str, Any] = {}
    settings = settings_of(os.environ)
    if argv or settings:  # else the plain start need not pay for argparse
        options = _parse(argv, settings)
        if "demo" in options:
            from .demo import run_demo

            for name in settings:  # it shows a server as it is without
                del os.environ[name]
            return run_demo()
    from .server import run_stdio_server

    return run_stdio_server(**options)


def settings_of(environment: Mapping[str, str]) -> Dict[str, str]:
    """Return the variables of an environment that are options of a server."""
    return {
        name: value
        for name, value in environment.items()
        # The mark of a task, for the server itself may run in one, is no option.
        if name.startswith(_SETTING_PREFIX) and name != ENV_NAME
    }


def _parse(argv: List[str], settings: Mapping[str, str]) -> Dict[str, Any]:
    """Return the options that are given; exits with a message when there is a wrong one."""
    import argparse  # in functions only: it costs milliseconds

    class Parser(argparse.ArgumentParser):
        setting = ""  # the variable that is being parsed

        def error(self, message: str) -> NoReturn:
            if not self.setting:
                super().error(message)
            problem = message.partition("argument ")[2].partition(": ")[2] or message
            self.exit(2, "%s: error: %s: %s\n" % (self.prog, self.setting, problem))

    parser = Parser(
        prog="backgroundr",
        description="An MCP server for long-running shell commands. Without options it"
        " serves MCP on stdin and stdout, and is meant to be started by an MCP client.",
        epilog="Each option of the server may also be given by the environment, for example"
        " --max-tasks 20 as BACKGROUNDR_MAX_TASKS=20; the command line goes before. There an"
        " option that may be repeated takes one value a line, and one without a value 1 or 0.",
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--version", action="version", version="backgroundr " + __version__)
    parser.add_argument(
        "--demo",
        action="store_true",
        help="play a client against a real server process, for some seconds; also checks"
        " that this machine can run backgroundr",
    )
    rows = _server_options()
    flags = {}
    for flag, details in rows.items():
        parser.add_argument(flag, **details)
        flags[_SETTING_PREFIX + flag[2:].upper().replace("-", "_")] = flag
    given = vars(parser.parse_args(argv))
    if "demo" in given:
        return given
    options: Dict[str, Any] = {}
    for name, value in settings.items():
        parser.setting = name
        if name not in flags:
            parser.error("there is no such option; there are %s" % ", ".join(flags))
        action = rows[flags[name]].get("action")
        options.update(vars(parser.parse_args(_as_arguments(parser, flags[name], action, value))))
    parser.setting = ""
    options.update(given)
    if "shell" in options and "allow" in options:
        parser.error(
            "--shell (or %sSHELL) and --allow (or %sALLOW) exclude each other, for no"
            " shell runs what is allowed" % (_SETTING_PREFIX, _SETTING_PREFIX)
        )
    return options


def _as_arguments(
    parser: argparse.ArgumentParser, flag: str, action: Optional[str], value: str
) -> List[str]:
    """Return the arguments that a setting stands for."""
    if not value.strip():
        parser.error("must not be empty; leave it out, or give it a value")
    if action == "store_true":
        if value.strip().lower() not in _SWITCHES:
            parser.error("must be one of %s, not %s" % (", ".join(_SWITCHES), _quoted_value(value)))
        return [flag] if _SWITCHES[value.strip().lower()] else []
    values = value.split("\n") if action == "append" else [value]
    return ["%s=%s" % (flag, one.rstrip("\r")) for one in values if one.strip()]


def _server_options() -> Dict[str, Dict[str, Any]]:
    """Return the options of a server: the arguments of `add_argument`, by their flag."""
    return {
        "--shell": {
            "metavar": "PATH",
            "type": _existing_program,
            "help": "the shell that runs commands, as 'PATH -c COMMAND'"
            " (default: /bin/sh; on Windows %%COMSPEC%%)",
        },
        "--allow": {
            "metavar": "PATTERN",
            "action": "append",
            "type": _checked_pattern,
            "help": "start only commands that match PATTERN word by word, without a shell;"
            " * ? [...] stand for text within a word, and a last word ** for any further words;"
            " may be repeated (default: every command, by a shell)",
        },
        "--deny-env": {
            "action": "store_true",
            "help": "refuse commands that are to have environment variables of their own",
        },
        "--cwd-root": {
            "metavar": "DIR",
            "dest": "cwd_roots",
            "action": "append",
            "type": _existing_directory,
            "help": "start commands only in DIR and the directories under it; may be repeated"
            " (default: anywhere)",
        },
        "--max-tasks": {
            "metavar": "N",
            "type": _at_least(1),
            "help": "how many tasks may run at once; a further one is refused with an error"
            " (default: %d)" % MAX_TASKS,
        },
        "--buffer-bytes": {
            "metavar": "N",
            "type": _at_least(_LEAST_BUFFER_BYTES),
            "help": "how much of its most recent output is kept in memory a task (default: %d)"
            % BUFFER_BYTES,
        },
        "--finished-buffer-bytes": {
            "metavar": "N",
            "type": _at_least(0),
            "help": "how much output finished tasks keep together; beyond it, those that ended"
            " first give theirs up (default: %d)" % FINISHED_BUFFER_BYTES,
        },
        "--log-dir": {
            "metavar": "DIR",
            "type": _usable_log_directory,
            "help": "write the whole output of each task to a file in DIR, which is made if it is"
            " missing (default: no files)",
        },
        "--log-bytes": {
            "metavar": "N",
            "type": _at_least(1),
            "help": "how long each of these files may become (default: %d)" % LOG_BYTES,
        },
        "--max-message-bytes": {
            "metavar": "N",
            "type": _at_least(_LEAST_MESSAGE_BYTES),
            "help": "the longest line that is taken from the client; a longer one is answered"
            " with an error and skipped (default: %d)" % MAX_MESSAGE_BYTES,
        },
    }


# ---------------------------------------------------------------- the values of options


def _wrong(problem: str) -> Exception:
    import argparse

    return argparse.ArgumentTypeError(problem)


def _quoted_value(value: str) -> str:
    return repr(value if len(value) <= _SHOWN_VALUE_CHARS else value[:_SHOWN_VALUE_CHARS] + "...")


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise _wrong(
                "must be a whole number, %d or more, not %s" % (least, _quoted_value(text))
            )
        return value

    return number


def _existing_program(path: str) -> str:
    import shutil

    if shutil.which(path) is None:
        raise _wrong("there is no program %s to run" % _quoted_value(path))
    return path


def _checked_pattern(text: str) -> str:
    try:
        pattern_words(text)
    except InvalidValue as error:
        raise _wrong(error.problem) from None
    return text


def _existing_directory(path: str) -> str:
    path = os.path.expanduser(path)  # clients start us without a shell
    if not os.path.isdir(path):
        raise _wrong("there is no directory %s" % _quoted_value(path))
    return path


def _usable_log_directory(path: str) -> str:
    path = os.path.expanduser(path)
    try:
        os.makedirs(path, 0o700, exist_ok=True)
    except OSError as error:
        raise _wrong(str(error)) from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise _wrong("no file can be made in the directory %r" % path)
    return path
