"""OutputLog: what a task printed, as tagged pieces of bytes with absolute offsets.

No lock (the manager's mutex owns every log), no thread, and no decision about text: a log
holds bytes and counts; `screen` makes text of them when somebody reads.
"""

from __future__ import annotations

from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Deque, List, Tuple, Union

STDOUT = "stdout"
STDERR = "stderr"
STREAMS = (STDOUT, STDERR)

# Pieces up to this size are joined with their predecessor, so that a program that writes
# byte by byte does not cost an object a byte; larger ones are kept as they came, uncopied.
JOIN_BYTES = 4096
# What a piece costs beside its bytes (the Piece, its bytes object, its place in the deque),
# counted against the bound so that the bound also holds for many tiny pieces.
PIECE_COST_BYTES = 160


class Piece:
    """Bytes of one stream that arrived together. start: offset since the task began."""

    __slots__ = ("stream", "start", "data", "newlines")

    def __init__(
        self, stream: str, start: int, data: Union[bytes, bytearray], newlines: int
    ) -> None:
        self.stream = stream
        self.start = start
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
    """The most recent output of a task, at most `limit_bytes` of it, and counts of it all."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._pieces: Deque[Piece] = deque()
        self._cost_bytes = 0
        self._end = 0
        self._bytes = {STDOUT: 0, STDERR: 0}
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
        return self._pieces[0].start if self._pieces else self._end

    def total_bytes(self, streams: Tuple[str, ...] = STREAMS) -> int:
        """Return how many bytes the streams ever printed."""
        return sum(self._bytes[stream] for stream in streams)

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
            self._pieces.append(Piece(stream, self._end, kept, newlines))
            self._cost_bytes += PIECE_COST_BYTES
        self._end += len(data)
        self._cost_bytes += len(data)
        self._bytes[stream] += len(data)
        self._newlines[stream] += newlines
        self._mid_line[stream] = data[-1] != 0x0A
        self._stream_end[stream] = self._end
        self._drop_oldest()

    def _drop_oldest(self) -> None:
        while self._cost_bytes > self._limit_bytes and self._pieces:
            excess = self._cost_bytes - self._limit_bytes
            first = self._pieces[0]
            if len(first.data) > excess:
                kept = first.data[excess:]
                first.start += excess
                first.newlines = kept.count(b"\n")
                first.data = kept
                self._cost_bytes -= excess
            else:
                self._pieces.popleft()
                self._cost_bytes -= len(first.data) + PIECE_COST_BYTES

    def tail(self, lines: int, streams: Tuple[str, ...] = STREAMS) -> Tail:
        """Return the last `lines` lines of `streams`, as far as they are retained.

        A line belongs to one stream, however the two were mixed on arrival; lines are in
        the order in which they ended, and an unfinished one counts as the newest.
        """
        left = lines
        taking = {}  # stream: do the bytes before the current place belong to a chosen line?
        for stream in sorted(streams, key=self._stream_end.__getitem__, reverse=True):
            retained = self._stream_end[stream] > self.start
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
