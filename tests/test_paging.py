"""Paging: pages of output miss nothing, repeat nothing, and fit."""

from __future__ import annotations

import random
import re

import pytest

from backgroundr import TaskManager
from backgroundr.arguments import TaskSettings
from backgroundr.output import STDERR, STDOUT, STREAMS, OutputLog
from backgroundr.paging import (
    MIN_BYTES,
    Newest,
    Page,
    format_cursor,
    leave_unfinished,
    parse_cursor,
    read_last_page,
    read_page,
)
from backgroundr.screen import LINE_CHARS, Lines
from backgroundr.status import TaskRecord

from .test_output import log_of, merged, random_pieces
from .test_screen import TOKENS, pieces_of

AMPLE = 1 << 20


def pages_of(pieces, open_streams=(), **options):
    """Return all pages of `pieces`, each read where the last one ended."""
    log = log_of(pieces)
    place = dict.fromkeys(STREAMS, 0)
    pages = []
    while not pages or pages[-1].more:
        page = read_page(log.since(place), open_streams, **options)
        assert page.sizes or not page.more, "a page without an end"
        for stream, size in page.sizes.items():
            place[stream] += size
        pages.append(page)
    return pages, place


def text_of(pages):
    return "".join(page.text for page in pages)


def random_output(rng, count):
    """Return pieces of both streams, cut at random, with sequences and broken characters."""
    pieces = []
    for stream in STREAMS:
        data = b"".join(rng.choice([*TOKENS, b"\n", b"line\n"]) for _ in range(count))
        pieces.append(pieces_of(rng, stream, data))
    mixed = []
    while any(pieces):
        mixed.append(rng.choice([one for one in pieces if one]).pop(0))
    return mixed


# ---------------------------------------------------------------- cursors


@pytest.mark.parametrize("place", [{STDOUT: 0, STDERR: 0}, {STDOUT: 12345, STDERR: 10**15}])
def test_a_cursor_is_a_place_written_down(place):
    """A cursor that is read is the place that was written."""
    assert parse_cursor(format_cursor(place)) == place


@pytest.mark.parametrize(
    "text",
    ["", "1", "+", "1+", "+1", "1+2+3", "-1+2", "1 + 2", "1+2\n", "\u0661+2", "x", "9" * 19 + "+0"],
)
def test_what_is_no_cursor_is_seen(text):
    """Text that is no cursor is taken for none."""
    assert parse_cursor(text) is None


# ---------------------------------------------------------------- exactness


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("max_bytes", [MIN_BYTES, 200, 1000, AMPLE])
def test_pages_together_are_the_whole(seed, max_bytes):
    """The pages of an output hold each line once, in the order of a single page."""
    rng = random.Random(seed)
    pieces = random_output(rng, 150)
    pages, place = pages_of(pieces, max_bytes=max_bytes)
    assert sum(place.values()) == sum(len(data) for _, data in pieces)
    assert all(len(page.text.encode()) <= max_bytes for page in pages)
    lines = Lines(pieces)
    assert sum(page.lines for page in pages) == len(lines.texts)
    if max(len(line.encode()) for line in lines.texts) < max_bytes:
        ended = [""] * (lines.unfinished == len(lines.texts))
        assert text_of(pages).split("\n") == lines.texts + ended


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("max_bytes", [MIN_BYTES, 100, AMPLE])
@pytest.mark.parametrize("stream", STREAMS)
def test_raw_pages_of_a_stream_are_its_bytes(seed, max_bytes, stream):
    """The raw pages of a stream, joined, are what it printed, cut wherever it may be."""
    rng = random.Random(seed)
    pieces = [piece for piece in random_output(rng, 150) if piece[0] == stream]
    pages, _ = pages_of(pieces, max_bytes=max_bytes, raw=True)
    assert all(len(page.text.encode()) <= max_bytes for page in pages)
    assert text_of(pages) == b"".join(data for _, data in pieces).decode("utf-8", "replace")


