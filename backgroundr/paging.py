"""Paging: which lines of a task's output an answer has room for, and where the next goes on.

Pure functions on what a log returned; used when somebody reads. Rooms are in bytes of UTF-8.
"""

from __future__ import annotations

import re

from .errors import InvalidValue
from .output import STDERR, STDOUT, STREAMS
from .screen import LINE_CHARS, Lines, after_clear, clip, decode, incomplete_character

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Collection, Dict, List, Mapping, Optional, Sequence, Tuple, Union

    from .output import OutputLog

    Pieces = List[Tuple[str, bytes]]

# The smallest room in which a line can say that it was clipped.
MIN_BYTES = 64
# Between groups of lines that do not touch, as grep does.
GROUP_SEPARATOR = "--"

_UNLIMITED = 2**62

# Of a character of UTF-8 all bytes but the first.
_INNER_BYTES = bytes(range(0x80, 0xC0))

_CURSOR = re.compile(r"([0-9]{1,18})\+([0-9]{1,18})")


def format_cursor(place: Mapping[str, int]) -> str:
    """Return a place in a log as text: how many bytes of stdout come before, and of stderr."""
    return "%d+%d" % (place[STDOUT], place[STDERR])


def parse_cursor(text: str) -> Optional[Dict[str, int]]:
    """Return the place that `format_cursor` wrote, or None when it did not write this."""
    match = _CURSOR.fullmatch(text)
    return match and {STDOUT: int(match.group(1)), STDERR: int(match.group(2))}


def retained_place(
    log: OutputLog, cursor: Union[str, int, None], streams: Sequence[str]
) -> Tuple[Dict[str, int], int]:
    """Return the place that a cursor means, or the oldest behind it that is retained, and how
    many bytes of the streams are not between the two. Raises InvalidValue."""
    place = place_of(log, cursor)
    oldest = log.begin_place
    skipped_bytes = sum(max(0, oldest[name] - place[name]) for name in streams)
    if cursor is not None and parse_cursor(str(cursor)) is None:
        # An offset: of one it is known for both streams together.
        skipped_bytes = min(skipped_bytes, max(0, log.start - int(cursor)))
    for name in streams:
        place[name] = max(place[name], oldest[name])
    return place, skipped_bytes


def place_of(
    log: OutputLog,
    cursor: Union[str, int, None],
    name: str = "cursor",
    what: str = "the next_cursor of an answer about this task",
) -> Dict[str, int]:
    """Return the place in the log that a cursor means. Raises InvalidValue.

    name: of the argument that it was. what: that must be.
    """
    if isinstance(cursor, str) and cursor.isascii() and cursor.isdigit() and len(cursor) < 19:
        cursor = int(cursor)  # models quote numbers
    if cursor is None:
        return dict.fromkeys(STREAMS, 0)
    end = log.end_place
    if isinstance(cursor, str):
        place = parse_cursor(cursor)
        ahead = place is not None and any(place[name] > end[name] for name in STREAMS)
    elif isinstance(cursor, bool) or not isinstance(cursor, int) or cursor < 0:
        place, ahead = None, False
    else:
        place, ahead = log.place(cursor), cursor > log.end
    if place is None:
        raise InvalidValue(name, "must be %s" % what)
    if ahead:
        raise InvalidValue(
            name,
            "must be %s, and %s is ahead of all that it has printed, which ends at %s"
            % (what, cursor, format_cursor(end)),
        )
    return place


