"""JSON-RPC 2.0 over lines: bytes to messages and back, calls in flight, the one writer.

Knows nothing of MCP and nothing of tasks. What a method does is for the handler that a
`Connection` is given.
"""

from __future__ import annotations

import json
import select
import threading
import time
from collections import deque

from .cancel import CancelToken
from .errors import Cancelled

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Deque, Dict, Iterator, List, Optional, Protocol, Set, Union

    Id = Union[str, int]
    Message = Dict[str, Any]
    # Takes the encoded answer to one message, or None when there is to be none.
    TakeAnswer = Callable[[Optional[bytes]], None]

    class Handler(Protocol):
        """What a connection asks of the protocol above it."""

        def call(self, call: Call) -> Union[Message, Deferred, Call]:
            """Return the result of a call, or the work that will, or the call itself to
            answer it later by `Call.answer`. Raises RpcError."""

        def notify(self, connection: Connection, method: str, params: Any) -> None:
            """Take note of a notification; never answered."""

        def batches_allowed(self) -> bool:
            """Whether an array of messages is a batch, or an error."""


# JSON-RPC 2.0, section 5.1.
PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
_READ_BYTES = 65536
# A write of so much to a pipe that polls writable does not block: POSIX's PIPE_BUF is at
# least 512, Linux's is 4096.
_WRITE_BYTES = min(4096, getattr(select, "PIPE_BUF", 4096))
# With so much waiting to be written, no further message is taken; whether to stop instead
# is looked at so often.
_BACKLOG_BYTES = 4 * 1024 * 1024
# What one array of messages may hold, and how much its answers, which have to be gathered.
_BATCH_MESSAGES = 1000
_BATCH_ANSWER_BYTES = 16 * 1024 * 1024
_THROTTLE_S = 0.1