@pytest.mark.parametrize("seed", range(20))
def test_a_reader_that_follows_sees_what_a_late_one_sees(seed):
    """Pages that are read while a stream grows hold the same lines as one read at the end."""
    rng = random.Random(seed)
    data = b"".join(rng.choice(TOKENS[:18] + TOKENS[22:]) for _ in range(80))
    place = {STDOUT: 0}
    log = OutputLog(AMPLE)
    seen = ""
    whole = read_page([(STDOUT, data)], (), AMPLE, raw=True).text
    for _, piece in pieces_of(rng, STDOUT, data):
        log.append(STDOUT, piece, piece.count(b"\n"))
        page = read_page(log.since(place), (STDOUT,), AMPLE, raw=True)
        assert not page.more
        place[STDOUT] += page.sizes.get(STDOUT, 0)
        seen += page.text
    page = read_page(log.since(place), (), AMPLE, raw=True)
    assert seen + page.text == whole


@pytest.mark.parametrize(
    "whole",
    [
        "\u20ac".encode(),
        "\U0001f680".encode(),
        b"\x1b[31m",
        b"\x1b[1;38;5;200m",
        b"\x1b]0;title\x07",
        b"\x1b]8;;http://localhost/\x1b\\",
        b"\x1b(B",
        b"\x1bPq#0\x1b\\",
        b"\x1bc",
    ],
)
def test_what_is_cut_waits_for_its_rest(whole):
    """A character or a sequence that has arrived in part is shown, or not, once it is whole."""
    shown = Lines([(STDOUT, whole)]).texts
    for cut in range(1, len(whole)):
        log = log_of([(STDOUT, b"ab" + whole[:cut])])
        first = read_page(log.since({STDOUT: 0}), STREAMS, AMPLE)
        assert (first.text, first.sizes, first.more) == ("ab", {STDOUT: 2}, False)
        log.append(STDOUT, whole[cut:] + b"c\n", 1)
        second = read_page(log.since(first.sizes), STREAMS, AMPLE)
        assert second.text == "".join(shown) + "c\n"
        # Nothing more will come: then it is shown as it is, once.
        last = read_page([(STDOUT, whole[:cut])], (), AMPLE)
        assert last.sizes == {STDOUT: cut}


def test_a_prompt_is_shown():
    """A line without an end is shown at the end of what there is, and what follows it later."""
    log = log_of([(STDOUT, b"one\nName? ")])
    page = read_page(log.since({STDOUT: 0}), STREAMS, AMPLE)
    assert (page.text, page.lines, page.more) == ("one\nName? ", 2, False)
    log.append(STDOUT, b"Bob\nHello\n", 2)
    assert read_page(log.since(page.sizes), STREAMS, AMPLE).text == "Bob\nHello\n"


def test_lines_of_two_streams_stay_whole_across_pages():
    """Two streams whose pieces cut each other's lines are read in whole lines, page by page."""
    pieces = []
    for number in range(200):
        pieces.append((STDOUT, b"out %d\nou" % number))
        pieces.append((STDERR, b"r %d\ner" % number))
        pieces.append((STDOUT, b"t again %d\n" % number))
    pages, _ = pages_of(pieces, max_bytes=100)
    assert len(pages) > 50
    lines = text_of(pages).splitlines()
    assert lines == Lines(pieces).texts
    expected = r"out (again )?\d+|(er)?r \d+|er"
    assert all(re.fullmatch(expected, line) for line in lines), lines


def test_a_page_that_is_full_says_that_there_is_more():
    """What stands in a piece that was not looked at, for the page was full, is on the next."""
    pieces = [(STDOUT, b"x" * 100000 + b"\n"), (STDOUT, b"next\n")]
    page = read_page(pieces, (), 16384)
    assert (page.more, page.lines) == (True, 1)
    assert read_page(pieces[1:], (), 16384).text == "next\n"


# ---------------------------------------------------------------- bounds


