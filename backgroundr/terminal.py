"""The terminal's side of a pty: what its keys send, and what it answers when it is asked.

Pure but for what a `Terminal` remembers. The sequences are those of ECMA-48 and of xterm's
control sequence list.
"""

from __future__ import annotations

import re
import time

from .screen import decode, lines_of
from .stdio import COLUMNS, ROWS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Match, Optional, Sequence, Set, Tuple

# Who asks more often does not want to know: it prints a file, or means harm, for the thread
# that answers reads the output of every task.
_ANSWERS_A_SECOND = 500
_ANSWERS_AT_ONCE = 500
_ANSWERS_A_PIECE = 8
# So much of the last output is looked at for the row of the cursor, and for its column.
_RECENT_BYTES = 4096
_COLUMN_BYTES = 512
# So much of what was typed is known again.
_ECHO_CHARS = 4096
_NEWLINE = re.compile("[\r\n]")
# What a screen is cleared with, mostly.
_CLEARED = (b"\x1b[2J", b"\x1b[H\x1b[J", b"\x1bc")
# Part of a sequence that is cut at the end of what has come.
_CUT = re.compile(rb"\x1b(?:\[[?0-9;]{0,16})?\Z")
# A question, or a mode that decides what the arrow keys send.
_HEARD = re.compile(rb"\x1b\[(?:(?P<question>[56]n|0?c)|\?(?P<modes>[0-9;]{1,30})(?P<set>[hl]))")
_APPLICATION_CURSOR = b"1"
# A place, or a way to the lower right that no screen has room for: programs measure by it.
_WENT_TO = re.compile(rb"\x1b\[([0-9]{1,5});([0-9]{1,5})[Hf]\Z")
_WENT_FAR = re.compile(rb"(?:\x1b\[999[0-9]*[BC]){2}\Z")

_CTRL = {"ctrl-" + chr(code + 0x60): chr(code) for code in range(1, 27)}
_NAMED = {
    "ctrl-space": "\0",
    "ctrl-backslash": "\x1c",
    "ctrl-]": "\x1d",
    "enter": "\r",
    "escape": "\x1b",
    "tab": "\t",
    "shift-tab": "\x1b[Z",
    "space": " ",
    "backspace": "\x7f",
    "insert": "\x1b[2~",
    "delete": "\x1b[3~",
    "page-up": "\x1b[5~",
    "page-down": "\x1b[6~",
}
# The letter behind ESC [, or behind ESC O where a program has asked for that.
_CURSOR_KEYS = {"up": "A", "down": "B", "right": "C", "left": "D", "home": "H", "end": "F"}
_FUNCTION = dict(
    zip(
        ("f%d" % number for number in range(1, 13)),
        ("\x1bOP", "\x1bOQ", "\x1bOR", "\x1bOS")
        + tuple("\x1b[%d~" % code for code in (15, 17, 18, 19, 20, 21, 23, 24)),
    )
)
_ALIASES = {
    "esc": "escape",
    "return": "enter",
    "del": "delete",
    "pageup": "page-up",
    "pagedown": "page-down",
}
KEYS = (*_NAMED, *_CURSOR_KEYS, *_FUNCTION, *_CTRL)

_CTRL_C = b"\x03"
_CTRL_D = b"\x04"

# What it is: a VT100 with the advanced video option, as xterm says at the least.
_WHAT_IT_IS = b"\x1b[?1;2c"
_ALL_IS_WELL = b"\x1b[0n"


class Terminal:
    """What must be known of a pty's output to answer for the terminal. One thread at a time.

    application_cursor: the program has asked for the other sequences of the arrow keys.
    """

    def __init__(self) -> None:
        self.application_cursor = False
        self._is_mid_line = False
        self._answers_paid_until = 0.0
        self._recent = b""
        self._seen = 0  # how much of _recent was looked at for questions

    def see(self, data: bytes) -> bytes:
        """Take note of what a program has printed; return what the terminal answers, or b""."""
        data = self._recent + data
        answers: List[bytes] = []
        seen = self._seen
        if data.find(b"\x1b", seen) >= 0:
            for heard in _HEARD.finditer(data, seen):
                seen = heard.end()
                if heard["modes"] is not None:
                    if _APPLICATION_CURSOR in heard["modes"].split(b";"):
                        self.application_cursor = heard["set"] == b"h"
                elif len(answers) < _ANSWERS_A_PIECE and self._may_answer():
                    answers.append(_answer(heard))
            cut = _CUT.search(data, max(seen, len(data) - 20))
            seen = cut.start() if cut else len(data)
        else:
            seen = len(data)
        self._recent = data[-_RECENT_BYTES:]
        self._seen = len(self._recent) - (len(data) - seen)
        return b"".join(answers)

    def _may_answer(self) -> bool:
        now = time.monotonic()
        if self._answers_paid_until > now:
            return False
        # What was not used of the last moments may be used at once.
        paid_until = max(self._answers_paid_until, now - _ANSWERS_AT_ONCE / _ANSWERS_A_SECOND)
        self._answers_paid_until = paid_until + 1 / _ANSWERS_A_SECOND
        return True

    def typed(self, data: bytes, ends: bool) -> bytes:
        """Take note of what is typed; return it, with what ends the input if that `ends` it.

        In the middle of a line ctrl-d hands over what there is of it, and a second one ends.
        """
        if data:
            self._is_mid_line = data[-1:] not in (b"\r", b"\n", _CTRL_C, _CTRL_D)
        if ends:
            data += _CTRL_D * (2 if self._is_mid_line else 1)
            self._is_mid_line = False
        return data

    def key(self, name: str) -> bytes:
        """Return what a key of KEYS sends, its name in whatever way. Raises KeyError."""
        name = _written(name)
        if name in _CURSOR_KEYS:
            return (
                "\x1b%s%s" % ("O" if self.application_cursor else "[", _CURSOR_KEYS[name])
            ).encode()
        tables: Dict[str, str] = {**_NAMED, **_FUNCTION, **_CTRL}
        return tables[name].encode()


