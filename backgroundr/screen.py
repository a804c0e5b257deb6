"""Bytes to text as a terminal would leave it: pure functions, used when somebody reads.

Escape sequences are removed, redraws are resolved to the last state of their line, bytes
that are not UTF-8 are replaced, and a line that is too long is clipped in its middle. The
sequences are those of ECMA-48 and of xterm's control sequence list.
"""

from __future__ import annotations

import codecs
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Collection, Dict, Iterable, List, Optional, Tuple

LINE_CHARS = 2000

# Only text that holds one of these needs more than splitting at newlines.
_SPECIAL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

# Patterns that are given to `re` as text are compiled with their first use, and kept by it: a
# server starts without (2 ms).

# Every sequence that leaves nothing to see and does not move the cursor in its line. ESC
# begins a new sequence wherever it stands, as in terminals, so that one cut short takes no
# more than what follows it up to the next ESC; ESC \, the end of a string, is one by itself.
_NOTHING = r"""
    \x1b+ (?:
        \[ (?! [0-9;]* [@CDGHJKPXf]) [ -?]* [@-~]?          # CSI
      | [\]PX^_] [^\x07\x1b\n]* \x07?                       # OSC, DCS, SOS, PM, APC
      | (?! [\[\]PX^_c]) [ -/]* [0-~]?                      # the two-byte kind
    )
"""

# What is written in several ways, and the way that is understood here.
_SYNONYMS = (
    ("\x1b[0K", "\x1b[K"),
    ("\x1b[J", "\x1b[K"),  # of the screen, this line is all we see
    ("\x1b[0J", "\x1b[K"),
    ("\x1b[1J", "\x1b[1K"),
    ("\x1b[2J", "\x1b[2K"),
    ("\x1bc", "\x1b[2K\r"),  # reset of the terminal
    ("\x1b[G", "\r"),
    ("\x1b[1G", "\r"),
    ("\x1b[H", "\r"),
    ("\x1b[1;1H", "\r"),
)

# After these the line is empty and the cursor at its beginning.
_CLEARS = ("\r\x1b[K", "\r\x1b[2K", "\x1b[2K\r")

# Characters of which each is printed over by the next; the group keeps sequences whole.
_OVERSTRUCK = r"(\x1b\[[0-9;]*[@-Za-z]) | (?: [^\r\x08\x1b] \x08 )+ (?= [^\r\x08\x1b])"

_STEP = re.compile(r"\r+|\x08+|\x1b\[[0-9;]*[@-Za-z]|[^\r\x08\x1b]+")

# The other controls: bell, shifts and padding leave nothing to see, the rest is made visible.
_VISIBLE = {code: "^" + chr(code + 0x40) for code in {*range(0x20)} - {8, 9, 10, 13, 27}}
_VISIBLE.update((code, "\\x%02x" % code) for code in range(0x80, 0xA0))
_VISIBLE.update({0x7F: "^?", 0x00: "", 0x07: "", 0x0E: "", 0x0F: ""})
_INVISIBLE = re.compile(r"[\x00-\x07\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f]")

# A longer one is no sequence that somebody cut but junk.
_LONGEST_SEQUENCE = 4096

# Also the ESC that begins the ST of a string.
_CUT_SEQUENCE = rb"\x1b (?: \[ [ -?]* | [\]PX^_] [^\x07\x1b\n]* \x1b? | [ -/]* ) \Z"

# Reset; erase of the screen; or erase of all behind its first place.
_CLEAR = rb"\x1b (?: c | \[ (?: 2J | 1? (?: ;1? )? [Hf] (?: \x1b\[ [0-9;:]* m )* \x1b\[ 0? J ) )"
# Always matches, so that it never goes back to try a sequence in another way.
_BLANK = rb"""
    (?:
        [\x00-\x1a\x1c-\x20\x7f]+
      | \x1b (?: \[ [ -?]* [@-~]? | [\]PX^_] [^\x07\x1b\n]* \x07? | [ -/]* [0-~]? )
    )*
"""


