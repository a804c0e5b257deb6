"""What callers of the manager give, checked: what is wrong is an InvalidValue, which says what
to do."""

from __future__ import annotations

import copy
import os
import sys

from .errors import InvalidValue
from .proctree import native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Mapping, Optional, Sequence, Tuple, Union

# A bound for every time that a caller gives: thirty days. Python's own limit for a wait is
# 49 days on Windows, and infinity is refused everywhere.
MAX_SECONDS = 30 * 24 * 3600
_SHOWN_PATH_CHARS = 500
# Each is looked for in all of the output.
_MAX_TEXTS = 50


def check_text(argument: str, text: str) -> None:
    """Raise InvalidValue unless the operating system can be handed `text`."""
    if b"\0" in input_bytes(argument, text):
        raise InvalidValue(argument, "must not contain a NUL character")


def check_texts(argument: str, texts: Union[str, Sequence[str]]) -> Tuple[str, ...]:
    """Return the texts to look for in lines. Raises InvalidValue."""
    texts = (texts,) if isinstance(texts, str) else tuple(texts)
    if len(texts) > _MAX_TEXTS:
        raise InvalidValue(argument, "must be at most %d texts" % _MAX_TEXTS)
    if not all(isinstance(one, str) and one for one in texts):
        raise InvalidValue(argument, "must be texts that are not empty")
    if any("\n" in one for one in texts):
        raise InvalidValue(argument, "must have no newline, for lines are looked at one by one")
    return texts


def input_bytes(argument: str, text: str) -> bytes:
    """Return text as the operating system and programs take it: UTF-8. Raises InvalidValue."""
    if not isinstance(text, str):
        raise InvalidValue(argument, "must be text, not %s" % type(text).__name__)
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise InvalidValue(
            argument, "has a character that is no valid Unicode at position %d" % error.start
        ) from None


def check_seconds(argument: str, seconds: float) -> None:
    """Raise InvalidValue unless `seconds` is a number that can be waited for."""
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise InvalidValue(argument, "must be a number of seconds")
    if not 0 <= seconds <= MAX_SECONDS:
        raise InvalidValue(argument, "must be between 0 and %d seconds" % MAX_SECONDS)


def check_whole(argument: str, number: int, least: int) -> None:
    """Raise InvalidValue unless `number` is a whole number, `least` or more."""
    if isinstance(number, bool) or not isinstance(number, int) or number < least:
        raise InvalidValue(argument, "must be a whole number, %d or more" % least)


def working_directory(cwd: Optional[str]) -> str:
    """Return the absolute path of an existing directory. Raises InvalidValue."""
    if cwd is None:
        try:
            return os.getcwd()
        except OSError:
            raise InvalidValue(
                "cwd", "must be given, for the directory that the server runs in is gone"
            ) from None
    check_text("cwd", cwd)
    if not cwd:
        raise InvalidValue("cwd", "must not be empty")
    try:
        path = os.path.abspath(os.path.expanduser(cwd))
    except OSError:
        raise InvalidValue(
            "cwd", "must be an absolute path, for the directory that the server runs in is gone"
        ) from None
    if not os.path.isdir(native(path)):
        kind = "a file" if os.path.exists(native(path)) else "missing"
        shown = path if len(path) <= _SHOWN_PATH_CHARS else path[:_SHOWN_PATH_CHARS] + "..."
        raise InvalidValue("cwd", "must be an existing directory, and %s is %s" % (shown, kind))
    return path


class TaskSettings:
    """What a task is started with: the arguments of `TaskManager.start`, checked.

    cwd is absolute, env a copy, stdin bytes or None. They do not change any more.
    """

    __slots__ = (
        "command",
        "name",
        "cwd",
        "env",
        "timeout_s",
        "stdin",
        "has_given_up_stdin",
        "interactive",
        "pty",
    )

    def __init__(
        self,
        command: str,
        name: Optional[str] = None,
        cwd: Optional[str] = None,
        env: Optional[Mapping[str, str]] = None,
        timeout_s: Optional[float] = None,
        stdin: Optional[str] = None,
        interactive: bool = False,
        pty: bool = False,
    ) -> None:
        """Raises InvalidValue."""
        check_text("command", command)
        if not command.strip():
            raise InvalidValue("command", "must not be empty")
        if name is not None:
            check_text("name", name)
        if timeout_s is not None:
            check_seconds("timeout_s", timeout_s)
        env = dict(env or {})
        for key, value in env.items():
            check_text("env", key)
            check_text("env", value)
            if not key or "=" in key:
                raise InvalidValue("env", "must not have the name %r: empty, or with a '='" % key)
        if pty and sys.platform == "win32":
            raise InvalidValue("pty", "must be false, for there are no terminals on this system")
        self.command = command
        self.name = name or None
        self.cwd = working_directory(cwd)
        self.env = env
        self.timeout_s = timeout_s
        self.stdin = None if stdin is None else input_bytes("stdin", stdin)
        self.has_given_up_stdin = False
        self.interactive = interactive or pty
        self.pty = pty

    def without_stdin(self) -> TaskSettings:
        """Return the same without the text for stdin, which has become too much to keep."""
        settings = copy.copy(self)
        settings.has_given_up_stdin = bool(self.stdin)
        settings.stdin = None
        return settings
