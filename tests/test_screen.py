"""screen: bytes of a program become the text that a terminal would show at the end."""

from __future__ import annotations

import random
import re

import pytest

from backgroundr.output import STDERR, STDOUT
from backgroundr.screen import LINE_CHARS, Lines, clip, decode, lines_of, settle

INVISIBLE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")

# What random output is made of: text, characters of two to four bytes, broken ones, line
# ends, and control sequences both whole and cut short.
TOKENS = [
    b"plain text",
    b"x",
    b" ",
    b"\t",
    "gr\u00fc\u00df \u20ac \U0001f680".encode(),
    "\u2028\u0085".encode(),
    b"\xff",
    b"\xe2\x82",
    b"\xf0\x9f\x9a",
    b"\x80",
    b"\n",
    b"\n",
    b"\r\n",
    b"\r",
    b"\b",
    b"\x00",
    b"\x07",
    b"\x01",
    b"\x7f",
    b"\x1b",
    b"\x1b[",
    b"\x1b[3",
    b"\x1b[31m",
    b"\x1b[0m",
    b"\x1b[K",
    b"\x1b[1K",
    b"\x1b[2K",
    b"\x1b[5G",
    b"\x1b[2C",
    b"\x1b[2D",
    b"\x1b[2@",
    b"\x1b[P",
    b"\x1b[3X",
    b"\x1b[2J\x1b[H",
    b"\x1b]0;title\x07",
    b"\x1b]8;;http://localhost\x1b\\",
    b"\x1b]0;open",
    b"\x1b(B",
    b"\x1bPq\x1b\\",
]

# Characters of which no two are the same, so that it shows what was cut.
DISTINCT = "".join(map(chr, range(0x4E00, 0x4E00 + 20000)))


def render(pieces, limit_chars=LINE_CHARS):
    """Return the lines that `pieces` show, clipped."""
    return [clip(text, limit_chars) for text in Lines(pieces).texts]


def random_output(rng, count=60):
    """Return `count` tokens of random output as bytes."""
    return b"".join(rng.choice(TOKENS) for _ in range(count))


def pieces_of(rng, stream, data):
    """Return `data` as (stream, bytes), cut at random places."""
    cuts = sorted(rng.sample(range(1, len(data)), rng.randint(0, min(30, len(data) - 1))))
    return [(stream, data[a:b]) for a, b in zip([0, *cuts], [*cuts, len(data)])]


# ---------------------------------------------------------------- bytes to characters


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", ""),
        ("\u20ac \U0001f680".encode(), "\u20ac \U0001f680"),
        (b"a\xffb", "a\ufffdb"),
        (b"\x80\x80", "\ufffd\ufffd"),
        (b"caf\xe9", "caf\ufffd"),
        (b"\xed\xa0\x80", "\ufffd\ufffd\ufffd"),
        (b"\xc0\xaf", "\ufffd\ufffd"),
    ],
)
def test_decode_replaces_what_is_not_utf8(data, text):
    """decode reads UTF-8 and replaces every byte that is not."""
    assert decode(data) == text


# ---------------------------------------------------------------- one line


