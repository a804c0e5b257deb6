"""Reader: moves what tasks print from their pipes into memory, and notices their exits.

It also writes what was sent to a task that has no room for it yet.

One thread serves all tasks where pipes can be waited for together (`selectors`); on Windows
each pipe has a thread. The reader neither splits nor decodes, and knows nothing of tasks: it
talks to a `Channel` and a `TaskInput`.
"""

from __future__ import annotations

import os
import selectors
import sys
import threading
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Deque, Dict, List, Optional, Tuple, Union

    from .taskinput import TaskInput

# A pipe of Linux holds 64 KiB unless somebody enlarged it.
READ_BYTES = 65536
# More than this is in no pipe of an unprivileged process (pipe-max-size, pipe(7)), so what
# was written before an exit has been read when this much was read after it.
DRAIN_BYTES = 1024 * 1024
# On Windows, how long the threads may take to see the end of their pipes after the exit.
DRAIN_SECONDS = 1.0


class Channel:
    """The pipes of one command and who wants to hear of them. To be subclassed.

    The methods below are called on a thread of the reader; they must not block.
    """

    def __init__(self, pipes: Dict[int, str]) -> None:
        # {descriptor: stream}, the open ones. Only the reader changes it.
        self.pipes = pipes

    def on_output(self, stream: str, data: bytes) -> None:
        """`data` (not empty) has been read."""
        raise NotImplementedError

    def on_output_end(self, stream: str) -> None:
        """Nobody holds the other end of the stream's pipe any more."""
        raise NotImplementedError

    def on_exit(self) -> None:
        """The watched exit descriptor became readable; the reader has forgotten it."""
        raise NotImplementedError

    def on_drained(self) -> None:
        """All that had been written before the call of `Reader.drain` has been read."""
        raise NotImplementedError


class SelectReader:
    """One thread, started at once, for every channel. POSIX."""

    def __init__(self) -> None:
        """Raises OSError without a free descriptor, RuntimeError without a free thread."""
        # What other threads want done on the reader's thread, which alone touches the
        # selector. deque.append and popleft are atomic.
        self._wanted: Deque[Callable[[], None]] = deque()
        self._closed = False
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._selector = selectors.DefaultSelector()
        pipe: Tuple[int, ...] = ()
        try:
            pipe = self._wake_fd, self._waker_fd = os.pipe()
            for fd in pipe:
                os.set_blocking(fd, False)
            self._selector.register(self._wake_fd, selectors.EVENT_READ, (None, self._do_wanted))
            self._thread = threading.Thread(
                target=self._run, name="backgroundr-reader", daemon=True
            )
            self._thread.start()
        except (OSError, RuntimeError):
            self._selector.close()
            for fd in pipe:
                os.close(fd)
            raise

    def add(self, channel: Channel, exit_fd: Optional[int]) -> None:
        """Read the channel's pipes until they end; watch `exit_fd`, unless it is None."""

        def register() -> None:
            for fd in channel.pipes:
                self._selector.register(fd, selectors.EVENT_READ, (channel, self._read))
            if exit_fd is not None:
                self._selector.register(exit_fd, selectors.EVENT_READ, (channel, self._exit))

        self._do(register)

    def drain(self, channel: Channel) -> None:
        """Read what the pipes hold now, then call the channel's `on_drained`."""

        def read_now() -> None:
            for fd in list(channel.pipes):
                self._drain_pipe(channel, fd)
            channel.on_drained()

        self._do(read_now)

    def attend(self, task_input: TaskInput) -> None:
        """Write what an input holds when there is room; close it when it has ended."""
        self._do(lambda: self._attend(task_input))

    def close(self) -> None:
        """Stop reading and writing, close what is read, and wait for the thread."""

        def close() -> None:
            self._closed = True

        self._do(close)
        self._thread.join()
        for fd in (self._wake_fd, self._waker_fd):  # not before: `_do` writes to it
            os.close(fd)

    def _do(self, action: Callable[[], None]) -> None:
        self._wanted.append(action)
        try:
            os.write(self._waker_fd, b"x")
        except BlockingIOError:
            pass  # full, so the thread is about to wake anyway

    def _run(self) -> None:
        while not self._closed:
            for key, _ in self._selector.select():
                channel, handle = key.data
                handle(channel, key.fd)
        for key in list(self._selector.get_map().values()):
            channel, handle = key.data
            if handle == self._read:
                self._forget_pipe(channel, key.fd)
            elif handle == self._exit:
                self._exit(channel, key.fd)  # nobody will hear of it, but the descriptor closes
        self._selector.close()

    def _do_wanted(self, channel: None, fd: int) -> None:
        try:
            os.read(self._wake_fd, 4096)
        except BlockingIOError:
            pass
        while self._wanted:
            self._wanted.popleft()()

    def _exit(self, channel: Channel, fd: int) -> None:
        self._selector.unregister(fd)
        channel.on_exit()

    def _read(self, channel: Channel, fd: int) -> int:
        """Read once; return how many bytes, 0 when there are none now or never again."""
        if sys.platform == "win32" or fd not in channel.pipes:
            return 0  # a drain has closed it since it was seen to be readable
        try:
            # Into a buffer that stays, and a copy of what came: os.read makes room for all that
            # could come, and what it gives back leaves holes, half of the bound in a flood.
            count = os.readv(fd, (self._buffer,))
            data = bytes(self._buffer[:count])
        except BlockingIOError:
            return 0
        except OSError:
            data = b""
        if data:
            channel.on_output(channel.pipes[fd], data)
        else:
            self._forget_pipe(channel, fd)
        return len(data)

    def _attend(self, task_input: TaskInput) -> None:
        fd = task_input.fd
        if fd is None:
            return
        is_watched = fd in self._selector.get_map()
        if task_input.flush():
            if not is_watched:
                self._selector.register(fd, selectors.EVENT_WRITE, (task_input, self._write))
        else:
            if is_watched:
                self._selector.unregister(fd)
            if task_input.has_ended:
                task_input.close()

    def _write(self, task_input: TaskInput, fd: int) -> None:
        self._attend(task_input)

    def _drain_pipe(self, channel: Channel, fd: int) -> None:
        left = DRAIN_BYTES
        while left > 0 and fd in channel.pipes:
            count = self._read(channel, fd)
            if count == 0:
                break
            left -= count

    def _forget_pipe(self, channel: Channel, fd: int) -> None:
        self._selector.unregister(fd)
        os.close(fd)
        channel.on_output_end(channel.pipes.pop(fd))


