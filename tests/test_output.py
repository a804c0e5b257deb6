"""OutputLog: what it keeps, what it counts, and which bytes make up the last lines."""

from __future__ import annotations

import random
import tracemalloc

import pytest

from backgroundr.output import JOIN_BYTES, STDERR, STDOUT, STREAMS, OutputLog
from backgroundr.screen import Lines

AMPLE = 1 << 20


def log_of(pieces, limit_bytes=AMPLE):
    """Return a log to which `pieces`, (stream, bytes), were appended."""
    log = OutputLog(limit_bytes)
    for stream, data in pieces:
        log.append(stream, data, data.count(b"\n"))
    return log


def facts(tail):
    """Return a tail as values to compare; neighbours of one stream are joined."""
    return merged(tail.pieces), tail.earlier_lines, tail.earlier_bytes


def merged(pieces):
    """Return `pieces` with neighbours of the same stream joined."""
    result = []
    for stream, data in pieces:
        if result and result[-1][0] == stream:
            result[-1] = (stream, result[-1][1] + data)
        else:
            result.append((stream, data))
    return result


def naive_tail(printed, start, lines, streams):
    """Return the facts of a tail, found byte by byte.

    printed: (stream, byte) of everything there ever was. start: the offset of the first
    byte that is retained.
    """
    open_lines = {stream: [] for stream in streams}
    found = []  # lines, each a list of offsets, in the order in which they ended
    for offset in range(start, len(printed)):
        stream, byte = printed[offset]
        if stream in streams:
            open_lines[stream].append(offset)
            if byte == b"\n":
                found.append(open_lines[stream])
                open_lines[stream] = []
    found += [line for line in open_lines.values() if line]
    shown = found[len(found) - min(lines, len(found)) :]
    offsets = sorted(offset for line in shown for offset in line)
    total_bytes = sum(stream in streams for stream, _ in printed)
    return (
        merged([printed[offset] for offset in offsets]),
        naive_total_lines(printed, streams) - len(shown),
        total_bytes - len(offsets),
    )


def naive_total_lines(printed, streams):
    """Return how many lines the streams printed; an unfinished last one counts."""
    texts = [b"".join(byte for name, byte in printed if name == stream) for stream in streams]
    return sum(len(text.splitlines()) for text in texts)


def both_unfinished(printed, streams):
    """Whether each of two chosen streams ends in a line without a newline."""
    last = dict(printed)
    return len(streams) == 2 and all(last.get(stream, b"\n") != b"\n" for stream in streams)


def random_pieces(rng, count, longest):
    """Return `count` pieces of both streams, some without any newline."""
    pieces = []
    for _ in range(count):
        alphabet = rng.choice([b"abc", b"abc\n", b"a\n", b"\n", b"abcdefghijklm\n"])
        size = rng.choice([1, 1, 2, 7, rng.randint(1, longest)])
        data = bytes(rng.choice(alphabet) for _ in range(size))
        pieces.append((rng.choice(STREAMS), data))
    return pieces


# ---------------------------------------------------------------- counts and offsets


def test_new_log_is_empty():
    """A new log has no bytes, no lines and nothing to show."""
    log = OutputLog(AMPLE)
    assert (log.start, log.end, log.total_bytes(), log.total_lines()) == (0, 0, 0, 0)
    assert facts(log.tail(10)) == ([], 0, 0)


@pytest.mark.parametrize(
    ("pieces", "stdout_lines", "stderr_lines"),
    [
        ([(STDOUT, b"a\n")], 1, 0),
        ([(STDOUT, b"a")], 1, 0),
        ([(STDOUT, b"a"), (STDOUT, b"b")], 1, 0),
        ([(STDOUT, b"a"), (STDOUT, b"\n")], 1, 0),
        ([(STDOUT, b"a\nb")], 2, 0),
        ([(STDOUT, b"\n\n\n")], 3, 0),
        ([(STDOUT, b"a"), (STDERR, b"b"), (STDOUT, b"c\n")], 1, 1),
        ([(STDERR, b"a\n"), (STDERR, b"b\n"), (STDOUT, b"c")], 1, 2),
        ([(STDOUT, b"a\r\nb\r\n")], 2, 0),
    ],
)
def test_log_counts_lines_of_each_stream(pieces, stdout_lines, stderr_lines):
    """A log counts the lines of each stream, an unfinished last one too."""
    log = log_of(pieces)
    assert log.total_lines((STDOUT,)) == stdout_lines
    assert log.total_lines((STDERR,)) == stderr_lines
    assert log.total_lines() == stdout_lines + stderr_lines