@pytest.mark.parametrize(
    ("printed", "left"),
    [
        ("", ""),
        ("plain \u20ac", "plain \u20ac"),
        ("a\tb", "a\tb"),
        # Carriage return and backspace.
        ("10%\r50%\r100%", "100%"),
        ("100%\r5", "500%"),
        ("line\r", "line"),
        ("\r\rline", "line"),
        ("ab\b\bx", "xb"),
        ("\b\b\bx", "x"),
        ("spin -\b\\\b|\b/", "spin /"),
        ("abc\b \b", "ab "),
        # Erase in line.
        ("downloading\r\x1b[Kdone", "done"),
        ("abc\x1b[2D\x1b[K", "a"),
        ("abc\x1b[2D\x1b[0K", "a"),
        ("abc\x1b[1K", "   "),
        ("abc\x1b[1Kd", "   d"),
        ("abc\x1b[2K", ""),
        ("abc\x1b[2Kd", "   d"),
        ("abc\x1b[2K\rd", "d"),
        ("abc\x1b[2J\x1b[Hd", "d"),
        ("abc\x1b[1J", "   "),
        ("abc\x1b[2J\x1b[1;1Hd", "d"),
        # Cursor in line.
        ("abc\x1b[Gx", "xbc"),
        ("abc\x1b[1Gx", "xbc"),
        ("abc\x1b[2Gx", "axc"),
        ("\x1b[4Gx", "   x"),
        ("a\x1b[Cb", "a b"),
        ("a\x1b[3Cb", "a   b"),
        ("abc\x1b[Dx", "abx"),
        ("abc\x1b[9Dx", "xbc"),
        ("abc\x1b[0Dx", "abx"),
        ("a\x1b[5C", "a"),
        # Characters in line: inserted, deleted, erased.
        ("hello\x1b[3D\x1b[2@XX", "heXXllo"),
        ("hello\x1b[3D\x1b[@", "he llo"),
        ("hello\x1b[3D\x1b[P", "helo"),
        ("hello\x1b[3D\x1b[9P", "he"),
        ("hello\x1b[5D\x1b[2X", "  llo"),
        ("hello\x1b[D\x1b[9Xp", "hellp"),
        ("ab\x1b[3C\x1b[Px", "ab   x"),
        ("ab\x1b[>1@c", "abc"),
        # What only colours, names or switches leaves nothing.
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b[1;38;5;196mred\x1b[m", "red"),
        ("faint\x1b[2m and\x1b[3m italic\x1b[1m", "faint and italic"),
        ("\x1b[38:2::1:2:3mred", "red"),
        ("\x1b[?25lhidden\x1b[?25h", "hidden"),
        ("\x1b[2 qbar", "bar"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]0;title\x1b\\text", "text"),
        ("\x1b]8;;http://localhost/\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bPq#0\x1b\\after", "after"),
        ("\x1b_apc\x1b\\\x1b^pm\x1b\\\x1bXsos\x1b\\after", "after"),
        ("\x1b(Btext\x1b7\x1b8\x1b=", "text"),
        ("a\x07b\x00c\x0e\x0f", "abc"),
        ("old\x1bcnew", "new"),  # reset, as tsc --watch sends it
        ("abc\x1b[fx", "xbc"),
        ("x\x1b[5 Dx", "xx"),  # another function than the one without the space
        ("x\x1b[?2K", "x"),
        # Sequences cut short.
        ("\x1b]0;open\x1b[31mtext", "text"),
        ("ab\x1b", "ab"),
        ("ab\x1b[", "ab"),
        ("ab\x1b[31;", "ab"),
        ("ab\x1b]0;titl", "ab"),
        ("ab\x1b(", "ab"),
        # Control characters that mean nothing here.
        ("\x01", "^A"),
        ("\x0b\x0c", "^K^L"),
        ("a\x1fb", "a^_b"),
        ("\x7f", "^?"),
        ("\x80\x9f", "\\x80\\x9f"),
        ("\x01\rx", "xA"),
    ],
)
def test_settle_leaves_what_a_terminal_shows(printed, left):
    """settle leaves of a line what a terminal shows when all of it is printed."""
    assert settle(printed) == left


def test_erase_to_the_left_takes_the_place_of_the_cursor_too():
    """ESC[1K erases from the beginning up to the cursor's own place (ECMA-48, EL)."""
    assert settle("abcd\x1b[2D\x1b[1K") == "   d"


@pytest.mark.parametrize("erase", ["\x1b[J", "\x1b[0J"])
def test_erase_to_the_end_of_the_screen_takes_the_rest_of_the_line(erase):
    """ESC[J erases what is behind the cursor, as progress bars use it after a return."""
    assert settle("working 99%\r" + erase + "done") == "done"


def test_cursor_stops_at_the_beginning_however_far_it_is_sent():
    """ESC[99999D moves the cursor to the beginning of the line."""
    assert settle("abc\x1b[99999Dx") == "xbc"


@pytest.mark.parametrize(
    "sequence", ["\x1b[9999C", "\x1b[9999G", "\x1b[99999999C", "\x1b[99999999G"]
)
def test_nonsense_columns_do_not_fill_the_memory(sequence):
    """settle bounds the column to which sequences can send the cursor."""
    assert len(settle(sequence * 1000 + "x")) <= 10001


# ---------------------------------------------------------------- lines


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", []),
        ("a", ["a"]),
        ("a\n", ["a"]),
        ("a\nb", ["a", "b"]),
        ("\n", [""]),
        ("\n\na", ["", "", "a"]),
        ("a\r\nb\r\n", ["a", "b"]),
        ("a\r\r\nb", ["a", "b"]),
        ("10%\r20%\nnext", ["20%", "next"]),
        ("\x1b[31mred\nstill\x1b[0m\nplain", ["red", "still", "plain"]),
        ("one\u2028line\u2029still", ["one\u2028line\u2029still"]),
    ],
)
def test_lines_end_at_newlines_only(text, lines):
    """lines_of splits at newlines, and a return before one belongs to it."""
    assert lines_of(text) == lines