@pytest.mark.parametrize("max_bytes", [MIN_BYTES, 65, 100, 1999, 2000, 5000])
@pytest.mark.parametrize("text", ["x", "\u20ac", "\U0001f680", "\x01", "\ufffd"])
@pytest.mark.parametrize("options", [{}, {"raw": True}, {"contains": ["!"]}])
def test_no_page_is_larger_than_asked(max_bytes, text, options):
    """A page keeps to its size whatever the characters of a long line, and says it is clipped."""
    data = text.encode() * 10000 + b"!\n"
    pages, _ = pages_of([(STDOUT, data)], max_bytes=max_bytes, **options)
    assert all(len(page.text.encode()) <= max_bytes for page in pages)
    if options.get("raw"):
        assert text_of(pages).encode() == data
    else:
        assert "characters left out" in text_of(pages)
        assert len(pages) == 1


def test_a_long_line_is_clipped_in_its_middle():
    """A line beyond the limit shows its two ends and how much is between."""
    page = read_page([(STDOUT, b"a" * 5000 + b"b" * 5000 + b"\nnext\n")], (), AMPLE)
    line, following, _ = page.text.split("\n")
    assert re.fullmatch(r"a+ \.\.\. \[\d+ characters left out\] \.\.\. b+", line)
    assert (len(line) <= LINE_CHARS, following) == (True, "next")


