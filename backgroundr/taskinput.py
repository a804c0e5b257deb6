"""TaskInput: bytes on their way to a task's stdin, in the order in which they were sent.

Nobody waits for a program that does not read: what cannot be written at once stays here,
and the reader's thread writes it when there is room. It knows nothing of tasks.
"""

from __future__ import annotations

import os
import threading
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Deque, Optional

# One write hands over at most so much. On Windows it is also what may still arrive after it
# was withdrawn, for there a write cannot be interrupted.
WRITE_BYTES = 65536 if os.name == "posix" else 4096


class Sent:
    """Bytes that were sent together. written: how many of them the pipe or terminal has taken.
    The input's lock owns it."""

    __slots__ = ("data", "written", "ends")

    def __init__(self, data: bytes, ends: bool) -> None:
        self.data = data
        self.written = 0
        self.ends = ends


class TaskInput:
    """The way to the stdin of one task. Safe to use from any thread.

    fd: the writing end, which is closed here. Non-blocking, on POSIX.
    """

    def __init__(self, fd: int) -> None:
        # _lock owns all below; held across a write only where that does not block.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._fd: Optional[int] = fd
        self._queue: Deque[Sent] = deque()
        self._pending_bytes = 0
        self._is_ending = False  # its end is in the queue
        self._ended = False
        self._has_thread = False

    @property
    def fd(self) -> Optional[int]:
        """The descriptor; None when it is closed."""
        return self._fd

    @property
    def is_open(self) -> bool:
        """Whether more can be sent."""
        return not self._is_ending

    @property
    def has_ended(self) -> bool:
        """Whether nothing will be written any more, so that it can be closed."""
        return self._ended

    @property
    def pending_bytes(self) -> int:
        """How much was sent and not written yet."""
        return self._pending_bytes

    def send(self, data: bytes, ends: bool = False) -> Optional[Sent]:
        """Put `data` at the end of what is to be written; None when the input has ended.

        ends: the input ends behind it. Whoever writes is to be told: see `flush`, `run`.
        """
        with self._lock:
            if self._is_ending:
                return None
            sent = Sent(data, ends)
            self._is_ending = ends
            self._queue.append(sent)
            self._pending_bytes += len(data)
            return sent

    def wait(self, sent: Sent, timeout_s: float) -> None:
        """Return when all of `sent` is written or cannot be any more, or the time is up."""
        with self._lock:
            self._changed.wait_for(lambda: sent not in self._queue, timeout_s)

    def is_written(self, sent: Sent) -> bool:
        """Whether all of `sent` is, and the end behind it, or cannot be any more."""
        with self._lock:
            return sent not in self._queue

    def withdraw(self, sent: Sent) -> int:
        """Give up what is not written yet of `sent`; return how many bytes that is.

        An end is not given up: it comes behind what was written.
        """
        with self._lock:
            unwritten_bytes = len(sent.data) - sent.written
            if sent in self._queue:
                self._pending_bytes -= unwritten_bytes
                if sent.ends:
                    sent.data = sent.data[: sent.written]
                else:
                    self._queue.remove(sent)
            return unwritten_bytes

    def flush(self) -> bool:
        """Write what can be written without waiting; return whether there is more. POSIX."""
        with self._lock:
            while self._queue and self._fd is not None:
                sent = self._queue[0]
                part = sent.data[sent.written : sent.written + WRITE_BYTES]
                try:
                    count = os.write(self._fd, part) if part else 0
                except BlockingIOError:
                    return True
                except OSError:  # nobody reads any more, and nobody ever will
                    self._end()
                    break
                self._count(sent, count)
                self._finish(sent)
            return False

    def needs_attention(self) -> bool:
        """Write what can be written without waiting; return whether the reader is to see to the
        rest, or to the end."""
        if os.name != "posix":
            return True
        return self.flush() or self._ended

    def run(self) -> None:
        """Write until nothing is left, waiting where need be: the whole of a thread. Windows."""
        while True:
            with self._lock:
                if not self._queue or self._fd is None:
                    self._has_thread = False
                    break
                sent, fd = self._queue[0], self._fd
                part = sent.data[sent.written : sent.written + WRITE_BYTES]
                # Counted before, for who withdraws `sent` cannot take this part back.
                self._count(sent, len(part))
            try:
                if part:
                    os.write(fd, part)
            except OSError:
                self.end()
            with self._lock:
                self._finish(sent)
        if self._ended:
            self.close()

    def needs_thread(self) -> bool:
        """Whether there is something for `run` to do and no thread does it. Then the caller
        has to start one."""
        with self._lock:
            is_needed = not self._has_thread and (bool(self._queue) or self._ended)
            self._has_thread = self._has_thread or is_needed
            return is_needed

    def end(self) -> None:
        """Take nothing more, and give up what is not written."""
        with self._lock:
            self._end()

    def close(self) -> None:
        """Close the descriptor, if it is open. To be called by whoever watches it."""
        with self._lock:
            self._end()
            fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    # Called with the lock held.

    def _count(self, sent: Sent, count: int) -> None:
        sent.written += count
        self._pending_bytes -= count

    def _finish(self, sent: Sent) -> None:
        """Have done with `sent` when it is the first in the queue and all of it is written."""
        if self._queue and self._queue[0] is sent and sent.written == len(sent.data):
            self._queue.popleft()
            if sent.ends:
                self._end()
            self._changed.notify_all()

    def _end(self) -> None:
        self._ended = self._is_ending = True
        self._queue.clear()
        self._pending_bytes = 0
        self._changed.notify_all()