@pytest.mark.parametrize("seed", range(40))
def test_any_cutting_gives_the_same_text(seed):
    """render shows the same lines wherever the bytes of a stream were cut."""
    rng = random.Random(seed)
    data = random_output(rng)
    whole = render([(STDOUT, data)])
    for _ in range(10):
        assert render(pieces_of(rng, STDOUT, data)) == whole
    assert render([(STDOUT, data[i : i + 1]) for i in range(len(data))]) == whole


@pytest.mark.parametrize("seed", range(20))
def test_any_cutting_of_two_streams_gives_the_same_text(seed):
    """render shows the same lines wherever the pieces of two mixed streams were cut."""
    rng = random.Random(seed)
    mixed = [(rng.choice([STDOUT, STDERR]), random_output(rng, 8)) for _ in range(12)]
    whole = render(mixed)
    for _ in range(10):
        finer = [piece for stream, data in mixed for piece in pieces_of(rng, stream, data)]
        assert render(finer) == whole


@pytest.mark.parametrize("seed", range(20))
def test_lines_never_mix_two_streams(seed):
    """render gives every line to one stream, and each stream its lines in order."""
    rng = random.Random(seed)
    texts = {
        STDOUT: ["o%d \u20ac\u00fc" % number for number in range(30)],
        STDERR: ["E%d \U0001f680" % number for number in range(30)],
    }
    queues = [
        pieces_of(rng, stream, "\n".join(lines).encode("utf-8")) for stream, lines in texts.items()
    ]
    pieces = []
    while any(queues):
        pieces.append(rng.choice([queue for queue in queues if queue]).pop(0))
    shown = render(pieces)
    assert [line for line in shown if line[0] == "o"] == texts[STDOUT]
    assert [line for line in shown if line[0] == "E"] == texts[STDERR]
    assert len(shown) == 60


@pytest.mark.parametrize(
    ("pieces", "lines"),
    [
        ([], []),
        ([(STDOUT, b"a"), (STDERR, b"b\n"), (STDOUT, b"c\n")], ["b", "ac"]),
        ([(STDOUT, b"a"), (STDERR, b"b\n")], ["b", "a"]),
        ([(STDOUT, b"1\n2"), (STDERR, b"b\n"), (STDOUT, b"3\n4")], ["1", "b", "23", "4"]),
        ([(STDOUT, b"\xe2\x82"), (STDERR, b"!\n"), (STDOUT, b"\xac\n")], ["!", "\u20ac"]),
        ([(STDOUT, b"\xe2\x82"), (STDERR, b"\xac\n")], ["\ufffd", "\ufffd"]),
        ([(STDOUT, b"a\x1b["), (STDERR, b"31m\n"), (STDOUT, b"0mb\n")], ["31m", "ab"]),
        ([(STDOUT, b"a\r"), (STDOUT, b"\nb\n")], ["a", "b"]),
    ],
)
def test_render_orders_lines_by_their_ends(pieces, lines):
    """render shows lines in the order in which they ended, and unfinished ones last."""
    assert render(pieces) == lines


