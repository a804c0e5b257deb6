"""Checks of what callers of the manager give: each raises InvalidValue, which says what to do."""

from __future__ import annotations

import os

from .errors import InvalidValue
from .proctree import native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional

# A bound for every time that a caller gives: thirty days. Python's own limit for a wait is
# 49 days on Windows, and infinity is refused everywhere.
MAX_SECONDS = 30 * 24 * 3600


def check_text(argument: str, text: str) -> None:
    """Raise InvalidValue unless the operating system can be handed `text`."""
    if not isinstance(text, str):
        raise InvalidValue(argument, "must be text, not %s" % type(text).__name__)
    if "\0" in text:
        raise InvalidValue(argument, "must not contain a NUL character")
    try:
        text.encode("utf-8", "surrogateescape")
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
        raise InvalidValue("cwd", "must be an existing directory, and %s is %s" % (path, kind))
    return path