class RpcError(Exception):
    """An error answer. code: an int of JSON-RPC or of the protocol above; data: JSON or None."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data


class Deferred:
    """A result that takes time: `work()` returns it, on a thread of its own.

    otherwise: returns what to answer at once where no thread can be had.
    """

    def __init__(self, work: Callable[[], Any], otherwise: Callable[[], Any]) -> None:
        self.work = work
        self.otherwise = otherwise

    def then(self, finish: Callable[[Any], Message]) -> Deferred:
        """Return the same, with `finish` applied to the result, whichever it will be."""
        return Deferred(lambda: finish(self.work()), lambda: finish(self.otherwise()))


class Call:
    """A request in flight. id and params as they came, params {} when absent.

    cancel: cancelled when the peer no longer wants the answer. in_batch: it came in an array.
    """

    def __init__(
        self,
        connection: Connection,
        answer: TakeAnswer,
        id: Id,
        method: str,
        params: Dict[str, Any],
        in_batch: bool,
    ) -> None:
        self._connection = connection
        self.write_answer = answer
        self.id = id
        self.method = method
        self.params = params
        self.in_batch = in_batch
        self.cancel = CancelToken()

    def notify(self, method: str, params: Message) -> None:
        """Write a notification about this call; nothing once it is answered or cancelled.

        It is dropped while the peer leaves so much unread that its requests have to wait.
        """
        self._connection.notify_about(self, method, params)

    def answer(self, result: Message) -> None:
        """Answer a call that was kept open; nothing when it is answered or cancelled."""
        self._connection.answer(self, result)


def decode_message(line: bytes) -> Any:
    """Return the JSON value of a line. Raises RpcError (parse error)."""
    try:
        return _DECODER.decode(line.decode("utf-8"))
    except RecursionError:
        raise RpcError(PARSE_ERROR, "Parse error: nested too deeply") from None
    except ValueError as error:
        # Also integers of more than 4,300 digits, and bytes that are not UTF-8.
        raise RpcError(PARSE_ERROR, "Parse error: %s" % error) from None


def _refuse_constant(name: str) -> None:
    raise ValueError("%s is not JSON" % name)


# json.loads and json.dumps make a new one for each call that has options.
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def encode_message(message: Message) -> bytes:
    """Return a message as one line without its newline, UTF-8, strict JSON.

    Raises ValueError for NaN and infinities, TypeError for what JSON does not have.
    """
    text = _ENCODER.encode(message)
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        # A lone surrogate, echoed from a client: escaped it is at least valid JSON.
        return json.dumps(message, separators=(",", ":"), allow_nan=False).encode("ascii")


def encode_notification(method: str, params: Optional[Message]) -> bytes:
    """Return a notification as one line with its newline. Raises as `encode_message`."""
    message: Message = {"jsonrpc": "2.0", "method": method}
    if params is not None:
        message["params"] = params
    return encode_message(message) + b"\n"


def is_id(value: object) -> bool:
    """Whether `value` can be the id of a request: a string or an integer, never null."""
    return isinstance(value, (str, int)) and not isinstance(value, bool)


class LineReader:
    """Lines of bounded length from a source of bytes.

    read: returns some bytes, b"" at the end; blocks meanwhile. max_bytes: a longer line is
    not collected, and None stands for it.
    """

    def __init__(self, read: Callable[[int], bytes], max_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self._read = read
        self.max_bytes = max_bytes

    def __iter__(self) -> Iterator[Optional[bytes]]:
        """Yield each line without its newline; an unfinished last one too.

        Split at b"\\n" only: U+2028 and U+0085 may stand inside JSON strings. A byte order
        mark before the first line is dropped (PowerShell writes one into its pipes).
        """
        parts: List[bytes] = []  # of the line that is not finished; none once it is too long
        size = 0
        first = True
        while True:
            data = self._read(_READ_BYTES)
            pieces = data.split(b"\n")
            if not data:
                if size == 0:
                    return
                pieces = [b"", b""]  # the input ends, and with it the line
            for piece in pieces[:-1]:
                line = b"".join(parts) + piece
                too_long = size + len(piece) > self.max_bytes
                if first and line.startswith(b"\xef\xbb\xbf"):
                    line = line[3:]
                yield None if too_long else line
                parts, size, first = [], 0, False
            size += len(pieces[-1])
            if size <= self.max_bytes:
                parts.append(pieces[-1])
            else:
                parts = []


class LineWriter:
    """The one writer of a stream: whole lines, from any thread, in order.

    write: writes some of the bytes, returns how many; blocks as long as it must.
    writable: whether a small write would not block now, as far as that can be told.
    on_broken: called once, when nobody reads the stream any more; not to use the writer.

    A line is written at once when the stream takes it. What it does not take waits for a
    thread, so that a client that does not read stalls no one else. late_bytes: how much that
    thread has written so far, by which one can see whether the client reads.
    """

    def __init__(
        self,
        write: Callable[[bytes], int],
        writable: Callable[[], bool],
        on_broken: Callable[[], None],
    ) -> None:
        self._write = write
        self._writable = writable
        self._on_broken = on_broken
        # _lock owns the backlog and the right to write. _changed: notified when the backlog
        # grows (its thread waits) and when it shrinks (throttle and flush wait).
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._backlog: Deque[bytes] = deque()
        self._backlog_bytes = 0
        self.late_bytes = 0
        self._broken = False
        self._thread: Optional[threading.Thread] = None

    def send(self, line: bytes) -> None:
        """Write `line`, which ends in a newline, or queue what the stream does not take."""
        with self._lock:
            if self._broken:
                return
            if not self._backlog:
                line = self._write_now(line)
            if line:
                self._backlog.append(line)
                self._backlog_bytes += len(line)
                self._changed.notify_all()
                if self._thread is None:
                    thread = threading.Thread(
                        target=self._write_backlog, name="backgroundr-writer", daemon=True
                    )
                    try:
                        thread.start()
                        self._thread = thread
                    except RuntimeError:  # none can be had, so the caller has to wait
                        self._write_here()

    def throttle(self, timeout_s: float) -> bool:
        """Return True when there is room for answers; wait for that `timeout_s` at most.

        Whoever takes requests asks this first, so that no client can grow the backlog.
        """
        with self._lock:
            return self._changed.wait_for(
                lambda: self._backlog_bytes <= _BACKLOG_BYTES or self._broken, timeout_s
            )

    def flush(self, timeout_s: float) -> bool:
        """Wait until all is written, at most `timeout_s` seconds; return whether it is."""
        with self._lock:
            return self._changed.wait_for(lambda: not self._backlog or self._broken, timeout_s)

    def close(self, timeout_s: float) -> None:
        """Write no further line, and wait until the thread is gone, at most `timeout_s` seconds:
        it cannot be had back from a write that blocks."""
        with self._lock:
            self._give_up()
            thread = self._thread
        if thread is not None:
            thread.join(timeout_s)

    def _write_now(self, line: bytes) -> bytes:
        """Write as much as goes without blocking; return the rest."""
        rest = memoryview(line)
        try:
            while rest and self._writable():
                rest = rest[self._write(bytes(rest[:_WRITE_BYTES])) :]
        except OSError:
            self._break()
            return b""
        return bytes(rest)

    def _write_here(self) -> None:
        try:
            while self._backlog:
                self._write_all(self._backlog.popleft())
        except OSError:
            self._break()
        self._backlog_bytes = 0

    def _write_all(self, line: bytes) -> None:
        rest = memoryview(line)
        while rest:
            count = self._write(bytes(rest))
            rest = rest[count:]
            self.late_bytes += count

    def _write_backlog(self) -> None:
        while True:
            with self._lock:
                while not self._backlog:
                    if self._broken:
                        return
                    self._changed.wait()
                line = self._backlog[0]
            # Nobody else writes meanwhile: `send` queues while there is a backlog.
            try:
                self._write_all(line)
            except OSError:
                with self._lock:
                    self._break()
                return
            with self._lock:
                if self._broken:
                    return
                self._backlog.popleft()
                self._backlog_bytes -= len(line)
                self._changed.notify_all()

    def _break(self) -> None:
        self._give_up()
        self._on_broken()

    def _give_up(self) -> None:
        self._broken = True
        self._backlog.clear()
        self._backlog_bytes = 0
        self._changed.notify_all()


class Connection:
    """One peer: its messages in, each request answered once, calls that can be cancelled.

    given_up: whether to end serving; asked, with the seconds, while the peer reads no
    answers and so no request is taken. on_error: told of an exception that a handler should
    not have raised; called in the `except` block, for a traceback.
    """

    def __init__(
        self,
        lines: LineReader,
        writer: LineWriter,
        handler: Handler,
        given_up: Callable[[float], bool],
        on_error: Callable[[], None],
    ) -> None:
        self._lines = lines
        self._writer = writer
        self._handler = handler
        self._given_up = given_up
        self._on_error = on_error
        # _lock owns _in_flight, and the right to write about a call that is in it: what is
        # cancelled is silent from that moment on. The writer does not wait for the peer (but
        # where no thread can be had), so this lock is held shortly. _idle: notified when
        # _in_flight shrinks.
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._in_flight: Dict[Id, Call] = {}
        self._threads: Set[threading.Thread] = set()  # of calls that take time

    def serve(self) -> None:
        """Answer messages until the input ends. Quick calls are answered in order."""
        for line in self._lines:
            waited_s = 0.0
            while not self._writer.throttle(_THROTTLE_S):
                waited_s += _THROTTLE_S
                if self._given_up(waited_s):
                    return
            if line is None:
                too_long = (
                    "Invalid request: too long; it was skipped. The limit is %d bytes"
                    " (max_message_bytes)" % self._lines.max_bytes
                )
                self._send(_error_line(None, RpcError(INVALID_REQUEST, too_long)))
            elif line.strip():
                self._take_line(line)

    def cancel(self, id: Any) -> None:
        """Stop a call: nothing is written for it any more. An unknown id is ignored."""
        if not is_id(id):
            return
        with self._lock:
            call = self._in_flight.pop(id, None)
            self._idle.notify_all()
        if call is not None:
            call.cancel.cancel()

    def notify_about(self, call: Call, method: str, params: Message) -> None:
        """Write a notification, if the call is still in flight and there is room for it."""
        line = encode_notification(method, params)
        with self._lock:
            if self._in_flight.get(call.id) is call and self._writer.throttle(0):
                self._writer.send(line)

    def answer(self, call: Call, result: Message) -> None:
        """Answer a call, if it is still in flight."""
        self._work(call, lambda: result)

    def drain(self, timeout_s: float) -> bool:
        """Wait until every call is answered, and until all is written, at most `timeout_s`
        seconds each; return whether it is so."""
        with self._lock:
            answered = self._idle.wait_for(lambda: not self._in_flight, timeout_s)
        return self._writer.flush(timeout_s) and answered

    def close(self, timeout_s: float) -> None:
        """Cancel every call in flight, and wait until their threads are gone, at most
        `timeout_s` seconds."""
        with self._lock:
            calls = list(self._in_flight)
            threads = list(self._threads)
        for id in calls:
            self.cancel(id)
        deadline = time.monotonic() + timeout_s
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _take_line(self, line: bytes) -> None:
        try:
            message = decode_message(line)
            if not isinstance(message, list):
                self._take_message(message, self._send, in_batch=False)
                return
            if not message:
                raise RpcError(INVALID_REQUEST, "Invalid request: an empty array")
            if not self._handler.batches_allowed():
                raise RpcError(INVALID_REQUEST, "Invalid request: batches do not exist here")
            if len(message) > _BATCH_MESSAGES:
                raise RpcError(
                    INVALID_REQUEST,
                    "Invalid request: a batch of more than %d messages" % _BATCH_MESSAGES,
                )
        except RpcError as error:
            self._send(_error_line(None, error))
            return
        batch = _Batch(self._send)
        for item in message:
            answer = batch.expect()
            is_full = batch.answer_bytes > _BATCH_ANSWER_BYTES
            if is_full and isinstance(item, dict) and "method" in item and is_id(item.get("id")):
                words = "Not done: the answers before exceed %d bytes" % _BATCH_ANSWER_BYTES
                answer(_error_line(item["id"], RpcError(INTERNAL_ERROR, words)))
            else:
                self._take_message(item, answer, in_batch=True)
        batch.complete()

    def _take_message(self, message: Any, answer: TakeAnswer, in_batch: bool) -> None:
        """Handle one message; call `answer` once, with None when nothing is to be written."""
        if not isinstance(message, dict):
            answer(_error_line(None, RpcError(INVALID_REQUEST, "Invalid request: no object")))
            return
        method = message.get("method")
        if "method" not in message and ("result" in message or "error" in message):
            answer(None)  # a response; nothing was asked of the peer
            return
        if "id" not in message and isinstance(method, str):
            answer(None)
            if message.get("jsonrpc") == "2.0":
                self._notify(method, message.get("params"))
            return
        id: Any = message["id"] if is_id(message.get("id")) else None
        params = message.get("params", {})
        if message.get("jsonrpc") != "2.0":
            error = RpcError(INVALID_REQUEST, 'Invalid request: "jsonrpc" must be "2.0"')
        elif not isinstance(method, str):
            error = RpcError(INVALID_REQUEST, 'Invalid request: "method" must be a string')
        elif id is None:
            error = RpcError(
                INVALID_REQUEST, 'Invalid request: "id" must be a string or an integer'
            )
        elif not isinstance(params, dict):
            error = RpcError(INVALID_PARAMS, '"params" must be an object')
        else:
            self._call(Call(self, answer, id, method, params, in_batch))
            return
        answer(_error_line(id, error))

    def _notify(self, method: str, params: Any) -> None:
        try:
            self._handler.notify(self, method, params)
        except Exception:
            self._on_error()

    def _call(self, call: Call) -> None:
        with self._lock:
            taken = self._in_flight.setdefault(call.id, call) is not call
        if taken:
            error = RpcError(INVALID_REQUEST, "Invalid request: a call with this id is in flight")
            call.write_answer(_error_line(call.id, error))
            return
        try:
            outcome = self._handler.call(call)
        except Exception as error:
            self._finish(call, self._failure(call, error))
            return
        if isinstance(outcome, Call):
            return  # whoever keeps it will answer it
        if not isinstance(outcome, Deferred):
            self.answer(call, outcome)
            return
        thread = threading.Thread(
            target=self._work_apart, args=(call, outcome.work), name="backgroundr-call", daemon=True
        )
        with self._lock:
            self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError:
            with self._lock:
                self._threads.discard(thread)
            self._work(call, outcome.otherwise)

    def _work_apart(self, call: Call, work: Callable[[], Message]) -> None:
        try:
            self._work(call, work)
        finally:
            with self._lock:
                self._threads.discard(threading.current_thread())

    def _work(self, call: Call, work: Callable[[], Message]) -> None:
        """Answer a call with the result of `work()`, or with why there is none."""
        line: Optional[bytes]
        try:
            line = encode_message({"jsonrpc": "2.0", "id": call.id, "result": work()})
        except Exception as error:
            line = self._failure(call, error)
        self._finish(call, line)

    def _failure(self, call: Call, error: Exception) -> Optional[bytes]:
        """Return the answer to a call that raised `error`; None when it was cancelled. Called
        in the `except` block."""
        if isinstance(error, Cancelled):
            return None
        if not isinstance(error, RpcError):
            self._on_error()
            error = RpcError(INTERNAL_ERROR, "Internal error")
        return _error_line(call.id, error)

    def _finish(self, call: Call, line: Optional[bytes]) -> None:
        """Answer a call, unless it was cancelled; it leaves the table after the writing, so
        that `drain` means what it says."""
        with self._lock:
            if self._in_flight.get(call.id) is call:
                call.write_answer(line)
                del self._in_flight[call.id]
            else:
                call.write_answer(None)
            self._idle.notify_all()

    def _send(self, line: Optional[bytes]) -> None:
        if line is not None:
            self._writer.send(line + b"\n")


class _Batch:
    """The answers to one array of messages, sent as one array when the last is there."""

    def __init__(self, send: TakeAnswer) -> None:
        self._send = send
        # _lock owns the rest; held for nothing else.
        self._lock = threading.Lock()
        self._missing = 1  # `complete`
        self._answers: List[bytes] = []
        self.answer_bytes = 0  # how much of answers there is so far

    def expect(self) -> TakeAnswer:
        """Return what is to be called with the answer to one message of the batch."""
        with self._lock:
            self._missing += 1
        return self._take

    def complete(self) -> None:
        """No further message will be expected."""
        self._take(None)

    def _take(self, answer: Optional[bytes]) -> None:
        with self._lock:
            if answer is not None:
                self._answers.append(answer)
                self.answer_bytes += len(answer)
            self._missing -= 1
            done = self._missing == 0 and bool(self._answers)
        if done:
            self._send(b"[" + b",".join(self._answers) + b"]")


def _error_line(id: Optional[Id], error: RpcError) -> bytes:
    body: Message = {"code": error.code, "message": error.message}
    if error.data is not None:
        body["data"] = error.data
    # Where the id could not be read it is left out: JSON-RPC wants null there, which no MCP
    # schema allows and which clients reject.
    message: Message = {"jsonrpc": "2.0", "error": body}
    if id is not None:
        message["id"] = id
    return encode_message(message)