def decode(data: bytes) -> str:
    """Return `data` read as UTF-8; what does not fit becomes U+FFFD, and the rest is kept."""
    return data.decode("utf-8", "replace")


def lines_of(text: str) -> List[str]:
    """Return the lines of `text` as a terminal would show them at the end, without newlines.

    A last line without a newline counts. CRLF is a newline.
    """
    if "\r" in text:
        text = text.replace("\r\n", "\n")  # not needed, but the quick way where all lines end so
    if _SPECIAL.search(text) is None:
        lines = text.split("\n")
    else:
        lines = [
            _resolve(line) if _SPECIAL.search(line) else line
            for line in re.sub(_NOTHING, "", text, flags=re.VERBOSE).split("\n")
        ]
    if not text or text.endswith("\n"):
        del lines[-1]
    return lines


def settle(line: str) -> str:
    """Return what is left to see of one line when all of it has been printed.

    Understood: carriage return, backspace, and the sequences that move the cursor in the
    line or erase up to or from it. Other sequences are dropped, other controls made visible (^A).
    """
    return _resolve(re.sub(_NOTHING, "", line, flags=re.VERBOSE))


def _resolve(line: str) -> str:
    """Return what is left to see of a line without the sequences that leave nothing."""
    if _INVISIBLE.search(line):
        line = line.translate(_VISIBLE)
    if "\x1b" in line:
        for written, understood in _SYNONYMS:
            line = line.replace(written, understood)
        # Nothing before the last clearing is seen: most spinners and bars end here.
        line = line[max(0, *map(line.rfind, _CLEARS)) :]
    if "\b" in line:
        line = re.sub(_OVERSTRUCK, r"\1", line, flags=re.VERBOSE)
    if "\x1b" in line or "\b" in line:
        return _replay(line)
    return _overlay(line.split("\r")) if "\r" in line else line


def _overlay(states: List[str]) -> str:
    """Return what is to see when each of `states` is printed over the former ones."""
    seen = ""
    longest = max(map(len, states))
    for state in reversed(states):
        if len(seen) == longest:
            break
        seen += state[len(seen) :]
    return seen


# Wider than any terminal. It bounds what one short sequence can cost, so that no output
# can stall whoever reads it.
_MAX_COLUMN = 1000
_BLANKS = [" "] * _MAX_COLUMN


def _replay(line: str) -> str:
    """Return what is left to see of a line, printed cell by cell."""
    cells: List[str] = []
    column = 0
    for step in _STEP.findall(line):
        kind = step[0]
        if kind == "\r":
            column = 0
        elif kind == "\b":
            column = max(0, column - len(step))
        elif kind == "\x1b":
            column = _apply_csi(step[-1], step[2:-1], cells, column)
        else:
            if column > len(cells):
                cells += _BLANKS[: column - len(cells)]
                column = len(cells)
            cells[column : column + len(step)] = step
            column += len(step)
    return "".join(cells)


def _apply_csi(final: str, args: str, cells: List[str], column: int) -> int:
    """Apply one of the sequences that are understood to the line; return the new column."""
    number = min(int(args[:9]), _MAX_COLUMN) if args.isdigit() else 0
    if final in "@PX":
        return _edit_cells(final, max(number, 1), cells, column)
    if final == "C":
        return max(column, min(column + max(number, 1), _MAX_COLUMN))
    if final == "D":
        return max(column - max(number, 1), 0)
    if final == "G":  # to a column, counted from 1
        return max(number, 1) - 1
    if final in "Hf":  # to a place on the screen, of which only the first is in this line
        return 0 if set(args.split(";")) <= {"", "0", "1"} else column
    if number == 0:  # K and J from the cursor to the end
        del cells[column:]
    elif number == 1:  # from the beginning to the cursor
        erased = min(column + 1, len(cells), _MAX_COLUMN)
        cells[:erased] = _BLANKS[:erased]
    elif number == 2:
        del cells[:]
    return column