@pytest.mark.parametrize("limit_bytes", [1, 200, 1000, AMPLE])
def test_counts_do_not_depend_on_what_is_retained(limit_bytes):
    """A log counts what was ever printed, however little of it is retained."""
    rng = random.Random(7)
    pieces = random_pieces(rng, 300, 40)
    printed = [(stream, bytes([byte])) for stream, data in pieces for byte in data]
    log = log_of(pieces, limit_bytes)
    assert log.end == log.total_bytes() == len(printed)
    for streams in ((STDOUT,), (STDERR,), STREAMS):
        assert log.total_bytes(streams) == sum(stream in streams for stream, _ in printed)
        assert log.total_lines(streams) == naive_total_lines(printed, streams)


# ---------------------------------------------------------------- the bound


@pytest.mark.parametrize("limit_bytes", [1, 161, 400, 5000, 20000])
@pytest.mark.parametrize("longest", [1, 50, 3 * JOIN_BYTES])
def test_log_retains_at_most_its_limit(limit_bytes, longest):
    """A log never retains more than its limit, and only ever drops from its beginning."""
    rng = random.Random(limit_bytes + longest)
    log = OutputLog(limit_bytes)
    start = 0
    for stream, data in random_pieces(rng, 100, longest):
        log.append(stream, data, data.count(b"\n"))
        assert log.end - log.start <= limit_bytes
        assert log.start >= start
        start = log.start


def test_log_retains_one_stream_up_to_a_piece_below_its_limit():
    """A log of one stream that writes byte by byte retains nearly its limit of bytes."""
    limit_bytes = 10 * JOIN_BYTES
    log = OutputLog(limit_bytes)
    for _ in range(2 * limit_bytes):
        log.append(STDOUT, b"x", 0)
    assert limit_bytes - 2 * JOIN_BYTES <= log.end - log.start <= limit_bytes


def test_large_piece_keeps_its_end():
    """A piece that is larger than the limit is retained by its end."""
    data = b"".join(b"%06d\n" % number for number in range(3000))
    log = log_of([(STDOUT, data)], 8000)
    tail = log.tail(3000)
    kept = b"".join(piece for _, piece in tail.pieces)
    assert 7000 < len(kept) <= 8000
    assert data.endswith(kept)
    assert log.start == len(data) - len(kept) == tail.earlier_bytes


def test_bound_holds_in_memory_for_alternating_bytes():
    """A log whose two streams take turns byte by byte uses about its limit of memory."""
    limit_bytes = 256 * 1024
    tracemalloc.start()
    try:
        log = OutputLog(limit_bytes)
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(5000):
            log.append(STDOUT, b"x", 0)
            log.append(STDERR, b"\n", 1)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert log.end == 10000
    assert 0 < log.end - log.start < log.end
    assert after - before <= limit_bytes * 5 // 4


# ---------------------------------------------------------------- the last lines


