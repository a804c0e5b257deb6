"""Serve MCP to one client: `serve` on any streams, `Service` what every such server is made of."""

from __future__ import annotations

import select
import sys
import time

from .arguments import check_whole
from .errors import InvalidValue
from .jsonrpc import MAX_MESSAGE_BYTES, Connection, LineReader, LineWriter
from .manager import TaskManager
from .mcp import McpHandler
from .resources import changed_uris
from .subscriptions import Subscriptions
from .tool import Tool
from .tools import default_tools

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO, Callable, Iterable, Optional, Protocol

    class Streams(Protocol):
        """Where messages come from and where they go."""

        def read(self, size: int) -> bytes:
            """Return some bytes, b"" at the end; blocks meanwhile."""

        def write(self, data: bytes) -> int:
            """Write some of `data`; return how many bytes. Raises OSError when broken."""

        def writable(self) -> bool:
            """Whether a small write would not block now, as far as that can be told."""

        def stop(self) -> None:
            """Take note that nobody reads any more, so that reading and serving end."""

        def given_up(self, waited_s: float) -> bool:
            """Whether to end while the client does not read its answers, for `waited_s` by now."""


# For how long a client that has closed its side may leave its answers unread: with the second
# that ending the tasks may take, clients (two seconds of patience) still see a clean exit.
UNREAD_S = 1.0
# For how long a client may read nothing at all of the answers that wait for it, where the system
# cannot tell whether it is there.
_SILENCE_S = 60.0
_WRITE_PIECE_BYTES = 65536
# Calls that wait for the tasks of somebody else's manager get so long to be answered at the end.
_LAST_ANSWERS_S = 0.3
# Calls in the middle of something, such as the end of a task, get so long to come back.
_THREADS_S = 10.0


