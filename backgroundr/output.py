"""OutputLog: what a task printed, as tagged pieces of bytes that can be read from any place.

No lock (the manager's mutex owns every log), no thread, and no decision about text: a log
holds bytes and counts; `screen` makes text of them when somebody reads.
"""

from __future__ import annotations

from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Collection, Deque, Dict, List, Mapping, Set, Tuple, Union

STDOUT = "stdout"
STDERR = "stderr"
STREAMS = (STDOUT, STDERR)

# Pieces up to this size are joined with their predecessor, so that a program that writes
# byte by byte does not cost an object a byte; larger ones are kept as they came, uncopied.
JOIN_BYTES = 4096
# What a piece costs beside its bytes (the Piece, its bytes object, its place in the deque),
# counted against the bound so that the bound also holds for many tiny pieces; some are free.
PIECE_COST_BYTES = 160
_FREE_PIECES = 64
# A piece larger than this part of the bound is shortened where a smaller one is dropped, for
# to shorten means to copy, and in a flood it would be done for each piece that comes.
_DROPPED_WHOLE = 1 / 8


# Where lines are at least so long, on average, newlines are counted the other way.
_LONG_LINE_BYTES = 50


def count_newlines(data: bytes, lines_are_long: bool) -> Tuple[int, bool]:
    """Return how many newlines `data` (not empty) has, and whether its lines are long.

    lines_are_long: a guess, that of the piece before. bytes.count looks at one byte after the
    other, some 4 GB/s, which is half of all that a piece of a flood costs; bytes.replace hops
    from newline to newline, twice as fast for lines of 80 characters, and slow for short ones.
    """
    newlines = len(data) - len(data.replace(b"\n", b"")) if lines_are_long else data.count(b"\n")
    return newlines, newlines * _LONG_LINE_BYTES < len(data)


class Piece:
    """Bytes of one stream that arrived together. begin: how many the stream had before."""

    __slots__ = ("stream", "begin", "data", "newlines")

    def __init__(
        self, stream: str, begin: int, data: Union[bytes, bytearray], newlines: int
    ) -> None:
        self.stream = stream
        self.begin = begin
        self.data = data
        self.newlines = newlines


class Tail:
    """The most recent lines of a log.

    pieces: list of (stream, bytes) in order of arrival. earlier_lines, earlier_bytes: how
    much of the chosen streams came before them, retained or not.
    """

    __slots__ = ("pieces", "earlier_lines", "earlier_bytes")

    def __init__(
        self, pieces: List[Tuple[str, bytes]], earlier_lines: int, earlier_bytes: int
    ) -> None:
        self.pieces = pieces
        self.earlier_lines = earlier_lines
        self.earlier_bytes = earlier_bytes


