"""Bytes to text as a terminal would leave it: pure functions, used when somebody reads.

Escape sequences are removed, redraws are resolved to the last state of their line, bytes
that are not UTF-8 are replaced, and a line that is too long is clipped in its middle. The
sequences are those of ECMA-48 and of xterm's control sequence list.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Iterable, List, Match, Tuple

LINE_CHARS = 2000

# Only text that holds one of these needs more than splitting at newlines.
_SPECIAL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

_SEQUENCE = re.compile(
    r"""
      \x1b\[ (?P<args>[0-?]*) [ -/]* (?P<final>[@-~])?       # CSI, also one cut short
    | \x1b [\]PX^_] (?: [^\x07\x1b] | \x1b(?!\\) )* (?: \x07 | \x1b\\ )?   # OSC, DCS, SOS, PM, APC
    | \x1b [ -/]* [0-~]?                                     # the two-byte kind
    | (?P<control> [\x00-\x08\x0b-\x1f\x7f-\x9f] )
    | (?P<text> [^\x00-\x08\x0b-\x1f\x7f-\x9f]+ )
    """,
    re.VERBOSE,
)


# What makes a line more than text and carriage returns.
_BESIDE_RETURN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def decode(data: bytes) -> str:
    """Return `data` read as UTF-8; what does not fit becomes U+FFFD, and the rest is kept."""
    return data.decode("utf-8", "replace")


def lines_of(text: str) -> List[str]:
    """Return the lines of `text` as a terminal would show them at the end, without newlines.

    A last line without a newline counts. CRLF is a newline.
    """
    lines = text.split("\n")
    if lines[-1] == "":
        del lines[-1]
    if _SPECIAL.search(text) is None:
        return lines
    return [settle(line) if _SPECIAL.search(line) else line for line in lines]


def settle(line: str) -> str:
    """Return what is left to see of one line when all of it has been printed.

    Understood: carriage return, backspace, and the sequences that move the cursor in the
    line or erase up to or from it. Other sequences are dropped, other controls made visible (^A).
    """
    if _BESIDE_RETURN.search(line) is None:
        return _overlay(line.split("\r"))
    cells: List[str] = []
    column = 0
    for match in _SEQUENCE.finditer(line):
        text = match.group("text")
        if text is None:
            control = match.group("control")
            if control is None:
                column = _apply_csi(match, cells, column)
                continue
            if control == "\r":
                column = 0
                continue
            if control == "\b":
                column = max(0, column - 1)
                continue
            if control in "\x07\x0e\x0f\x00":  # bell, shifts and padding leave nothing to see
                continue
            text = _visible(control)
        if column > len(cells):
            cells.extend(" " * (column - len(cells)))
        cells[column : column + len(text)] = text
        column += len(text)
    return "".join(cells)


def _overlay(states: List[str]) -> str:
    """Return what is to see when each of `states` is printed over the former ones."""
    seen = ""
    for state in reversed(states):
        if len(state) > len(seen):
            seen += state[len(seen) :]
    return seen


# Wider than any terminal. It bounds what one short sequence can cost, so that no output
# can stall whoever reads it.
_MAX_COLUMN = 1000


def _apply_csi(match: Match[str], cells: List[str], column: int) -> int:
    """Apply one escape sequence to the line; return the new column."""
    final = match.group("final")
    args = match.group("args") or ""
    number = min(int(args[:9]), _MAX_COLUMN) if args.isdigit() else 0
    if final == "G":  # to a column, counted from 1
        return max(number, 1) - 1
    if final == "C":
        return max(column, min(column + max(number, 1), _MAX_COLUMN))
    if final == "D":
        return max(column - max(number, 1), 0)
    if final == "H" and set(args.split(";")) <= {"", "0", "1"}:  # to the screen's first place
        return 0
    if final == "K" or final == "J":
        # In the line, or on the screen, of which this line is all we see.
        if number == 0:  # from the cursor to the end
            del cells[column:]
        elif number == 1:  # from the beginning to the cursor
            erased = min(column + 1, len(cells), _MAX_COLUMN)
            cells[:erased] = " " * erased
        elif number == 2:
            del cells[:]
    return column


def _visible(control: str) -> str:
    code = ord(control)
    if code < 0x20:
        return "^" + chr(code + 0x40)
    return "^?" if code == 0x7F else "\\x%02x" % code


def clip(line: str, limit_chars: int = LINE_CHARS) -> str:
    """Return `line`, or its two ends with a count between when it exceeds `limit_chars`."""
    if len(line) <= limit_chars:
        return line
    note = " ... [%d characters left out] ... "
    # The count is at most as wide as the line's whole length.
    room = max(0, limit_chars - len(note % len(line)))
    head, tail = room - room // 2, room // 2
    return line[:head] + note % (len(line) - room) + line[len(line) - tail :]


def render(pieces: Iterable[Tuple[str, bytes]], limit_chars: int = LINE_CHARS) -> List[str]:
    """Return the lines that `pieces` of output show, in the order in which they ended.

    pieces: (stream, bytes) in order of arrival. A line never mixes two streams, and a
    character split between two pieces of its stream is whole. Lines without an end come
    last, the one that grew last as the very last. limit_chars: longer lines are clipped.
    """
    lines: List[str] = []
    unfinished: Dict[str, bytes] = {}
    for stream, data in pieces:
        finished, newline, rest = data.rpartition(b"\n")
        if newline:
            lines += lines_of(decode(unfinished.pop(stream, b"") + finished + newline))
        if rest:
            unfinished[stream] = unfinished.pop(stream, b"") + rest  # the newest, so at the end
    for data in unfinished.values():
        lines += lines_of(decode(data))
    return [clip(line, limit_chars) for line in lines]