def _written(name: str) -> str:
    """Return the name of a key as KEYS has it, of one that may be written in another way."""
    name = name.lower().replace("+", "-").replace("_", "-").replace(" ", "-")
    if name.startswith("^") and len(name) == 2:
        return "ctrl-" + name[1]
    for prefix in ("control-", "c-"):
        if name.startswith(prefix):
            return "ctrl-" + name[len(prefix) :]
    return _ALIASES.get(name, name)


def _answer(heard: Match[bytes]) -> bytes:
    if heard["question"] == b"6n":
        end = heard.start()
        return b"\x1b[%d;%dR" % cursor_place(heard.string[max(0, end - _RECENT_BYTES) : end])
    return _ALL_IS_WELL if heard["question"] == b"5n" else _WHAT_IT_IS


def cursor_place(output: bytes) -> Tuple[int, int]:
    """Return the row and the column, from 1, in which the cursor is behind `output`.

    As well as it can be known from lines: a program that moves about is asked where to.
    """
    went = _WENT_TO.search(output)
    if went:
        row, column = int(went[1]), int(went[2])
    elif _WENT_FAR.search(output):
        row, column = ROWS, COLUMNS
    else:
        cleared = max(output.rfind(one) for one in _CLEARED)
        row = output.count(b"\n", max(0, cleared)) + 1
        begin = max(output.rfind(b"\n") + 1, cleared, len(output) - _COLUMN_BYTES)
        line = lines_of(decode(output[begin:]))
        column = (len(line[0]) if line else 0) + 1
    return max(1, min(ROWS, row)), max(1, min(COLUMNS, column))


class Echo:
    """What is shown again of what was typed at a terminal; it does not change any more.

    The terminal shows each line once, as it was typed. A program that reads keys draws the
    line itself, with its prompt, as often as it likes (Python 3.13 does with each key, the
    history of every shell without a letter typed). prompt: what stood in the line before.
    lines: what was typed. Both without blanks: see `echo_of`. is_drawn: by a program.
    """

    def __init__(self, prompt: str, lines: Sequence[str], is_drawn: bool) -> None:
        self._prompt = prompt
        self._lines = lines
        self._is_drawn = is_drawn

    def find(
        self, texts: Sequence[str], unfinished: int, are_states: bool = False
    ) -> Tuple[Set[int], Optional[Echo]]:
        """Return the indices of the lines that are such, and what is still to be shown, or None.

        unfinished: the index of the first line without an end. are_states: they are states of
        lines, which were printed over; these and a line without an end may show a part.
        """
        found: Set[int] = set()
        done = 0
        for index, text in enumerate(texts if self._lines or self._is_drawn else ()):
            shown = _squeezed(text)
            typed = self._lines[done] if done < len(self._lines) else None
            may_be_part = are_states or index >= unfinished
            is_drawn = self._is_drawn and self._is_drawn_line(shown, are_states)
            is_whole = is_part = False
            if typed is not None:
                is_part = may_be_part and typed.startswith(shown)
                is_whole = shown == typed or (is_drawn and shown.endswith(typed))
            if is_drawn or is_part or is_whole:
                found.add(index)
            if is_whole and not may_be_part:
                done += 1
        left = self._lines[done:]
        return found, Echo(self._prompt, left, self._is_drawn) if left or self._is_drawn else None

    def _is_drawn_line(self, shown: str, was_printed_over: bool) -> bool:
        # The prompt alone is the next one, unless it was printed over.
        is_longer = len(shown) > len(self._prompt) or was_printed_over
        return bool(self._prompt) and shown.startswith(self._prompt) and is_longer


def echo_of(prompt: str, text: str, is_drawn: bool) -> Echo:
    """Return what is shown of `text`, of which only the beginning matters where it is long."""
    lines = map(_squeezed, _NEWLINE.split(text[:_ECHO_CHARS]))
    return Echo(_squeezed(prompt), [line for line in lines if line], is_drawn)


def _squeezed(text: str) -> str:
    return "".join(text.split())