def _edit_cells(final: str, number: int, cells: List[str], column: int) -> int:
    """Insert blanks (@), delete (P) or erase (X) so many cells from the cursor on."""
    here = min(column, len(cells))
    if final == "X":
        erased = min(number, len(cells) - here)
        cells[here : here + erased] = _BLANKS[:erased]
    elif len(cells) <= _MAX_COLUMN:  # no terminal is wider, and to move a longer line would cost
        if final == "P":
            del cells[here : here + number]
        else:
            cells[here:here] = _BLANKS[:number]
            del cells[_MAX_COLUMN:]
    return column


def incomplete_end(data: bytes) -> int:
    """Return how many bytes at the end of `data` are the beginning of a character or an
    escape sequence, of which the rest may follow. At most _LONGEST_SEQUENCE."""
    end = data[-_LONGEST_SEQUENCE:]
    cut = re.search(_CUT_SEQUENCE, end, re.VERBOSE)
    if cut:
        return len(end) - cut.start()
    return incomplete_character(end)


def incomplete_character(data: bytes) -> int:
    """Return how many bytes at the end of `data` are the beginning of a character of UTF-8."""
    end = data[-3:]
    return len(end) - codecs.utf_8_decode(end, "replace")[1]  # which leaves a cut character


def after_clear(data: bytes) -> int:
    """Return the offset behind the last clearing of the screen in `data` that has something
    to see behind it, or 0."""
    if b"\x1b" not in data:
        return 0
    blank = re.compile(_BLANK, re.VERBOSE)
    end = len(data)
    for clear in reversed(list(re.finditer(_CLEAR, data, re.VERBOSE))):
        following = blank.match(data, clear.end(), end)
        if following and following.end() < end:
            return clear.end()
        end = clear.start()
    return 0