@pytest.mark.parametrize(
    ("pieces", "lines", "streams", "expected"),
    [
        # One stream.
        ([(STDOUT, b"a\nb\nc\n")], 2, STREAMS, ([(STDOUT, b"b\nc\n")], 1, 2)),
        ([(STDOUT, b"a\nb\nc")], 2, STREAMS, ([(STDOUT, b"b\nc")], 1, 2)),
        ([(STDOUT, b"a\nb\nc")], 1, STREAMS, ([(STDOUT, b"c")], 2, 4)),
        ([(STDOUT, b"a\nb\n")], 9, STREAMS, ([(STDOUT, b"a\nb\n")], 0, 0)),
        ([(STDOUT, b"a\nb\n")], 0, STREAMS, ([], 2, 4)),
        ([(STDOUT, b"a\nb")], 0, STREAMS, ([], 2, 3)),
        ([(STDOUT, b"\n\n\n")], 2, STREAMS, ([(STDOUT, b"\n\n")], 1, 1)),
        # A stream is chosen.
        ([(STDOUT, b"a\n"), (STDERR, b"b\n")], 1, (STDOUT,), ([(STDOUT, b"a\n")], 0, 0)),
        ([(STDOUT, b"a\n"), (STDERR, b"b")], 1, (STDOUT,), ([(STDOUT, b"a\n")], 0, 0)),
        ([(STDOUT, b"a\n")], 1, (STDERR,), ([], 0, 0)),
        # The line that ended last is the newest, wherever it began.
        (
            [(STDOUT, b"a"), (STDERR, b"b\n"), (STDOUT, b"c\n")],
            1,
            STREAMS,
            ([(STDOUT, b"ac\n")], 1, 2),
        ),
        (
            [(STDOUT, b"a"), (STDERR, b"b\n"), (STDOUT, b"c\n")],
            2,
            STREAMS,
            ([(STDOUT, b"a"), (STDERR, b"b\n"), (STDOUT, b"c\n")], 0, 0),
        ),
        # An unfinished line is the newest, wherever it stands.
        ([(STDERR, b"b"), (STDOUT, b"a\n")], 1, STREAMS, ([(STDERR, b"b")], 1, 2)),
        (
            [(STDERR, b"x\nb"), (STDOUT, b"a\n")],
            2,
            STREAMS,
            ([(STDERR, b"b"), (STDOUT, b"a\n")], 1, 2),
        ),
        ([(STDOUT, b"a"), (STDERR, b"b")], 2, STREAMS, ([(STDOUT, b"a"), (STDERR, b"b")], 0, 0)),
    ],
)
def test_tail_is_the_last_lines(pieces, lines, streams, expected):
    """tail returns the last lines of the chosen streams and counts what came before."""
    assert facts(log_of(pieces).tail(lines, streams)) == expected


@pytest.mark.parametrize("limit_bytes", [150, 330, 700, 2000, 30000, AMPLE])
@pytest.mark.parametrize("seed", range(4))
def test_tail_agrees_with_a_naive_reading(limit_bytes, seed):
    """tail returns what a reading byte by byte finds, after any sequence of pieces."""
    rng = random.Random(seed)
    log = OutputLog(limit_bytes)
    printed = []
    for stream, data in random_pieces(rng, 60, rng.choice([3, 30, 300])):
        log.append(stream, data, data.count(b"\n"))
        printed += [(stream, bytes([byte])) for byte in data]
        for streams in (STREAMS, (STDOUT,), (STDERR,)):
            lines = rng.choice([0, 1, 2, 3, 5, 10, 100])
            if lines == 1 and both_unfinished(printed, streams):
                continue  # which of the two is the newer one is another test's question
            found = facts(log.tail(lines, streams))
            assert found == naive_tail(printed, log.start, lines, streams), (lines, streams)


@pytest.mark.parametrize("seed", range(2))
def test_tail_agrees_with_a_naive_reading_of_large_pieces(seed):
    """tail returns what a reading byte by byte finds, where pieces are too large to join."""
    rng = random.Random(seed)
    pieces = random_pieces(rng, 12, 3 * JOIN_BYTES)
    pieces += [(STDERR, b"abc\n" * JOIN_BYTES), (STDOUT, b"ab\n" * 50)]
    printed = [(stream, bytes([byte])) for stream, data in pieces for byte in data]
    log = log_of(pieces, 4 * JOIN_BYTES)
    for lines in (2, 49, 50, 51, 60, 1000, 10**6):
        for streams in (STREAMS, (STDOUT,), (STDERR,)):
            found = facts(log.tail(lines, streams))
            assert found == naive_tail(printed, log.start, lines, streams), (lines, streams)