class Service:
    """One client of a manager's tasks. on_error: told of a defect, in the `except` block. tools:
    further ones. max_message_bytes: a longer line is answered with an error and skipped. Raises
    InvalidValue."""

    def __init__(
        self,
        manager: TaskManager,
        streams: Streams,
        on_error: Callable[[], None],
        tools: Iterable[Tool] = (),
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        check_whole("max_message_bytes", max_message_bytes, 1)
        table = default_tools(manager.policy)
        for tool in tools:
            if not isinstance(tool, Tool):
                raise InvalidValue("tools", "must be a list of Tool, not of %r" % tool)
            if tool.name in table:
                raise InvalidValue("tools", "must not have a second tool named %r" % tool.name)
            table[tool.name] = tool
        self._manager = manager
        self.writer = LineWriter(streams.write, streams.writable, streams.stop)
        self._subscriptions = Subscriptions(self.writer)
        self.connection = Connection(
            LineReader(streams.read, max_message_bytes),
            self.writer,
            McpHandler(manager, table, self._subscriptions),
            streams.given_up,
            on_error,
        )
        manager.listen(self._on_change)

    def finish(self) -> None:
        """When the input has ended: tell what is still to be told, answer the calls that listen."""
        self._manager.unlisten(self._on_change)
        self._subscriptions.close()

    def _on_change(self, task_id: str, change: str) -> None:
        self._subscriptions.changed(changed_uris(task_id, change))


def serve(
    input: BinaryIO,
    output: BinaryIO,
    manager: Optional[TaskManager] = None,
    tools: Iterable[Tool] = (),
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    **options: Any,
) -> None:
    """Serve MCP to one client on two streams, on this thread, until the input ends.

    input, output: binary and blocking, such as a pipe, or for both the file of a socket
    (`makefile("rwb")`); they are not closed. What can be read of the input has to come at once:
    by `read1`, as buffered files have it, or by the `read` of one that is not buffered. To end it
    from elsewhere, end the input.
    manager: whose tasks these are; it stays open, and may be served to several clients at a
    time. None: one of its own, with `options`, those of `TaskManager`; it is closed at the end.
    tools: further ones, with names of their own.
    max_message_bytes: a longer line is answered with an error and skipped.

    No signal handler is installed and nothing is printed, but the traceback of a defect, to
    stderr. A client that reads nothing is given up: one that has closed its side after a second,
    where the file tells (one of `makefile("rwb")` does not, of "rb" and "wb" do), another after a
    minute. No thread is left, but one that is in a write which blocks, until the output is closed,
    and those of tools that do not return: they are waited for, ten seconds. Raises InvalidValue.
    """
    if manager is None:
        with TaskManager(**options) as own_manager:
            _serve(_FileStreams(input, output), own_manager, tools, max_message_bytes, True)
    elif options:
        raise InvalidValue("options", "must not be given beside a manager: %s" % ", ".join(options))
    else:
        _serve(_FileStreams(input, output), manager, tools, max_message_bytes, False)


def _serve(
    streams: _FileStreams,
    manager: TaskManager,
    tools: Iterable[Tool],
    max_message_bytes: int,
    closes_manager: bool,
) -> None:
    service = Service(manager, streams, _print_exception, tools, max_message_bytes)
    try:
        service.connection.serve()
        if closes_manager:
            manager.close()  # before: a call that waits for a task is answered by its end
    finally:
        service.finish()
        late_bytes = -1
        patience_s = UNREAD_S if closes_manager else _LAST_ANSWERS_S
        while not service.connection.drain(patience_s) and service.writer.late_bytes > late_bytes:
            late_bytes = service.writer.late_bytes
        service.connection.close(_THREADS_S)
        service.writer.close(UNREAD_S)


def _print_exception() -> None:
    """Tell of a defect where the host program has its errors."""
    if sys.stderr is not None:
        import traceback

        traceback.print_exc()


class _FileStreams:
    """Two file objects, as `Streams`."""

    def __init__(self, input: BinaryIO, output: BinaryIO) -> None:
        for argument, stream in (("input", input), ("output", output)):
            method = "read" if argument == "input" else "write"
            if hasattr(stream, "encoding") or not hasattr(stream, method):
                raise InvalidValue(argument, "must be a binary stream, such as sys.stdin.buffer")
        self._read = getattr(input, "read1", input.read)
        self._input = input
        self._output = output
        self._stopped = False
        self._written_at = time.monotonic()

    def read(self, size: int) -> bytes:
        try:
            return b"" if self._stopped else self._read(size) or b""
        except Exception:  # the connection is lost, or the host has closed the file
            return b""

    def write(self, data: bytes) -> int:
        try:
            # A piece at a time, by which one can see whether the client reads.
            data = data[:_WRITE_PIECE_BYTES]
            count = self._output.write(data)
            self._output.flush()
        except Exception as error:  # whatever these streams are
            raise OSError(str(error)) from None
        self._written_at = time.monotonic()
        return len(data) if count is None else count

    def writable(self) -> bool:
        return False  # so that the writer's thread does all

    def stop(self) -> None:
        self._stopped = True

    def given_up(self, waited_s: float) -> bool:
        if waited_s > UNREAD_S and self._has_hung_up():
            return True
        silence_s = min(waited_s, time.monotonic() - self._written_at)
        return self._stopped or silence_s > _SILENCE_S

    def _has_hung_up(self) -> bool:
        """Whether the client has closed its side, as far as the system can tell."""
        if sys.platform == "win32":
            return False
        try:
            fd = self._input.fileno()
        except (OSError, ValueError):  # no file of the system, or none that tells: a pair of them
            return False
        events = select.POLLHUP | getattr(select, "POLLRDHUP", 0)
        return bool(poll_fd(fd, events, 0) & events)


def poll_fd(fd: int, events: int, timeout_ms: Optional[int]) -> int:
    """Return what is the case of `events`, POLLHUP and POLLERR; 0 when the time is up.

    Not select.select, which refuses descriptors from 1024 on.
    """
    if sys.platform == "win32":
        return 0
    poll = select.poll()
    poll.register(fd, events)
    return dict(poll.poll(timeout_ms)).get(fd, 0)