class Page:
    """Some lines of output.

    text: the lines, each with its newline where it has ended. sizes: {stream: bytes of the
    log that they cover}. lines: how many were looked at; one that is cut counts where its end
    is. matched_lines: how many of them were looked for, None when nothing was. more: there is
    more for a further page to look at. held: {stream: bytes left for later, behind all that was
    read}. left_lines: how many lines at the end of the text are left, too: `leave_unfinished`.
    """

    __slots__ = (
        "text",
        "sizes",
        "lines",
        "matched_lines",
        "more",
        "held",
        "left_lines",
        "_lines",
        "_shown",
    )

    def __init__(
        self,
        text: str,
        sizes: Dict[str, int],
        lines: int,
        matched_lines: Optional[int],
        more: bool,
        held: Dict[str, int],
        of: Lines,
        shown: Sequence[int],
    ) -> None:
        """of, shown: from which lines, and the indices of those that the text has."""
        self.text = text
        self.sizes = sizes
        self.lines = lines
        self.matched_lines = matched_lines
        self.more = more
        self.held = held
        self.left_lines = 0
        self._lines = of
        self._shown = shown

    def streams(self) -> List[Tuple[Optional[str], int]]:
        """Return whose the lines of the text are, as (stream, how many in a row); None for
        separators."""
        return self._lines.streams_of(self._shown)

    def without_end(self, streams: Collection[str]) -> Dict[str, Tuple[int, bool]]:
        """Return the lines of these streams that have no end: {stream: (size in bytes, whether
        the text has it)}."""
        return {
            stream: (size, index in self._shown)
            for index, stream, size in self._lines.without_end()
            if stream in streams
        }


def read_page(
    pieces: Pieces,
    open_streams: Collection[str],
    max_bytes: int,
    raw: bool = False,
    contains: Sequence[str] = (),
    context_lines: int = 0,
    line_chars: int = LINE_CHARS,
) -> Page:
    """Return the first lines of `pieces` that fit.

    pieces: (stream, bytes) in order of arrival, to the end of what there is. open_streams:
    those of which more may come; what is cut at their ends is left for later. max_bytes: at
    least MIN_BYTES. raw: the text is as it was printed, and a line that is too long is cut,
    to go on in the next page; otherwise it is clipped. contains: only lines that contain one
    of these, which have no newlines, each clipped around it, with `context_lines` lines before
    and after, or as many as one page has room for; a line that has not ended is left for later,
    for its rest alone may not be found. line_chars: a longer line is clipped.
    """
    lines = Lines(pieces, open_streams, raw, bool(contains), None if contains else max_bytes)
    chars = _UNLIMITED if raw else line_chars
    if contains:
        return _page_of_found(lines, max_bytes, chars, contains, context_lines)
    return _whole_page(lines, max_bytes, chars) or _first_page(lines, max_bytes, chars, raw)


def leave_unfinished(page: Page, open_streams: Collection[str], max_bytes: int) -> None:
    """Make of a page one that shows the lines of these streams that have not ended, but leaves
    them for the page behind it too, which has all of what became of them by then.

    max_bytes: a longer one is not left, for it would be looked at again and again.

    Not for a page of `read_page` that has `more`: who reads on from what it left would stand still
    where there is no room for the next of them.
    """
    for stream, (size, is_shown) in page.without_end(open_streams).items():
        if size > max_bytes:
            continue
        if is_shown:
            page.left_lines += 1
            page.lines -= 1
            page.sizes[stream] -= min(size, page.sizes[stream])
        page.held[stream] = page.held.get(stream, 0) + size


def read_last_page(
    pieces: Pieces,
    cut_streams: Collection[str],
    last_streams: Collection[str],
    open_streams: Collection[str],
    max_bytes: int,
    raw: bool = False,
    line_chars: int = LINE_CHARS,
) -> Page:
    """Return the last lines of `pieces` that fit; `sizes` is what these alone cover.

    cut_streams: those of which the pieces begin within a line, which is shown only when there is
    no other. last_streams: those of which there is nothing behind the pieces now; a line of another
    that has no end here counts where its end is. more: not all of the pieces is shown. For the rest
    see `read_page`.
    """
    lines = Lines(pieces, open_streams, raw)
    texts = lines.texts if raw else [clip(text, line_chars) for text in lines.texts]
    first = len(texts) - _fitting(texts, max_bytes)
    for stream in cut_streams:
        cut_line = lines.index_of(stream, 0)
        if first <= cut_line < len(texts) - 1:
            first = cut_line + 1
    if texts and first == len(texts):
        if raw:
            page = _last_part(lines, max_bytes)
            page.lines -= _going_on(page, last_streams)
            return page
        first -= 1
        texts[first] = _fit(lines.texts[first], (), max_bytes - 1)
    page = _page(lines, texts[first:], range(first, len(texts)), len(texts))
    before = lines.sizes(first)
    page.sizes = {stream: size - before.get(stream, 0) for stream, size in page.sizes.items()}
    page.lines -= first + _going_on(page, last_streams)
    page.more = first > 0
    return page