class OutputLog:
    """The most recent output of a task, at most `limit_bytes` of it, and counts of it all.

    cost_bytes: what it takes of memory, about.

    A place in it is told in one of two ways: by an offset, the number of bytes that the task
    had printed before, or, for a reader that is not equally far in both streams, as
    {stream: how many of its bytes came before}.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._pieces: Deque[Piece] = deque()
        self.cost_bytes = 0
        self._end = 0
        self._bytes = {STDOUT: 0, STDERR: 0}
        self._dropped = {STDOUT: 0, STDERR: 0}
        self._newlines = {STDOUT: 0, STDERR: 0}
        self._mid_line = {STDOUT: False, STDERR: False}
        # The offset behind the last byte of each stream.
        self._stream_end = {STDOUT: 0, STDERR: 0}

    @property
    def end(self) -> int:
        """The offset behind the last byte, which is the number of bytes there ever were."""
        return self._end

    @property
    def start(self) -> int:
        """The offset of the oldest retained byte."""
        return self.dropped_bytes()

    def total_bytes(self, streams: Tuple[str, ...] = STREAMS) -> int:
        """Return how many bytes the streams ever printed."""
        return sum(self._bytes[stream] for stream in streams)

    def dropped_bytes(self, streams: Tuple[str, ...] = STREAMS) -> int:
        """Return how many bytes of the streams are not retained any more."""
        return sum(self._dropped[stream] for stream in streams)

    def total_lines(self, streams: Tuple[str, ...] = STREAMS) -> int:
        """Return how many lines the streams ever printed, an unfinished last one counted."""
        return sum(self._newlines[stream] + self._mid_line[stream] for stream in streams)

    def append(self, stream: str, data: bytes, newlines: int) -> None:
        """Add `data` (not empty) to the end. newlines: how many b"\\n" it holds, which the
        reader counts before it takes the mutex. Drops the oldest bytes beyond the bound."""
        last = self._pieces[-1] if self._pieces else None
        if (
            last is not None
            and last.stream == stream
            and isinstance(last.data, bytearray)
            and len(last.data) + len(data) <= JOIN_BYTES
        ):
            last.data += data
            last.newlines += newlines
        else:
            kept = bytearray(data) if len(data) < JOIN_BYTES else data
            self._pieces.append(Piece(stream, self._bytes[stream], kept, newlines))
            self.cost_bytes += PIECE_COST_BYTES
        self._end += len(data)
        self.cost_bytes += len(data)
        self._bytes[stream] += len(data)
        self._newlines[stream] += newlines
        self._mid_line[stream] = data[-1] != 0x0A
        self._stream_end[stream] = self._end
        self._drop_oldest()

    def give_up(self) -> None:
        """Drop everything, and retain nothing of what is still to come; the counts go on."""
        self._limit_bytes = 0
        self._drop_oldest()

    def _drop_oldest(self) -> None:
        while self._pieces:
            free = min(len(self._pieces), _FREE_PIECES) * PIECE_COST_BYTES
            excess = self.cost_bytes - free - self._limit_bytes
            if excess <= 0:
                break
            first = self._pieces[0]
            size = len(first.data)
            if size > max(excess, self._limit_bytes * _DROPPED_WHOLE):
                first.data = first.data[excess:]
                first.newlines = first.data.count(b"\n")
                first.begin += excess
                dropped = excess
                self.cost_bytes -= excess
            else:
                self._pieces.popleft()
                dropped = size
                self.cost_bytes -= size + PIECE_COST_BYTES
            self._dropped[first.stream] += dropped

    @property
    def begin_place(self) -> Dict[str, int]:
        """The place of the oldest retained byte."""
        return dict(self._dropped)

    @property
    def end_place(self) -> Dict[str, int]:
        """The place behind the last byte."""
        return dict(self._bytes)

    def place(self, offset: int) -> Dict[str, int]:
        """Return the place at an offset as {stream: bytes of it that came before}.

        Of an offset before `start` only the number of bytes to it is known: each stream is
        placed that far back, or at its beginning.
        """
        place = dict(self._dropped)
        left = offset - self.start
        if left < 0:
            return {stream: max(0, count + left) for stream, count in place.items()}
        for piece in self._pieces:
            if left <= 0:
                break
            place[piece.stream] += min(left, len(piece.data))
            left -= len(piece.data)
        return place

    def since(self, place: Mapping[str, int]) -> List[Tuple[str, bytes]]:
        """Return what is retained of the streams in `place` from there on.

        place: {stream: how many of its bytes to leave out}. Returns (stream, bytes) in order
        of arrival; the bytes are those of the log, not copied, where they came in large pieces.
        """
        found = []
        for piece in self._pieces:
            if piece.stream in place:
                known = max(0, place[piece.stream] - piece.begin)
                if known < len(piece.data):
                    found.append((piece.stream, bytes(piece.data[known:] if known else piece.data)))
        return found

    def until(
        self, place: Mapping[str, int], enough_bytes: int, open_streams: Collection[str] = ()
    ) -> Tuple[List[Tuple[str, bytes]], Set[str]]:
        """Return what is retained of the streams in `place` up to there, as `since` does, or
        the last `enough_bytes` of it; and of which streams that begins within a line.

        place: {stream: how many of its bytes come before the end}. open_streams: those of which
        a line that has not ended there is returned also where it lies further back.
        """
        found: List[Tuple[str, bytes]] = []
        room = enough_bytes
        unknown = set(place)  # what precedes the bytes of these has not been looked at
        within_line = set(open_streams)  # of these no newline has been seen yet
        cut = set()
        for piece in reversed(self._pieces):
            stream = piece.stream
            known = min(len(piece.data), place.get(stream, 0) - piece.begin)
            if known <= 0 or stream not in unknown:
                continue
            begin = max(0, known - room)
            if stream in within_line:
                line_begin = piece.data.rfind(b"\n", 0, known) + 1
                begin = min(begin, line_begin)
                if line_begin > 0:
                    within_line.discard(stream)
            if begin < known:
                found.append((stream, bytes(piece.data[begin:known])))
                room = max(0, room - (known - begin))
            if begin > 0:
                unknown.discard(stream)
                if piece.data[begin - 1] != 0x0A:
                    cut.add(stream)
                if not unknown:
                    break
        found.reverse()
        return found, cut & {stream for stream, _ in found}

    def tail(self, lines: int, streams: Tuple[str, ...] = STREAMS) -> Tail:
        """Return the last `lines` lines of `streams`, as far as they are retained.

        A line belongs to one stream, however the two were mixed on arrival; lines are in
        the order in which they ended, and an unfinished one counts as the newest.
        """
        left = lines
        taking = {}  # stream: do the bytes before the current place belong to a chosen line?
        for stream in sorted(streams, key=self._stream_end.__getitem__, reverse=True):
            retained = self._bytes[stream] > self._dropped[stream]
            taking[stream] = left > 0 and retained and self._mid_line[stream]
            left -= taking[stream]
        shown_lines = lines - left
        found: List[Tuple[str, bytes]] = []
        for piece in reversed(self._pieces):
            if left == 0 and not any(taking.values()):
                break
            if not taking.get(piece.stream, False) and (left == 0 or piece.stream not in taking):
                continue
            if piece.newlines <= left:
                left -= piece.newlines
                shown_lines += piece.newlines
                begin = 0
                taking[piece.stream] = True
            else:
                begin = len(piece.data)
                while taking[piece.stream] or left > 0:
                    newline = piece.data.rfind(b"\n", 0, begin)
                    if newline == -1:
                        begin = 0
                        break
                    if left == 0:
                        taking[piece.stream] = False
                        begin = newline + 1
                    else:
                        left -= 1
                        shown_lines += 1
                        taking[piece.stream] = True
                        begin = newline
            if begin < len(piece.data):
                found.append((piece.stream, bytes(piece.data[begin:])))
        found.reverse()
        shown_bytes = sum(len(data) for _, data in found)
        return Tail(
            found, self.total_lines(streams) - shown_lines, self.total_bytes(streams) - shown_bytes
        )