class ThreadReader:
    """A thread a pipe, for systems where pipes cannot be waited for together: Windows."""

    def __init__(self) -> None:
        self._threads: Dict[Channel, List[threading.Thread]] = {}

    def add(self, channel: Channel, exit_fd: Optional[int]) -> None:
        """Read the channel's pipes until they end."""
        self._threads[channel] = [
            threading.Thread(
                target=self._run, args=(channel, fd), name="backgroundr-reader", daemon=True
            )
            for fd in channel.pipes
        ]
        for thread in self._threads[channel]:
            thread.start()

    def drain(self, channel: Channel) -> None:
        """Wait, at most DRAIN_SECONDS, for the ends of the pipes, then call `on_drained`."""

        def wait() -> None:
            for thread in self._threads.pop(channel, []):
                thread.join(DRAIN_SECONDS)
            channel.on_drained()

        threading.Thread(target=wait, name="backgroundr-drain", daemon=True).start()

    def attend(self, task_input: TaskInput) -> None:
        """Write what an input holds, on a thread of its own; close it when it has ended."""
        if task_input.needs_thread():
            thread = threading.Thread(target=task_input.run, name="backgroundr-writer", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # without a thread nothing can be written
                task_input.close()

    def close(self) -> None:
        """Nothing: the threads end with their pipes, which end with the processes."""

    def _run(self, channel: Channel, fd: int) -> None:
        stream = channel.pipes[fd]
        while True:
            try:
                data = os.read(fd, READ_BYTES)
            except OSError:
                data = b""
            if not data:
                break
            channel.on_output(stream, data)
        os.close(fd)
        channel.on_output_end(stream)


def open_reader() -> Union[SelectReader, ThreadReader]:
    """Return the reader that suits the system."""
    return ThreadReader() if sys.platform == "win32" else SelectReader()