def _going_on(page: Page, last_streams: Collection[str]) -> int:
    """Return how many lines of a page go on behind it in what was printed already."""
    others = [stream for stream in STREAMS if stream not in last_streams]
    return sum(is_shown for _, is_shown in page.without_end(others).values())


def _fitting(texts: Sequence[str], room: int) -> int:
    """Return how many of the last texts fit, each with a newline."""
    count = 0
    for text in reversed(texts):
        room -= _size((text,))
        if room < 0:
            break
        count += 1
    return count


def _last_part(lines: Lines, room: int) -> Page:
    """Return a page that shows, untouched, the end of the last line: all that fits."""
    stream, data = lines.last()
    part = data[-room:]
    while True:
        whole = part.lstrip(_INNER_BYTES)
        if whole and len(part) < len(data) and len(part) - len(whole) < 4:
            part = whole  # not from within a character on
        text = decode(part)
        size = len(text.encode())
        if size <= room:
            last = len(lines.texts) - 1
            return Page(text, {stream: len(part)}, 1, None, True, lines.held, lines, (last,))
        part = part[len(part) - len(part) * room // size :]


def _whole_page(lines: Lines, max_bytes: int, chars: int) -> Optional[Page]:
    """Return a page of all the lines, the quick way, when they fit and none is clipped."""
    if not lines.complete or max(map(len, lines.texts), default=0) > chars:
        return None
    page = _page(lines, lines.texts, range(len(lines.texts)), len(lines.texts))
    return page if len(page.text.encode()) <= max_bytes else None


def _first_page(lines: Lines, room: int, chars: int, raw: bool) -> Page:
    """Return a page of the first lines."""
    shown: List[str] = []
    for text in lines.texts:
        text = text if len(text) <= chars else clip(text, chars)
        size = _size((text,))
        if size > room:
            if shown:
                break
            if raw:
                return _part(lines, room)
            text = _fit(text, (), room - 1)
        shown.append(text)
        room -= size
    return _page(lines, shown, range(len(shown)), len(shown))


def _part(lines: Lines, room: int) -> Page:
    """Return a page that shows, untouched, the beginning of the first line: all that fits."""
    stream, data = lines.first()
    part = data[:room]
    while True:
        if len(part) < len(data):
            part = part[: len(part) - incomplete_character(part)]
        text = decode(part)
        size = len(text.encode())
        if size <= room:
            more = len(part) < len(data) or len(lines.texts) > 1 or not lines.complete
            ended = int(len(part) == len(data))
            return Page(text, {stream: len(part)}, ended, None, more, {}, lines, (0,))
        part = part[: len(part) * room // size]


def _page_of_found(
    lines: Lines, room: int, chars: int, contains: Sequence[str], context_lines: int
) -> Page:
    """Return a page of the lines that contain one of the strings, and of those around."""
    texts = lines.texts
    hits = lines_with(texts, contains)
    shown: List[str] = []
    indices: List[int] = []
    done = 0  # the lines before it have been shown or passed over
    for number, hit in enumerate(hits):
        following = hits[number + 1] if number + 1 < len(hits) else len(texts)
        begin = max(done, hit - context_lines)
        end = min(following, hit + context_lines + 1)
        group = [_clipped(text, chars, contains) for text in texts[begin:end]]
        group_indices = list(range(begin, end))
        separator = [GROUP_SEPARATOR] if context_lines and shown and begin > done else []
        if _size(separator + group) > room:
            if shown:
                return _page(lines, shown, indices, begin, number)
            # Too much for a page of its own: the line itself, and what fits of those around.
            before = hit - begin
            while len(group) > 1 and _size(group) > room:
                outermost = 0 if before > 0 else -1
                del group[outermost], group_indices[outermost]
                before -= 1
            if _size(group) > room:
                group = [_fit(texts[hit], contains, room - 1)]
        shown += separator + group
        indices += [-1] * len(separator) + group_indices
        room -= _size(separator + group)
        done = end
    return _page(lines, shown, indices, len(texts), len(hits))


def _page(
    lines: Lines,
    shown: Sequence[str],
    indices: Sequence[int],
    count: int,
    matched: Optional[int] = None,
) -> Page:
    """Return a page of what is shown of the first `count` lines. indices: which of them that
    is, -1 for a separator."""
    text = "".join([line + "\n" for line in shown])
    if indices and indices[-1] >= lines.unfinished and count == len(lines.texts):
        text = text[:-1]
    more = count < len(lines.texts) or not lines.complete
    return Page(text, lines.sizes(count), count, matched, more, lines.held, lines, indices)


def lines_with(texts: Sequence[str], contains: Sequence[str]) -> Sequence[int]:
    """Return the indices of the texts, lines, that contain one of the strings."""
    # As one text, for a million lines that hold nothing must not be looked at one by one.
    whole = "\n".join(texts)
    hits = set()
    for one in contains:
        index = 0
        line_start = 0
        place = whole.find(one)
        while place >= 0:
            index += whole.count("\n", line_start, place)
            hits.add(index)
            line_start = whole.find("\n", place)
            if line_start < 0:
                break
            place = whole.find(one, line_start)
    return sorted(hits)


def _first_match(text: str, contains: Sequence[str]) -> int:
    """Return where the first of the strings begins that `text` contains, or -1."""
    found = [place for place in map(text.find, contains) if place >= 0]
    return min(found) if found else -1


def _clipped(text: str, chars: int, contains: Sequence[str]) -> str:
    return text if len(text) <= chars else clip(text, chars, _first_match(text, contains))


def _size(lines: Sequence[str]) -> int:
    """Return how many bytes of UTF-8 the lines take, with their newlines."""
    return sum(len(line.encode()) + 1 for line in lines)


def _fit(text: str, contains: Sequence[str], room: int) -> str:
    """Return `text` clipped to `room` bytes."""
    place = _first_match(text, contains)
    chars = min(len(text), room)
    while True:
        clipped = clip(text, chars, place)
        excess = len(clipped.encode()) - room
        # What says that something is left out always fits.
        if excess <= 0 or chars <= 0:
            return clipped
        chars -= max(1, excess // 4)


class Newest:
    """The newest lines of pieces of output that fit.

    texts: clipped. left_out_lines, left_out_bytes: how much of the pieces comes before them.
    held: {stream: bytes at its end that are not shown, for they are cut}.
    """

    __slots__ = ("texts", "left_out_lines", "left_out_bytes", "held")

    def __init__(
        self,
        pieces: Pieces,
        open_streams: Collection[str],
        max_bytes: Optional[int] = None,
        max_lines: Optional[int] = None,
    ) -> None:
        """Choose, from where the screen was cleared last on. None: as many as there are."""
        lines = Lines(pieces, open_streams)
        self.held = lines.held
        first = _first_after_clear(lines, pieces)
        if max_lines is not None:
            first = max(first, len(lines.texts) - max_lines)
        self.texts = [clip(text) for text in lines.texts[first:]]
        self.left_out_lines = first
        if max_bytes is not None and len("\n".join(self.texts).encode()) > max_bytes:
            fitting = _fitting(self.texts, max_bytes + 1)  # the last line needs no newline
            self.left_out_lines = len(lines.texts) - max(1, fitting)
            self.texts = self.texts[len(self.texts) - fitting :] or [
                _fit(lines.texts[-1], (), max_bytes)
            ]
        self.left_out_bytes = sum(lines.sizes(self.left_out_lines).values())


def _first_after_clear(lines: Lines, pieces: Pieces) -> int:
    """Return the index of the line in which the screen was cleared last, or 0."""
    first = 0
    for stream in (STDOUT, STDERR):
        data = b"".join([data for name, data in pieces if name == stream])
        cleared = after_clear(data)
        if cleared:
            first = max(first, lines.index_of(stream, data.count(b"\n", 0, cleared)))
    return first