@pytest.mark.parametrize("seed", range(10))
def test_tail_shows_the_end_of_the_whole_text(seed):
    """The text of a tail is the end of the text of everything, while nothing was dropped."""
    rng = random.Random(seed)
    pieces = [*random_pieces(rng, 50, 20), (STDOUT, b"last\n")]
    log = log_of(pieces)
    text = Lines(pieces).texts
    for lines in range(1, len(text) + 2):
        tail = log.tail(lines)
        shown = Lines(tail.pieces).texts
        assert shown == text[-lines:]
        assert tail.earlier_lines + len(shown) == len(text)


@pytest.mark.parametrize("first", STREAMS)
@pytest.mark.parametrize("goes_on", [b"", b", and goes on"], ids=["ended", "goes on"])
def test_asking_for_more_lines_only_adds_older_ones(first, goes_on):
    """tail adds older lines when more are asked for, also where both streams are unfinished."""
    second = STDERR if first == STDOUT else STDOUT
    pieces = [(first, b"began first"), (second, b"began second"), (first, goes_on)]
    log = log_of([(stream, data) for stream, data in pieces if data])
    assert len(Lines(log.tail(1).pieces).texts) == 1
    assert Lines(log.tail(1).pieces).texts == Lines(log.tail(2).pieces).texts[-1:]


def test_unfinished_line_that_was_dropped_takes_no_place():
    """tail shows retained lines in the place of an unfinished one that is no longer there."""
    pieces = [(STDOUT, b"prompt> ")] + [(STDERR, b"%04d\n" % number) for number in range(1000)]
    log = log_of(pieces, 1000)
    assert log.start > len(b"prompt> ")
    assert facts(log.tail(1)) == ([(STDERR, b"0999\n")], 1000, 8 + 999 * 5)


def test_line_whose_beginning_was_dropped_is_shown_by_its_end():
    """tail shows as much of its oldest line as is retained."""
    log = log_of([(STDOUT, b"0123456789" * 100 + b"\nend\n")], 400)
    tail = log.tail(2)
    kept = b"".join(data for _, data in tail.pieces)
    assert kept.endswith(b"0123456789\nend\n")
    assert len(kept) == log.end - log.start
    assert (tail.earlier_lines, tail.earlier_bytes) == (0, log.start)


@pytest.mark.parametrize("seed", range(8))
def test_until_is_what_comes_before_a_place(seed):
    """Up to a place the log returns what it retains, or the end of that, and knows what it cuts."""
    rng = random.Random(seed)
    pieces = random_pieces(rng, 80, 60)
    log = OutputLog(2000)
    for stream, data in pieces:
        log.append(stream, data, data.count(b"\n"))
    streams = {name: b"".join(data for one, data in pieces if one == name) for name in STREAMS}
    for _ in range(30):
        place = {
            name: rng.randint(log.begin_place[name], log.end_place[name])
            for name in rng.choice([STREAMS, (STDOUT,), (STDERR,)])
        }
        enough_bytes = rng.randint(1, 3000)
        found, cut = log.until(place, enough_bytes)
        kept = sum(place[name] - log.begin_place[name] for name in place)
        assert sum(len(data) for _, data in found) == min(kept, enough_bytes)
        for name in place:
            data = b"".join(data for one, data in found if one == name)
            assert streams[name][: place[name]].endswith(data)
            begin = place[name] - len(data)
            within = begin > log.begin_place[name] and streams[name][begin - 1] != 0x0A
            assert (name in cut) == bool(data and within)


def test_tail_does_not_change_when_the_log_grows():
    """A tail holds its own bytes; what is appended later does not reach it."""
    log = log_of([(STDOUT, b"a\n")])
    tail = log.tail(5)
    log.append(STDOUT, b"b\n", 1)
    assert tail.pieces == [(STDOUT, b"a\n")]
    assert all(type(data) is bytes for _, data in tail.pieces)