def test_a_progress_bar_costs_a_line():
    """Two thousand redraws of a line are one line of a page."""
    redraws = b"".join(b"\r%4d/2000 [%s]" % (n, b"#" * (n // 50)) for n in range(2001))
    page = read_page([(STDOUT, redraws + b"\n")], (), 16384)
    assert page.text == "2000/2000 [%s]\n" % ("#" * 40)
    assert page.lines == 1


# ---------------------------------------------------------------- looking for lines


def grep(lines, contains, context_lines):
    """Return what a page shows of `lines`, found line by line."""
    hits = [i for i, line in enumerate(lines) if any(one in line for one in contains)]
    near = sorted(
        {
            index
            for hit in hits
            for index in range(max(0, hit - context_lines), hit + context_lines + 1)
            if index < len(lines)
        }
    )
    shown = []
    for before, index in zip([None, *near], near):
        if context_lines and before is not None and index > before + 1:
            shown.append("--")
        shown.append(lines[index])
    return shown, len(hits)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("context_lines", [0, 1, 3])
def test_lines_that_contain_are_found(seed, context_lines):
    """A page shows the lines that contain one of the texts, and those around them."""
    rng = random.Random(seed)
    lines = ["%03d %s" % (n, rng.choice(["ok", "warn", "error", "ok"])) for n in range(100)]
    contains = rng.choice([["error"], ["warn", "error"], ["7 "], ["nothing"]])
    data = "".join(line + "\n" for line in lines).encode()
    page = read_page(pieces_of(rng, STDOUT, data), (), AMPLE, False, contains, context_lines)
    shown, matched = grep(lines, contains, context_lines)
    assert page.text == "".join(line + "\n" for line in shown)
    assert (page.matched_lines, page.lines, page.more) == (matched, 100, False)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("context_lines", [0, 2])
@pytest.mark.parametrize("max_bytes", [MIN_BYTES, 150])
def test_pages_miss_no_line_that_contains(seed, context_lines, max_bytes):
    """Page by page, each line that contains the text is shown once, also with lines around."""
    rng = random.Random(seed)
    lines = ["%03d %s" % (n, rng.choice(["ok", "ok", "error"])) for n in range(100)]
    data = "".join(line + "\n" for line in lines).encode()
    pages, place = pages_of(
        [(STDOUT, data)], max_bytes=max_bytes, contains=["error"], context_lines=context_lines
    )
    assert place[STDOUT] == len(data)
    shown = text_of(pages).splitlines()
    if max_bytes > MIN_BYTES:  # there is room for a line and those around
        assert [one for one in shown if one != "--"] == [
            one for one in grep(lines, ["error"], context_lines)[0] if one != "--"
        ]
    assert [one for one in shown if "error" in one] == [one for one in lines if "error" in one]
    assert len([one for one in shown if one != "--"]) == len(set(shown) - {"--"})
    assert sum(page.matched_lines for page in pages) == len([one for one in lines if "err" in one])


def test_what_a_long_line_contains_is_shown():
    """A long line is clipped around what was looked for, whatever its place."""
    for place in (0, 999, 5000, 12345, 19990):
        line = "a" * place + "NEEDLE" + "b" * (20000 - place)
        for max_bytes in (*range(64, 160), 500, AMPLE):
            page = read_page([(STDOUT, line.encode() + b"\n")], (), max_bytes, contains=["NEEDLE"])
            assert "NEEDLE" in page.text, (place, max_bytes)
            note = r" ?\.\.\. \[(\d+) characters left out\] \.\.\. "
            gaps = re.findall(note, page.text)
            kept = re.sub(note, "", page.text.strip("\n"))
            assert len(kept) + sum(map(int, gaps)) == len(line)


def test_a_line_that_is_not_finished_is_looked_at_again():
    """A line that does not contain the text yet is left for the page that has the rest of it."""
    log = log_of([(STDERR, b"wait\n"), (STDOUT, b"x\nserver is rea")])
    page = read_page(log.since({STDOUT: 0, STDERR: 0}), STREAMS, AMPLE, contains=["ready"])
    assert (page.text, page.sizes, page.more) == ("", {STDOUT: 2, STDERR: 5}, False)
    log.append(STDOUT, b"dy\n", 1)
    page = read_page(log.since(page.sizes), STREAMS, AMPLE, contains=["ready"])
    assert (page.text, page.matched_lines) == ("server is ready\n", 1)


def test_a_line_that_may_go_on_is_not_searched():
    """A line without an end is left for the page that has all of it: it is shown once, whole."""
    page = read_page([(STDOUT, b"x\nerror: no")], STREAMS, AMPLE, contains=["error"])
    assert (page.text, page.sizes, page.matched_lines, page.more) == ("", {STDOUT: 2}, 0, False)
    page = read_page([(STDOUT, b"error: no")], (), AMPLE, contains=["error"])
    assert (page.text, page.sizes, page.matched_lines) == ("error: no", {STDOUT: 9}, 1)


def test_colours_do_not_hide_what_is_looked_for():
    """What is looked for is the text that is shown, without the sequences in between."""
    data = b"\x1b[31merr\x1b[1mor\x1b[0m: no\nfine\n"
    assert read_page([(STDOUT, data)], (), AMPLE, contains=["error: no"]).text == "error: no\n"
    raw = read_page([(STDOUT, data)], (), AMPLE, raw=True, contains=["error: no"])
    assert (raw.text, raw.matched_lines) == ("", 0)


# ---------------------------------------------------------------- the newest lines


def naive_newest(lines, max_bytes):
    """Return how many of the last lines fit, joined by newlines."""
    count = 0
    while count < len(lines) and len("\n".join(lines[-count - 1 :]).encode()) <= max_bytes:
        count += 1
    return count


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("max_bytes", [MIN_BYTES, 300, 5000])
def test_the_newest_lines_that_fit(seed, max_bytes):
    """Newest keeps as many of the last lines as fit, and counts the others."""
    rng = random.Random(seed)
    pieces = random_pieces(rng, 60, 50)
    lines = Lines(pieces).texts
    newest = Newest(pieces, (), max_bytes)
    fitting = naive_newest(lines, max_bytes)
    assert len("\n".join(newest.texts).encode()) <= max_bytes
    assert newest.left_out_lines + len(newest.texts) == len(lines)
    assert len(newest.texts) == max(1, fitting)
    if fitting:
        assert newest.texts == lines[-fitting:]
    sizes = Lines(pieces).sizes(newest.left_out_lines)
    assert newest.left_out_bytes == sum(sizes.values())


@pytest.mark.parametrize(
    "clear", [b"\x1bc", b"\x1b[2J\x1b[3J\x1b[H", b"\x1b[H\x1b[J", b"\x1b[H\x1b[2J"]
)
def test_the_newest_lines_begin_where_the_screen_was_cleared(clear):
    """What stood on the screen before it was cleared is counted, not shown."""
    before = b"old 1\nold 2\n"
    newest = Newest([(STDOUT, before), (STDERR, clear + b"new\n")], ())
    assert newest.texts == ["new"]
    assert (newest.left_out_lines, newest.left_out_bytes) == (2, len(before))


def test_a_clear_is_of_one_stream():
    """What clears the screen stands in one stream; lines that end after it are shown whole."""
    pieces = [(STDOUT, b"old error\n\x1b[2"), (STDERR, b"JSON ready\n")]
    assert Newest(pieces, STREAMS).texts == ["old error", "JSON ready"]
    pieces = [(STDERR, b"fatal: half a li"), (STDOUT, b"old\n\x1bcnew\n"), (STDERR, b"ne\n")]
    newest = Newest(pieces, ())
    assert newest.texts == ["new", "fatal: half a line"]
    assert (newest.left_out_lines, newest.left_out_bytes) == (1, 4)


@pytest.mark.parametrize("clear", [b"\x1bc", b"\x1b[2J", b"\x1b[H\x1b[2J\x1b[3J"])
def test_a_screen_that_was_cleared_last_of_all_is_still_told(clear):
    """A program that clears the screen as it ends does not hide what it printed before."""
    newest = Newest([(STDOUT, b"old\n" + clear + b"result\n" + clear + b"\x1b[0m \n")], ())
    assert newest.texts[0] == "result"


def pages_before(log, open_streams=(), **options):
    """Return all pages of a log from its end to its beginning, in the order of the output."""
    place = log.end_place
    pages = []
    while True:
        last_streams = {stream for stream in STREAMS if place[stream] == log.end_place[stream]}
        open_here = last_streams & set(open_streams)
        pieces, cut_streams = log.until(place, 4 * options["max_bytes"], open_here)
        page = read_last_page(pieces, cut_streams, last_streams, open_here, **options)
        for sizes in (page.held, page.sizes):
            for stream, size in sizes.items():
                place[stream] -= size
        pages.insert(0, page)
        if place == log.begin_place:
            return pages
        assert page.text or page.held, "a page without anything"


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("max_bytes", [MIN_BYTES, 300, AMPLE])
@pytest.mark.parametrize("seed", range(6))
def test_pages_read_backwards_miss_nothing_and_repeat_nothing(seed, max_bytes, raw):
    """Pages that end where the one behind begins cover each byte once, and fit."""
    log = log_of(random_output(random.Random(seed), 150))
    pages = pages_before(log, max_bytes=max_bytes, raw=raw)
    for stream in STREAMS:
        assert sum(page.sizes.get(stream, 0) for page in pages) == log.end_place[stream]
    assert max(len(page.text.encode()) for page in pages) <= max_bytes


@pytest.mark.parametrize("max_bytes", [MIN_BYTES, 1000])
def test_pages_read_backwards_are_whole_lines(max_bytes):
    """Lines that fit a page are not cut by it, in whatever order both streams printed them."""
    rng = random.Random(1)
    words = [(rng.choice(STREAMS), b"line %d\n" % number) for number in range(500)]
    pages = pages_before(log_of(words), max_bytes=max_bytes)
    assert text_of(pages) == "".join(data.decode() for _, data in words)
    assert sum(page.lines for page in pages) == 500
    runs = [run for page in pages for run in page.streams()]
    assert [stream for stream, count in runs for _ in range(count)] == [one for one, _ in words]


def test_a_page_that_ends_somewhere_begins_with_a_line():
    """Where one has been cut off to look no further back, it is left for the page before."""
    log = log_of([(STDERR, b"e" * 300 + b"\n"), (STDOUT, b"a\n" * 60)])
    pieces, cut_streams = log.until(log.end_place, 200)
    assert cut_streams == {STDERR}
    page = read_last_page(pieces, cut_streams, STREAMS, (), 200)
    assert (page.text, page.streams()) == ("a\n" * 60, [(STDOUT, 60)])


@pytest.mark.parametrize("character", ["\u00e9", "\u20ac", "\U0001f600"])
def test_a_line_longer_than_a_page_is_read_backwards_in_whole_characters(character):
    """Raw, such a line comes in parts, and no part begins within a character."""
    text = character * 500
    pages = pages_before(log_of([(STDOUT, text.encode())]), max_bytes=100, raw=True)
    assert text_of(pages) == text
    junk = b"\x80" * 1000
    pages = pages_before(log_of([(STDOUT, junk)]), max_bytes=100, raw=True)
    assert text_of(pages) == "\ufffd" * 1000


def test_a_page_tells_whose_its_lines_are():
    """Lines of both streams are told apart, those of a search too, where separators are neither."""
    pieces = [(STDOUT, b"a\nb\nx\n"), (STDERR, b"c\nd"), (STDOUT, b"e\nf")]
    page = read_page(pieces, STREAMS, AMPLE)
    assert page.text == "a\nb\nx\nc\ne\nd\nf"
    assert page.streams() == [(STDOUT, 3), (STDERR, 1), (STDOUT, 1), (STDERR, 1), (STDOUT, 1)]
    page = read_page(pieces, (), AMPLE, contains=["a", "e"], context_lines=1)
    assert page.text == "a\nb\n--\nc\ne\nd"
    assert page.streams() == [(STDOUT, 2), (None, 1), (STDERR, 1), (STDOUT, 1), (STDERR, 1)]


def test_a_line_that_may_grow_is_shown_and_left():
    """Such a line comes again with the next page, whole; of a stream that is closed it does not."""
    pieces = [(STDOUT, b"one\n10 %"), (STDERR, b"what?")]
    page = read_page(pieces, (STDOUT,), AMPLE)
    leave_unfinished(page, (STDOUT,), 4)
    assert (page.text, page.lines, page.left_lines) == ("one\nwhat?\n10 %", 2, 1)
    assert (page.sizes, page.held) == ({STDOUT: 4, STDERR: 5}, {STDOUT: 4})


class OneTask(TaskManager):
    """A manager of one task whose log the test writes, without a process."""

    def __init__(self, limit_bytes):
        super().__init__(buffer_bytes=limit_bytes)
        self.task = TaskRecord("t1", TaskSettings("true"), 1, set(), limit_bytes, 0, 0)
        self.log = self.task.log

    def _find(self, task_id):
        return self.task

    def _count_left(self, statuses):
        return statuses


@pytest.mark.parametrize("whole_lines", [False, True])
@pytest.mark.parametrize("max_bytes", [MIN_BYTES, 333, AMPLE])
@pytest.mark.parametrize("seed", range(12))
def test_both_ways_lead_through_all_that_is_kept(seed, max_bytes, whole_lines):
    """Whatever was dropped and whatever may still come, pages lie side by side, either way."""
    rng = random.Random(seed)
    task = OneTask(rng.choice([500, 4000, AMPLE]))
    for stream, data in random_output(rng, 120):
        task.log.append(stream, data, data.count(b"\n"))
    task.task.open_streams = {stream for stream in STREAMS if rng.random() < 0.6}
    options = {"max_bytes": max_bytes, "raw": rng.random() < 0.5, "whole_lines": whole_lines}
    last = page = task.read_output("t1", before="end", **options)
    begin = parse_cursor(page.previous_cursor)
    while page.more:
        page = task.read_output("t1", before=format_cursor(begin), **options)
        assert parse_cursor(page.next_cursor) == begin
        assert parse_cursor(page.previous_cursor) != begin
        begin = parse_cursor(page.previous_cursor)
    assert begin == task.log.begin_place
    assert page.skipped_bytes == task.log.start
    cursor = None
    while True:
        page = task.read_output("t1", cursor=cursor, **options)
        assert page.next_cursor != cursor or not page.more
        cursor = page.next_cursor
        if not page.more:
            break
    # Who begins at the end misses nothing: that leaves for later what the other way does, or more.
    for stream, place in parse_cursor(last.next_cursor).items():
        assert place <= parse_cursor(cursor)[stream]
    assert task.log.end - sum(parse_cursor(cursor).values()) == page.held_bytes


def test_half_a_character_is_left_wherever_it_lies():
    """A prompt of stderr, far behind stdout, is not lost to who begins at the end."""
    task = OneTask(AMPLE)
    task.task.open_streams = set(STREAMS)
    task.log.append(STDERR, b"ok \xe2\x82", 0)
    task.log.append(STDOUT, b"line\n" * 400, 400)
    first = task.read_output("t1", before="end", max_bytes=MIN_BYTES)
    whole = task.read_output("t1", before="end", max_bytes=MIN_BYTES, whole_lines=True)
    task.log.append(STDERR, b"\xac!\n", 1)
    assert task.read_output("t1", cursor=first.next_cursor).text == "\u20ac!\n"
    assert task.read_output("t1", cursor=whole.next_cursor).text == "ok \u20ac!\n"


def test_a_reader_of_whole_lines_gets_on():
    """Of two long lines that may grow, where a page has room for one, each is shown."""
    task = OneTask(AMPLE)
    task.task.open_streams = set(STREAMS)
    for stream, character in ((STDOUT, b"A"), (STDERR, b"B")):
        task.log.append(stream, character * 10000, 0)
    seen = ""
    cursor = None
    for _ in range(5):
        page = task.read_output("t1", cursor, 16384, raw=True, whole_lines=True)
        cursor = page.next_cursor
        seen += page.text
    assert seen.startswith("A" * 10000 + "\n" + "B" * 10000)


@pytest.mark.parametrize("buffer_bytes", [1 << 20, 60000])
def test_a_line_that_grows_for_ever_is_read_once(buffer_bytes):
    """A progress bar of megabytes is not looked at again and again, nor told as lost when it was
    read in time."""
    task = OneTask(buffer_bytes)
    task.task.open_streams = set(STREAMS)
    read_bytes = 0
    cursor = None
    for number in range(200):
        task.log.append(STDOUT, b"\r%05d %s" % (number, b"." * 10000), 0)
        page = task.read_output("t1", cursor, whole_lines=True)
        assert page.skipped_bytes == 0
        assert str(number) in page.text
        cursor = page.next_cursor
        read_bytes += page.read_bytes
    left = task.log.end - sum(parse_cursor(cursor).values())
    assert read_bytes + left == task.log.end
    assert left <= min(131072, buffer_bytes // 2)


def test_who_begins_at_the_end_of_one_stream_can_go_on_with_both():
    """Nothing of the other stream was shown, and so nothing of it is passed over."""
    task = OneTask(AMPLE)
    task.log.append(STDOUT, b"out\n", 1)
    task.log.append(STDERR, b"error\n", 1)
    page = task.read_output("t1", before="end", stream=STDOUT)
    assert page.text == "out\n"
    task.log.append(STDOUT, b"more\n", 1)
    assert task.read_output("t1", page.next_cursor).text == "error\nmore\n"
    assert task.read_output("t1", page.next_cursor, stream=STDOUT).text == "more\n"
    assert task.read_output("t1", before=page.previous_cursor).text == "error\n"


def test_what_came_before_a_page_is_counted_once():
    """Where output was dropped since, only what lay before the place is told as gone."""
    task = OneTask(20000)
    task.log.append(STDOUT, b"x\n" * 5000, 5000)
    first = task.read_output("t1", before="end", max_bytes=1000)
    task.log.append(STDOUT, b"y\n" * 20000, 20000)
    before = task.read_output("t1", before=first.previous_cursor)
    assert (before.text, before.more, before.skipped_bytes) == ("", False, 9000)


def test_pages_are_values():
    """A page tells what it covers."""
    page = read_page([(STDOUT, b"a\n"), (STDERR, b"b\n")], (), AMPLE)
    assert isinstance(page, Page)
    assert (page.text, page.sizes, page.lines) == ("a\nb\n", {STDOUT: 2, STDERR: 2}, 2)
    assert (page.matched_lines, page.more) == (None, False)
    assert merged([(STDOUT, b"a"), (STDOUT, b"b")]) == [(STDOUT, b"ab")]