@pytest.mark.parametrize("seed", range(20))
def test_nothing_invisible_is_left(seed):
    """render leaves no control character in any line, whatever bytes were printed."""
    rng = random.Random(seed)
    noise = bytes(rng.randrange(256) for _ in range(3000))
    for line in render([(STDOUT, noise), (STDERR, random_output(rng, 400))]):
        assert INVISIBLE.search(line) is None, line


# ---------------------------------------------------------------- clipping


@pytest.mark.parametrize("length", [0, 1, 79, 80])
def test_line_up_to_the_limit_is_whole(length):
    """clip leaves a line alone that is not longer than the limit."""
    line = "x" * length
    assert clip(line, 80) == line


@pytest.mark.parametrize("limit", [40, 41, 80, 81, LINE_CHARS])
@pytest.mark.parametrize("excess", [1, 2, 9, 10, 99, 100, 5000, 1000000])
def test_clipped_line_keeps_both_ends(limit, excess):
    """clip keeps the two ends, says how much is left out, and stays within the limit."""
    length = limit + excess
    line = (DISTINCT * (length // len(DISTINCT) + 1))[:length]
    clipped = clip(line, limit)
    parts = re.fullmatch(r"(.*) \.\.\. \[(\d+) characters left out\] \.\.\. (.*)", clipped)
    assert parts is not None
    head, count, tail = parts.groups()
    assert line.startswith(head)
    assert line.endswith(tail)
    assert abs(len(head) - len(tail)) <= 1
    assert len(head) + int(count) + len(tail) == length
    assert limit - 8 <= len(clipped) <= limit


def test_render_clips_what_is_left_to_see():
    """render clips the settled line: what was redrawn or coloured does not count."""
    data = b"\r".join(b"\x1b[32m%3d%%\x1b[0m" % number for number in range(101)) + b"\n"
    assert render([(STDOUT, data)], 50) == ["100%"]
    assert len(render([(STDOUT, b"x" * 51)], 50)[0]) <= 50


def test_render_clips_to_its_own_limit():
    """render clips lines to LINE_CHARS unless told otherwise."""
    longest, longer = render([(STDOUT, b"x" * LINE_CHARS + b"\n" + b"x" * (LINE_CHARS + 1))])
    assert longest == "x" * LINE_CHARS
    assert "characters left out" in longer
    assert len(longer) <= LINE_CHARS


def test_numbers_of_any_length_are_survived():
    """A sequence with more digits than Python reads as a number is a sequence like another."""
    assert settle("a\x1b[%sCb" % ("9" * 5000)).startswith("a")
    assert settle("abc\x1b[%sGx" % ("0" * 5000)) == "xbc"


def test_cursor_does_not_move_back_in_a_line_wider_than_a_terminal():
    """ESC[C never moves the cursor to the left, however long the line is."""
    assert settle("a" * 1500 + "\x1b[1Cb") == "a" * 1500 + "b"


@pytest.mark.parametrize("seed", range(20))
def test_returns_alone_are_resolved_like_all_redraws(seed):
    """A line of text and returns reads the same by the short way and by the general one."""
    rng = random.Random(seed)
    states = ["abcdefgh"[: rng.randrange(9)] for _ in range(rng.randrange(1, 9))]
    line = "\r".join(states)
    assert settle(line) == settle(line + "\x1b[m")