def clip(line: str, limit_chars: int = LINE_CHARS, around: int = 0) -> str:
    """Return `line`, or its two ends with a count between when it exceeds `limit_chars`.

    around: the index of a character to show; where it is in neither end, what stands around
    it is shown with shorter ends, or, where these have no room, without, behind one count of
    all that is left out.
    """
    if len(line) <= limit_chars:
        return line
    note = " ... [%d characters left out] ... "
    # The count is at most as wide as the line's whole length.
    widest = len(note % len(line))
    room = max(0, limit_chars - widest)
    head, tail = room - room // 2, room // 2
    if around < head or around >= len(line) - tail:
        return line[:head] + note % (len(line) - room) + line[len(line) - tail :]
    if room < 2 * widest:
        begin = max(0, min(around - room // 4, len(line) - room))
        return note.lstrip() % (len(line) - room) + line[begin : begin + room]
    room -= widest
    head = tail = room // 4
    begin = max(head, around - room // 8)
    end = min(begin + room // 2, len(line) - tail)
    return "".join(
        (
            line[:head],
            note % (begin - head) if begin > head else "",
            line[begin:end],
            note % (len(line) - tail - end) if end < len(line) - tail else "",
            line[len(line) - tail :],
        )
    )


class Lines:
    """The lines that pieces of output show, in the order in which they ended.

    A line never mixes two streams. One without an end comes last; of two, the one that may grow,
    or grew last. texts: the lines, without newlines. unfinished: the index of the first line
    without an end. complete: all of the pieces was looked at. held: {stream: bytes at its end that
    are left for later}.
    """

    def __init__(
        self,
        pieces: Iterable[Tuple[str, bytes]],
        open_streams: Collection[str] = (),
        raw: bool = False,
        whole_lines: bool = False,
        enough_chars: Optional[int] = None,
    ) -> None:
        """Split the pieces and make text of them.

        pieces: (stream, bytes) in order of arrival. open_streams: those of which more may
        come, so that a character or a sequence that is cut at the end waits for its rest.
        raw: leave the text as it was printed. whole_lines: a line of these streams that has not
        ended waits too. enough_chars: look no further behind so many.
        """
        self.texts: List[str] = []
        self.complete = True
        self.held: Dict[str, int] = {}
        self._raw = raw
        self._blocks: List[Tuple[int, str, bytes]] = []  # index of the first line, stream, bytes
        chars = 0
        rests: Dict[str, List[bytes]] = {}
        for stream, data in pieces:
            if enough_chars is not None and chars > enough_chars:
                self.complete = False
                break
            finished, newline, rest = data.rpartition(b"\n")
            if newline:
                chars += self._add(stream, b"".join([*rests.pop(stream, ()), finished, newline]))
            if rest:
                parts = rests.pop(stream, [])
                parts.append(rest)
                rests[stream] = parts  # the newest, so at the end
        self.unfinished = len(self.texts)
        if not self.complete:
            return
        # Those that may grow stand last.
        for stream in sorted(rests, key=lambda stream: stream in open_streams):
            parts = rests[stream]
            data = b"".join(parts)
            if stream in open_streams:
                if whole_lines:
                    end = len(data)
                else:
                    end = incomplete_character(data) if raw else incomplete_end(data)
                self.held[stream] = end
                data = data[: len(data) - end]
            if data:
                self._add(stream, data)

    def _lines_of(self, data: bytes) -> List[str]:
        text = decode(data)
        if not self._raw:
            return lines_of(text)
        lines = text.split("\n")
        return lines if lines[-1] else lines[:-1]

    def _add(self, stream: str, data: bytes) -> int:
        lines = self._lines_of(data)
        self._blocks.append((len(self.texts), stream, data))
        self.texts += lines
        return sum(map(len, lines)) + len(lines)

    def first(self) -> Tuple[str, bytes]:
        """Return the stream and the bytes of the first line."""
        _, stream, data = self._blocks[0]
        line, newline, _ = data.partition(b"\n")
        return stream, line + newline

    def last(self) -> Tuple[str, bytes]:
        """Return the stream and the bytes of the last line."""
        _, stream, data = self._blocks[-1]
        return stream, data[data.rfind(b"\n", 0, len(data) - 1) + 1 :]

    def streams_of(self, indices: Iterable[int]) -> List[Tuple[Optional[str], int]]:
        """Return whose the lines are, as (stream, how many in a row).

        indices: of lines, ascending; -1 for what is no line, of which the stream is None.
        """
        runs: List[Tuple[Optional[str], int]] = []
        block = 0
        for index in indices:
            while block + 1 < len(self._blocks) and self._blocks[block + 1][0] <= index:
                block += 1
            stream = None if index < 0 else self._blocks[block][1]
            if runs and runs[-1][0] == stream:
                runs[-1] = (stream, runs[-1][1] + 1)
            else:
                runs.append((stream, 1))
        return runs

    def without_end(self) -> List[Tuple[int, str, int]]:
        """Return the lines that have no end: (index, stream, size in bytes)."""
        return [
            (first, stream, len(data))
            for first, stream, data in self._blocks
            if first >= self.unfinished
        ]

    def index_of(self, stream: str, number: int) -> int:
        """Return the index of the line `number` of a stream, counted from 0."""
        for first, name, data in self._blocks:
            if name == stream:
                count = data.count(b"\n") or 1
                if number < count:
                    return first + number
                number -= count
        return len(self.texts)

    def sizes_behind(self, index: int) -> Dict[str, int]:
        """Return {stream: bytes} of the finished lines up to and with the line `index`; also of
        that one itself where it has no end."""
        sizes = self.sizes(min(index + 1, self.unfinished))
        for first, stream, data in self._blocks:
            if first == index >= self.unfinished:
                sizes[stream] = sizes.get(stream, 0) + len(data)
        return sizes

    def sizes(self, count: int) -> Dict[str, int]:
        """Return {stream: bytes} of the first `count` lines."""
        sizes: Dict[str, int] = {}
        for first, stream, data in self._blocks:
            if first >= count:
                break
            rest = data.split(b"\n", count - first)[count - first :]
            sizes[stream] = sizes.get(stream, 0) + len(data) - len(b"".join(rest))
        return sizes
