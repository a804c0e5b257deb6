"""jsonrpc: messages and bytes, lines in, lines out, and what a connection answers."""

from __future__ import annotations

import json
import os
import random
import select
import sys
import threading
import tracemalloc

import pytest

from backgroundr.errors import Cancelled
from backgroundr.jsonrpc import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    Connection,
    Deferred,
    LineReader,
    LineWriter,
    RpcError,
    decode_message,
    encode_message,
    is_id,
)

DEADLINE_S = 10
BOM = b"\xef\xbb\xbf"
# More than a pipe holds anywhere; Linux's hold 64 KiB.
MORE_THAN_A_PIPE_HOLDS = 1 << 20


# ---------------------------------------------------------------- one message


def test_codes_are_those_of_the_specification():
    """The error codes are those of JSON-RPC 2.0, section 5.1."""
    assert PARSE_ERROR == -32700
    assert INVALID_REQUEST == -32600
    assert METHOD_NOT_FOUND == -32601
    assert INVALID_PARAMS == -32602
    assert INTERNAL_ERROR == -32603


@pytest.mark.parametrize(
    ("line", "value"),
    [
        (b"{}", {}),
        (b' { "a" : [1, 2.5, null, true] } \r', {"a": [1, 2.5, None, True]}),
        (b"[]", []),
        (b"7", 7),
        (b'"\xe2\x82\xac"', "\u20ac"),
        (b'"\\u20ac"', "\u20ac"),
        (b'"\\ud83d\\ude80"', "\U0001f680"),
        (b'"\xe2\x80\xa8\xc2\x85"', "\u2028\u0085"),
        (b'{"a": 1, "a": 2}', {"a": 2}),
        (b"123456789012345678901234567890", 123456789012345678901234567890),
    ],
)
def test_decode_reads_json(line, value):
    """decode_message returns the JSON value of a line."""
    assert decode_message(line) == value


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"{'a': 1}",
        b'{"a": 1,}',
        b"{} {}",
        b"nul",
        b"NaN",
        b'{"a": Infinity}',
        b"[-Infinity]",
        b'"\xff"',
        b'"\xed\xa0\x80"',
        b'"a\tb"',
        BOM + b"{}",
        b"[" * 100000,
        b"[" * 100000 + b"]" * 100000,
        b'{"a":' * 100000,
    ],
    ids=lambda line: repr(line[:12]),
)
def test_decode_refuses_what_is_not_json(line):
    """decode_message raises a parse error for a line that is not JSON."""
    with pytest.raises(RpcError) as caught:
        decode_message(line)
    assert caught.value.code == PARSE_ERROR
    assert caught.value.message.startswith("Parse error: ")
    assert str(caught.value) == caught.value.message


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ({}, b"{}"),
        ({"a": 1, "b": [True, None]}, b'{"a":1,"b":[true,null]}'),
        ({"a": "\u20ac\U0001f680"}, b'{"a":"\xe2\x82\xac\xf0\x9f\x9a\x80"}'),
        ({"a": "1\n2\r3"}, b'{"a":"1\\n2\\r3"}'),
        ({"a": "\ud800 \u20ac"}, b'{"a":"\\ud800 \\u20ac"}'),
    ],
)
def test_encode_writes_one_line(message, line):
    """encode_message returns a message as one line of UTF-8, which decode_message understands."""
    assert encode_message(message) == line
    assert decode_message(line) == message


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_encode_refuses_what_json_lacks(number):
    """encode_message raises ValueError for numbers that JSON does not have."""
    with pytest.raises(ValueError, match="JSON"):
        encode_message({"a": [number]})


@pytest.mark.parametrize("value", [{1}, b"bytes", object()])
def test_encode_refuses_what_is_no_json_value(value):
    """encode_message raises TypeError for a value that JSON does not have."""
    with pytest.raises(TypeError):
        encode_message({"a": value})


@pytest.mark.parametrize("value", ["", "1", "\u20ac", 0, 1, -1, 10**30])
def test_strings_and_integers_are_ids(value):
    """is_id accepts strings and integers."""
    assert is_id(value)


@pytest.mark.parametrize("value", [None, True, False, 1.0, 1.5, [], [1], {}, b"1"])
def test_nothing_else_is_an_id(value):
    """is_id accepts nothing else, least of all null and booleans."""
    assert not is_id(value)


# ---------------------------------------------------------------- lines in


def lines_from(pieces, **options):
    """Return what a LineReader yields when its source gives `pieces`."""
    source = iter(pieces)
    return list(LineReader(lambda size: next(source, b""), **options))


@pytest.mark.parametrize(
    ("pieces", "lines"),
    [
        ([b"a"], [b"a"]),
        ([b"a\nb\nc"], [b"a", b"b", b"c"]),
        ([b"a", b"b", b"\n", b"c"], [b"ab", b"c"]),
        ([b"a\n", b"\n", b"b"], [b"a", b"", b"b"]),
        ([b"a\nb", b"c\nd\ne", b"f"], [b"a", b"bc", b"d", b"ef"]),
        ([b"a\r\nb\r"], [b"a\r", b"b\r"]),
        ([b"a\rb\x0b\x0cc"], [b"a\rb\x0b\x0cc"]),
        (["a\u2028b\u0085c".encode()], ["a\u2028b\u0085c".encode()]),
        ([BOM + b"a\n" + BOM + b"b"], [b"a", BOM + b"b"]),
        ([BOM[:1], BOM[1:2], BOM[2:] + b"a\nb"], [b"a", b"b"]),
        ([b"\n" + BOM + b"a"], [b"", BOM + b"a"]),
        ([BOM + BOM + b"a"], [BOM + b"a"]),
    ],
)
def test_reader_yields_lines(pieces, lines):
    """A reader yields each line without its newline, an unfinished last one too."""
    assert lines_from(pieces) == lines


@pytest.mark.parametrize("pieces", [[], [b"a\n"], [b"a\n", b"b\n"], [b"a\n\n"]])
def test_reader_yields_nothing_behind_the_last_newline(pieces):
    """A reader yields as many lines as there are newlines when the input ends in one."""
    assert len(lines_from(pieces)) == b"".join(pieces).count(b"\n")


@pytest.mark.parametrize(
    ("pieces", "lines"),
    [
        ([b"1234\n12345\n1"], [b"1234", None, b"1"]),
        ([b"12345"], [None]),
        ([b"12", b"34", b"\n1"], [b"1234", b"1"]),
        ([b"12", b"345", b"\n1"], [None, b"1"]),
        ([b"12", b"345", b"6789", b"0", b"12\n34\n1"], [None, b"34", b"1"]),
        ([b"1", b"2", b"3", b"4", b"5", b"\n", b"1"], [None, b"1"]),
        ([b"12345\n12345\n1"], [None, None, b"1"]),
        ([b"\xff" * 99, b"\n", b"1"], [None, b"1"]),
    ],
)
def test_too_long_line_is_skipped(pieces, lines):
    """A reader yields None for a line beyond its limit, and the next lines as ever."""
    assert lines_from(pieces, max_bytes=4) == lines


@pytest.mark.parametrize("seed", range(20))
def test_reader_yields_the_same_lines_from_any_pieces(seed):
    """A reader yields the same lines, however the bytes arrive."""
    rng = random.Random(seed)
    lines = [bytes(rng.choice(b"ab\r\xff") for _ in range(rng.randint(0, 12))) for _ in range(40)]
    data = b"\n".join([*lines, b"unfinished"])
    expected = [line if len(line) <= 9 else None for line in [*lines, b"unfinished"]]
    for _ in range(10):
        cuts = sorted(rng.sample(range(1, len(data)), rng.randint(0, 60)))
        pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)])]
        assert lines_from(pieces, max_bytes=9) == expected
    assert lines_from([data[i : i + 1] for i in range(len(data))], max_bytes=9) == expected


def test_reader_does_not_read_ahead():
    """A reader yields a line before it asks for more bytes."""
    asked = []
    pieces = iter([b"a\nb\n", b"c"])

    def read(size):
        asked.append(size)
        return next(pieces, b"")

    lines = iter(LineReader(read))
    assert [next(lines), next(lines)] == [b"a", b"b"]
    assert len(asked) == 1
    assert next(lines) == b"c"
    assert asked[0] > 0


def test_too_long_line_is_not_collected():
    """A reader holds no more of a too long line than its limit."""
    pieces = (bytes(65536) for _ in range(200))
    tracemalloc.start()
    try:
        assert lines_from(pieces, max_bytes=100000) == [None]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1000000


# ---------------------------------------------------------------- lines out


class PipedWriter:
    """A LineWriter on a real pipe, and who reads the other end. breaks: how often on_broken
    was called."""

    def __init__(self, asks=True):
        self.reading, self.writing = os.pipe()
        self.broken = threading.Event()
        self.breaks = 0
        self.writer = LineWriter(
            lambda data: os.write(self.writing, data),
            self.writable if asks and sys.platform != "win32" else (lambda: False),
            self.on_broken,
        )
        self.received = bytearray()
        self.reader = None

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        # In this order: nobody may use a descriptor when it is closed and its number free.
        if self.reader is None:
            self.stop_reading()
        self.writer.flush(DEADLINE_S)
        self.end_input()
        if self.reader is not None:
            self.reader.join(DEADLINE_S)
            self.stop_reading()

    def writable(self):
        return bool(select.select([], [self.writing], [], 0)[1])

    def on_broken(self):
        self.breaks += 1
        self.broken.set()

    def send(self, line):
        """Send, and fail when that blocks."""
        in_time(lambda: self.writer.send(line))

    def start_reading(self):
        def read():
            while True:
                data = os.read(self.reading, 65536)
                if not data:
                    return
                self.received += data

        self.reader = threading.Thread(target=read, daemon=True)
        self.reader.start()

    def read_all(self):
        """Return all that was ever written, once the writer has nothing left."""
        if self.reader is None:
            self.start_reading()
        self.writer.flush(DEADLINE_S)
        self.end_input()
        self.reader.join(DEADLINE_S)
        assert not self.reader.is_alive()
        return bytes(self.received)

    def end_input(self):
        if self.writing is not None:
            os.close(self.writing)
            self.writing = None

    def stop_reading(self):
        if self.reading is not None:
            os.close(self.reading)
            self.reading = None


def in_time(function):
    """Run `function` on a thread; fail when it has not returned by the deadline."""
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    thread.join(DEADLINE_S)
    assert not thread.is_alive()


asks_or_not = pytest.mark.parametrize("asks", [True, False], ids=["asks", "cannot ask"])


@asks_or_not
def test_writer_does_without_a_thread(asks, monkeypatch):
    """Where no thread can be had, a line that the stream does not take at once is waited for."""
    lines = [b"%d" % number + b"x" * 300000 + b"\n" for number in range(5)]

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    with PipedWriter(asks) as pipe:
        pipe.start_reading()
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            for line in lines:
                pipe.writer.send(line)
        assert pipe.read_all() == b"".join(lines)
        assert pipe.breaks == 0


@asks_or_not
def test_writer_writes_lines_in_order(asks):
    """A writer writes each line whole, in the order of sending."""
    lines = [b"%d\n" % number for number in range(1000)]
    with PipedWriter(asks) as pipe:
        pipe.start_reading()
        for line in lines:
            pipe.writer.send(line)
        assert pipe.read_all() == b"".join(lines)
        assert pipe.breaks == 0


def test_writer_writes_at_once_what_the_stream_takes():
    """A writer that can ask writes a small line before send returns, without a thread."""
    written = []

    def write(data):
        written.append((data, threading.current_thread()))
        return len(data)

    LineWriter(write, lambda: True, lambda: None).send(b"line\n")
    assert written == [(b"line\n", threading.current_thread())]


@asks_or_not
def test_writer_that_was_idle_writes_again(asks):
    """A writer writes a line that comes long after the one before was written."""
    with PipedWriter(asks) as pipe:
        pipe.start_reading()
        pipe.send(b"x" * MORE_THAN_A_PIPE_HOLDS + b"\n")
        for _ in range(20):
            in_time(lambda: pipe.writer.flush(10 * DEADLINE_S))
            pipe.send(b"y\n")
        in_time(lambda: pipe.writer.flush(10 * DEADLINE_S))
        assert pipe.read_all() == b"x" * MORE_THAN_A_PIPE_HOLDS + b"\n" + b"y\n" * 20


@pytest.mark.parametrize("most", [1, 2, 3, 1000])
def test_writer_goes_on_where_a_write_stopped(most):
    """A writer writes the rest where the stream took only a part of a line."""
    written = []

    def write(data):
        written.append(data[:most])
        return len(data[:most])

    writer = LineWriter(write, lambda: len(b"".join(written)) < 5, lambda: None)
    writer.send(b"one\n")
    writer.send(b"two\n")
    writer.send(b"three\n")
    writer.flush(DEADLINE_S)
    assert b"".join(written) == b"one\ntwo\nthree\n"


@asks_or_not
def test_full_pipe_stalls_no_sender(asks):
    """A writer takes every line while nobody reads, and loses none of them."""
    lines = [b"first\n", b"x" * MORE_THAN_A_PIPE_HOLDS + b"\n", b"second\n", b"third\n"]
    with PipedWriter(asks) as pipe:
        for line in lines:
            pipe.send(line)
        assert pipe.read_all() == b"".join(lines)


@asks_or_not
def test_lines_of_many_threads_stay_whole(asks):
    """A writer mixes no two lines, and keeps each thread's lines in order."""
    threads_count, lines_count = 6, 60
    start = threading.Barrier(threads_count)

    with PipedWriter(asks) as pipe:

        def send(number):
            rng = random.Random(number)
            start.wait(DEADLINE_S)
            for index in range(lines_count):
                filling = b"%d" % number * rng.choice([1, 100, 10000])
                pipe.writer.send(b"%d %d %s\n" % (number, index, filling))

        threads = [
            threading.Thread(target=send, args=(number,), daemon=True)
            for number in range(threads_count)
        ]
        for thread in threads:
            thread.start()
        pipe.start_reading()
        for thread in threads:
            thread.join(DEADLINE_S)
            assert not thread.is_alive()
        received = pipe.read_all()

    seen = {number: [] for number in range(threads_count)}
    for line in received.splitlines():
        number, index, filling = line.split()
        assert set(filling) == set(number)
        seen[int(number)].append(int(index))
    assert seen == {number: list(range(lines_count)) for number in range(threads_count)}


@asks_or_not
def test_broken_stream_is_told_once(asks):
    """A writer tells once that nobody reads any more, and drops what is sent later."""
    with PipedWriter(asks) as pipe:
        pipe.stop_reading()
        pipe.send(b"first\n")
        assert pipe.broken.wait(DEADLINE_S)
        for _ in range(10):
            pipe.send(b"later\n")
        in_time(lambda: pipe.writer.flush(DEADLINE_S * 10))
        assert pipe.writer.throttle(0)
        assert pipe.breaks == 1


@asks_or_not
def test_reader_that_leaves_in_the_middle_is_noticed(asks):
    """A writer that waits for a full pipe notices that its reader is gone."""
    with PipedWriter(asks) as pipe:
        pipe.send(b"x" * MORE_THAN_A_PIPE_HOLDS + b"\n")
        pipe.send(b"queued\n")
        assert os.read(pipe.reading, 10) == b"x" * 10
        flush = threading.Thread(target=pipe.writer.flush, args=(10 * DEADLINE_S,), daemon=True)
        flush.start()
        assert not pipe.broken.is_set()
        pipe.stop_reading()
        assert pipe.broken.wait(DEADLINE_S)
        flush.join(DEADLINE_S)
        assert not flush.is_alive()
        pipe.send(b"later\n")
        assert pipe.breaks == 1


def test_flush_gives_up_at_its_deadline():
    """flush returns at its deadline when nobody reads."""
    with PipedWriter() as pipe:
        pipe.send(b"x" * MORE_THAN_A_PIPE_HOLDS + b"\n")
        in_time(lambda: pipe.writer.flush(0.01))
        assert not pipe.broken.is_set()


def test_throttle_waits_for_a_slow_reader():
    """throttle finds no room while nobody reads, and waits until there is some."""
    line = b"x" * (MORE_THAN_A_PIPE_HOLDS - 1) + b"\n"
    with PipedWriter() as pipe:
        assert pipe.writer.throttle(0)
        for _ in range(12):
            pipe.send(line)
        assert not pipe.writer.throttle(0)
        pipe.start_reading()
        assert pipe.writer.throttle(DEADLINE_S)
        assert len(pipe.received) > 6 * len(line)
        assert len(pipe.read_all()) == 12 * len(line)


def test_throttle_gives_up_at_its_deadline():
    """throttle returns at its deadline when nobody reads."""
    with PipedWriter() as pipe:
        pipe.send(b"x" * 6 * MORE_THAN_A_PIPE_HOLDS + b"\n")
        in_time(lambda: pipe.writer.throttle(0.01))
        assert not pipe.writer.throttle(0)


def test_throttle_ends_when_the_reader_leaves():
    """throttle does not wait for a reader that is gone."""
    with PipedWriter() as pipe:
        for _ in range(12):
            pipe.send(b"x" * MORE_THAN_A_PIPE_HOLDS + b"\n")
        throttle = threading.Thread(
            target=pipe.writer.throttle, args=(10 * DEADLINE_S,), daemon=True
        )
        throttle.start()
        assert throttle.is_alive()
        pipe.stop_reading()
        throttle.join(DEADLINE_S)
        assert not throttle.is_alive()
        assert pipe.writer.throttle(0)


# ---------------------------------------------------------------- the connection


class NotedWork:
    """The thread on which a Deferred is at work."""

    def __init__(self):
        self.begun = threading.Event()
        self.thread = None

    def join(self):
        assert self.begun.wait(DEADLINE_S)
        self.thread.join(DEADLINE_S)
        assert not self.thread.is_alive()


class FakeHandler:
    """A protocol of a few methods, and a record of what came.

    "slow" is a Deferred that waits for open_gate or its cancellation; "stubborn" is one that
    does not care for cancellation. The notification "cancel" cancels, "fail" raises.
    "keep" keeps its call open; "free" answers those that are, "tell" notifies about them.
    works: the Deferreds there were.
    """

    def __init__(self, batches=True):
        self.batches = batches
        self.calls = []
        self.notes = []
        self.works = []
        self.kept = []
        self.gate = threading.Event()

    def batches_allowed(self):
        return self.batches

    def notify(self, connection, method, params):
        self.notes.append((method, params))
        if method == "cancel":
            connection.cancel(params["id"])
        elif method == "fail":
            raise KeyError("a defect")

    def call(self, call):
        self.calls.append(call)
        method = getattr(self, call.method, None)
        if method is None:
            raise RpcError(METHOD_NOT_FOUND, "no such method", {"method": call.method})
        return method(call)

    def echo(self, call):
        return {"echo": call.params}

    def batched(self, call):
        return {"in_batch": call.in_batch}

    def keep(self, call):
        self.kept.append(call)
        call.notify("kept", {"id": call.id})
        return call

    def free(self, call):
        for kept in self.kept:
            kept.answer({"kept": kept.params})
        return {}

    def tell(self, call):
        for kept in self.kept:
            kept.notify("told", {"id": kept.id})
        return {}

    def refuse(self, call):
        raise RpcError(-32000, "refused")

    def fail(self, call):
        raise KeyError("a defect")

    def nonsense(self, call):
        return {"number": float("nan")}

    def open_gate(self, call):
        self.gate.set()
        return {}

    def slow(self, call):
        def work():
            call.cancel.add_callback(self.gate.set)
            assert self.gate.wait(DEADLINE_S)
            if call.cancel.cancelled:
                raise Cancelled
            return {"slow": call.params}

        return self.later(work)

    def stubborn(self, call):
        def work():
            assert self.gate.wait(DEADLINE_S)
            return {"stubborn": call.params}

        return self.later(work)

    def slow_refuse(self, call):
        return self.later(lambda: self.refuse(call))

    def slow_fail(self, call):
        return self.later(lambda: self.fail(call))

    def slow_nonsense(self, call):
        return self.later(lambda: self.nonsense(call))

    def later(self, work):
        """Return the Deferred; the thread that does the work is noted, to wait for it."""
        noted = NotedWork()
        self.works.append(noted)

        def noted_work():
            noted.thread = threading.current_thread()
            noted.begun.set()
            return work()

        return Deferred(noted_work, lambda: {"instead": True})


class Peer:
    """A connection with a fake handler, fed by `serve`; what it wrote is in `answers`.

    reads: set while it reads. errors: the exceptions of which on_error was told.
    """

    def __init__(self, handler=None, writable=lambda: True, **options):
        self.handler = handler or FakeHandler()
        self.written = []
        self.reads = threading.Event()
        self.reads.set()
        self.errors = []
        self.pieces = iter([])
        reader = LineReader(lambda size: next(self.pieces, b""), **options)
        writer = LineWriter(self.write, writable, lambda: None)
        self.connection = Connection(
            reader, writer, self.handler, lambda waited_s: False, self.on_error
        )

    def write(self, data):
        assert self.reads.wait(DEADLINE_S)
        self.written.append(data)
        return len(data)

    def on_error(self):
        self.errors.append(sys.exc_info()[1])

    @property
    def answers(self):
        return [json.loads(line.decode()) for line in b"".join(self.written).splitlines()]

    def serve(self, *messages):
        """Serve messages, a piece each, to the end of the input; bytes go as they are."""
        self.pieces = iter(
            [m if isinstance(m, bytes) else json.dumps(m).encode() + b"\n" for m in messages]
        )
        self.connection.serve()

    def drain(self):
        """Wait until every call is answered and every thread of a call has ended."""
        in_time(lambda: self.connection.drain(DEADLINE_S / 2))
        self.join_works()

    def join_works(self):
        for work in self.handler.works:
            work.join()

    def exchange(self, *messages):
        """Return the answers to messages once all of them are there."""
        self.serve(*messages)
        self.drain()
        return self.answers


def call(id, method, **params):
    return {"jsonrpc": "2.0", "id": id, "method": method, "params": params}


def note(method, **params):
    return {"jsonrpc": "2.0", "method": method, "params": params}


def result(id, **content):
    return {"jsonrpc": "2.0", "id": id, "result": content}


def codes(answers):
    """Return answers as (id or None, error code or None)."""
    return [(answer.get("id"), answer.get("error", {}).get("code")) for answer in answers]


def test_quick_calls_are_answered_in_order():
    """A connection answers quick calls in the order in which they came."""
    answers = Peer().exchange(*[call(number, "echo", n=number) for number in range(20)])
    assert answers == [result(number, echo={"n": number}) for number in range(20)]


@pytest.mark.parametrize("id", [0, -1, 10**30, "", "7", "\u20ac \U0001f680", "a\nb"])
def test_answer_has_the_id_of_its_call(id):
    """A connection answers with the id as it came, a string or a number."""
    (answer,) = Peer().exchange(call(id, "echo"))
    assert answer == result(id, echo={})
    assert type(answer["id"]) is type(id)


def test_answer_to_a_lone_surrogate_is_valid_json():
    """A connection answers in ASCII when it must echo what UTF-8 cannot hold."""
    peer = Peer()
    assert peer.exchange(call("\ud800", "echo", a="\udfff")) == [
        result("\ud800", echo={"a": "\udfff"})
    ]
    assert b"".join(peer.written).isascii()


def test_absent_params_are_an_empty_object():
    """A call without params gets an empty object of them."""
    peer = Peer()
    assert peer.exchange({"jsonrpc": "2.0", "id": 1, "method": "echo"}) == [result(1, echo={})]
    (seen,) = peer.handler.calls
    assert (seen.id, seen.method, seen.params) == (1, "echo", {})


def test_deferred_call_does_not_hold_up_others():
    """A quick call is answered while an earlier slow one waits."""
    answers = Peer().exchange(call(1, "slow", a=1), call(2, "echo"), call(3, "open_gate"))
    assert answers[:1] == [result(2, echo={})]
    assert sorted(answers[1:], key=lambda answer: answer["id"]) == [
        result(1, slow={"a": 1}),
        result(3),
    ]


def test_many_deferred_calls_are_each_answered_once():
    """A connection answers each of many waiting calls once."""
    calls = [call(number, "slow", n=number) for number in range(50)]
    answers = Peer().exchange(*calls, call("gate", "open_gate"))
    del answers[[answer["id"] for answer in answers].index("gate")]
    assert sorted(answers, key=lambda answer: answer["id"]) == [
        result(number, slow={"n": number}) for number in range(50)
    ]


# ---------------------------------------------------------------- calls that fail


@pytest.mark.parametrize("method", ["refuse", "slow_refuse"])
def test_rpc_error_is_the_answer(method):
    """A handler's RpcError is the answer, without data when it has none."""
    peer = Peer()
    assert peer.exchange(call(1, method)) == [
        {"jsonrpc": "2.0", "id": 1, "error": {"code": -32000, "message": "refused"}}
    ]
    assert peer.errors == []


def test_rpc_error_may_carry_data():
    """A handler's RpcError carries its data into the answer."""
    (answer,) = Peer().exchange(call("a", "missing"))
    assert answer["error"] == {
        "code": METHOD_NOT_FOUND,
        "message": "no such method",
        "data": {"method": "missing"},
    }


@pytest.mark.parametrize("method", ["fail", "slow_fail"])
def test_unexpected_exception_is_an_internal_error(method):
    """A handler's defect is told to on_error and not to the peer, and serving goes on."""
    peer = Peer()
    peer.exchange(call(1, method))
    answers = peer.exchange(call(2, "echo"))
    assert codes(answers) == [(1, INTERNAL_ERROR), (2, None)]
    assert answers[0]["error"] == {"code": INTERNAL_ERROR, "message": "Internal error"}
    assert [type(error) for error in peer.errors] == [KeyError]


def test_work_that_gets_no_thread_is_answered_otherwise(monkeypatch):
    """Where no thread can be had, a deferred call gets the answer that needs none."""

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    peer = Peer()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    peer.serve(call(1, "slow"), call(2, "echo"))
    assert peer.answers == [result(1, instead=True), result(2, echo={})]


@pytest.mark.parametrize("method", ["nonsense", "slow_nonsense"])
def test_result_that_is_no_json_is_an_internal_error(method):
    """A result that cannot be written is a handler's defect too: one answer, and on it goes."""
    peer = Peer()
    peer.serve(call(1, method))
    peer.join_works()
    assert codes(peer.answers) == [(1, INTERNAL_ERROR)]
    assert [type(error) for error in peer.errors] == [ValueError]
    assert peer.exchange(call(1, "echo"))[1:] == [result(1, echo={})]


# ---------------------------------------------------------------- notifications


def test_notifications_are_taken_note_of_in_silence():
    """A notification reaches the handler, and nothing is written for it."""
    peer = Peer()
    bare = {"jsonrpc": "2.0", "method": "bare"}
    assert peer.exchange(note("hello", a=1), bare, note("fail")) == []
    assert peer.handler.notes == [("hello", {"a": 1}), ("bare", None), ("fail", {})]
    assert [type(error) for error in peer.errors] == [KeyError]
    assert peer.handler.calls == []


@pytest.mark.parametrize(
    "message",
    [
        {"jsonrpc": "2.0", "id": 1, "result": {}},
        {"jsonrpc": "2.0", "id": 1, "error": {"code": 1, "message": "x"}},
        {"jsonrpc": "2.0", "error": {"code": 1, "message": "x"}},
        {"method": "of no version"},
        {"jsonrpc": "1.0", "method": "of another version"},
        b"\n",
        b"  \r\n",
    ],
)
def test_some_messages_are_ignored(message):
    """A connection ignores answers, blank lines, and notifications of another protocol."""
    peer = Peer()
    assert peer.exchange(message, call(1, "echo")) == [result(1, echo={})]
    assert (peer.handler.notes, peer.errors) == ([], [])


# ---------------------------------------------------------------- messages that are wrong


@pytest.mark.parametrize(
    ("message", "id", "code", "words"),
    [
        (b"{\n", None, PARSE_ERROR, "Parse error"),
        (b"\xff\xfe\n", None, PARSE_ERROR, "Parse error"),
        (b"[" * 100000 + b"\n", None, PARSE_ERROR, "nested too deeply"),
        (b'{"id": NaN}\n', None, PARSE_ERROR, "NaN"),
        (b"x" * 300000 + b"\n", None, INVALID_REQUEST, "too long"),
        (7, None, INVALID_REQUEST, "no object"),
        ("text", None, INVALID_REQUEST, "no object"),
        (None, None, INVALID_REQUEST, "no object"),
        ([], None, INVALID_REQUEST, "empty array"),
        ({}, None, INVALID_REQUEST, "jsonrpc"),
        ({"id": 1, "method": "echo"}, 1, INVALID_REQUEST, "jsonrpc"),
        ({"jsonrpc": 2.0, "id": "a", "method": "echo"}, "a", INVALID_REQUEST, "jsonrpc"),
        ({"jsonrpc": "2.0", "id": 1}, 1, INVALID_REQUEST, "method"),
        ({"jsonrpc": "2.0", "id": 1, "method": 7}, 1, INVALID_REQUEST, "method"),
        ({"jsonrpc": "2.0", "method": 7}, None, INVALID_REQUEST, "method"),
        ({"jsonrpc": "2.0", "id": None, "method": "echo"}, None, INVALID_REQUEST, '"id"'),
        ({"jsonrpc": "2.0", "id": 1.5, "method": "echo"}, None, INVALID_REQUEST, '"id"'),
        ({"jsonrpc": "2.0", "id": True, "method": "echo"}, None, INVALID_REQUEST, '"id"'),
        ({"jsonrpc": "2.0", "id": [1], "method": "echo"}, None, INVALID_REQUEST, '"id"'),
        ({**call(1, "echo"), "params": [1]}, 1, INVALID_PARAMS, "params"),
        ({**call("a", "echo"), "params": None}, "a", INVALID_PARAMS, "params"),
        ({**call(0, "echo"), "params": "x"}, 0, INVALID_PARAMS, "params"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_wrong_message_is_answered_with_its_error(message, id, code, words):
    """A connection says what is wrong with a message, and goes on with the next."""
    peer = Peer(max_bytes=200000)
    wrong, good = peer.exchange(message, call(2, "echo"))
    assert wrong["error"]["code"] == code
    assert words in wrong["error"]["message"]
    # An id that could not be read is left out, not null.
    assert wrong.get("id", "absent") == ("absent" if id is None else id)
    assert good == result(2, echo={})
    assert len(peer.handler.calls) == 1
    assert peer.errors == []


# ---------------------------------------------------------------- cancellation


def test_cancelled_call_is_never_answered():
    """A cancelled call ends, and nothing is written for it."""
    peer = Peer()
    answers = peer.exchange(call(1, "slow"), note("cancel", id=1), call(2, "echo"))
    assert answers == [result(2, echo={})]
    assert peer.handler.calls[0].cancel.cancelled
    assert peer.errors == []


def test_call_that_ignores_its_cancellation_is_not_answered_either():
    """A result that comes after the cancellation is dropped."""
    peer = Peer()
    answers = peer.exchange(call(1, "stubborn"), note("cancel", id=1), call(2, "open_gate"))
    assert answers == [result(2)]


@pytest.mark.parametrize("id", [2, "1", None, True, 1.0, [1], {"id": 1}])
def test_cancelling_another_id_changes_nothing(id):
    """cancel takes the id literally: 1, "1", 1.0 and true are four things."""
    peer = Peer()
    peer.exchange(call(1, "stubborn", a=1), note("cancel", id=id), call("gate", "open_gate"))
    assert result(1, stubborn={"a": 1}) in peer.answers
    assert not peer.handler.calls[0].cancel.cancelled
    assert peer.errors == []


def test_cancelling_an_answered_call_changes_nothing():
    """cancel ignores a call that was answered before."""
    peer = Peer()
    answers = peer.exchange(call(1, "echo"), note("cancel", id=1), call(2, "echo"))
    assert answers == [result(1, echo={}), result(2, echo={})]
    assert not peer.handler.calls[0].cancel.cancelled


def test_one_of_two_waiting_calls_is_cancelled():
    """cancel ends the one call that has the id, also when another looks alike."""
    peer = Peer()
    peer.serve(call(1, "stubborn"), call("1", "stubborn"), note("cancel", id="1"))
    assert [seen.cancel.cancelled for seen in peer.handler.calls] == [False, True]
    peer.handler.gate.set()
    peer.drain()
    assert peer.answers == [result(1, stubborn={})]


def test_id_of_a_cancelled_call_may_be_used_again():
    """A new call may have the id of a cancelled one, and gets its own answer only."""
    peer = Peer()
    peer.serve(call(1, "stubborn", n="old"), note("cancel", id=1), call(1, "stubborn", n="new"))
    peer.handler.gate.set()
    peer.drain()
    assert peer.answers == [result(1, stubborn={"n": "new"})]


# ---------------------------------------------------------------- ids in flight


def test_second_call_with_an_id_in_flight_is_refused():
    """A call with the id of one in flight is refused, and the first is still answered."""
    peer = Peer()
    peer.serve(call(1, "stubborn", n="first"), call(1, "echo", n="second"))
    assert codes(peer.answers) == [(1, INVALID_REQUEST)]
    assert "in flight" in peer.answers[0]["error"]["message"]
    peer.handler.gate.set()
    peer.drain()
    assert peer.answers[1:] == [result(1, stubborn={"n": "first"})]
    assert len(peer.handler.calls) == 1


def test_kept_call_is_answered_later():
    """A handler may keep a call and answer it when it likes, once."""
    peer = Peer()
    answers = peer.exchange(
        call(1, "keep", a=1), call(2, "echo"), call(3, "free"), call(4, "free"), call(1, "echo")
    )
    assert answers == [
        note("kept", id=1),
        result(2, echo={}),
        result(1, kept={"a": 1}),
        result(3),
        result(4),
        result(1, echo={}),
    ]


def test_call_is_told_of_as_long_as_it_is_open():
    """Nothing is written about a call that was answered or cancelled."""
    peer = Peer()
    answers = peer.exchange(
        call(1, "keep"),
        call(2, "keep"),
        call(3, "tell"),
        note("cancel", id=1),
        call(4, "tell"),
        call(5, "free"),
        call(6, "tell"),
    )
    assert answers == [
        note("kept", id=1),
        note("kept", id=2),
        note("told", id=1),
        note("told", id=2),
        result(3),
        note("told", id=2),
        result(4),
        result(2, kept={}),
        result(5),
        result(6),
    ]


def test_call_is_not_told_of_while_the_peer_reads_nothing(monkeypatch):
    """Notifications about a call cannot grow what waits for a peer that does not read."""
    monkeypatch.setattr("backgroundr.jsonrpc._BACKLOG_BYTES", 100)
    peer = Peer(writable=lambda: False)
    peer.reads.clear()
    peer.serve(call(1, "keep"))
    for _ in range(100):
        peer.handler.kept[0].notify("told", {"id": 1})
    peer.reads.set()
    peer.handler.kept[0].answer({})
    peer.drain()
    assert 1 < len(peer.answers) < 10


def test_result_of_a_kept_call_that_is_no_json_is_an_internal_error():
    """A call that was kept is answered, whatever its result is."""
    peer = Peer()
    peer.serve(call(1, "keep"))
    peer.handler.kept[0].answer({"number": float("inf")})
    assert codes(peer.answers[1:]) == [(1, -32603)]
    assert isinstance(peer.errors[0], ValueError)


def test_call_knows_whether_it_came_in_a_batch():
    """A protocol can treat a call in a batch in another way."""
    alone, batch = Peer().exchange(call(1, "batched"), [call(2, "batched")])
    assert alone == result(1, in_batch=False)
    assert batch == [result(2, in_batch=True)]


def test_text_and_number_are_different_ids():
    """Calls with the ids 1 and "1" may be in flight together."""
    answers = Peer().exchange(call(1, "slow"), call("1", "slow"), call("gate", "open_gate"))
    assert {repr(answer["id"]) for answer in answers} == {"1", "'1'", "'gate'"}
    assert all("result" in answer for answer in answers)


def test_id_of_an_answered_call_may_be_used_again():
    """An id is free again once its call was answered, whatever the answer."""
    methods = ["echo", "refuse", "fail", "slow_refuse", "slow_fail", "missing", "echo"]
    peer = Peer()
    for method in methods:
        peer.exchange(call(1, method))
    assert len(peer.handler.calls) == len(peer.answers) == len(methods)


# ---------------------------------------------------------------- draining


class SlowlyReadPeer(Peer):
    """A peer that takes nothing until `reading` is set. writing: set when it was tried."""

    def __init__(self):
        super().__init__(writable=lambda: False)
        self.writing = threading.Event()
        self.reading = threading.Event()

    def write(self, data):
        self.writing.set()
        assert self.reading.wait(DEADLINE_S)
        return super().write(data)


def start_drain(connection):
    """Return a thread that drains, with more time than a test ever takes."""
    thread = threading.Thread(target=connection.drain, args=(10 * DEADLINE_S,), daemon=True)
    thread.start()
    return thread


def test_drain_waits_for_the_answer():
    """drain returns when the last waiting call is answered."""
    peer = Peer()
    peer.serve(call(1, "slow"))
    drain = start_drain(peer.connection)
    assert peer.answers == []
    assert drain.is_alive()
    peer.handler.gate.set()
    drain.join(DEADLINE_S)
    assert not drain.is_alive()
    assert peer.answers == [result(1, slow={})]


def test_drain_ends_with_the_cancellation_of_the_last_call():
    """drain returns when the call it waits for is cancelled."""
    peer = Peer()
    peer.serve(call(1, "stubborn"))
    drain = start_drain(peer.connection)
    drain.join(0.05)
    assert drain.is_alive()
    peer.connection.cancel(1)
    drain.join(DEADLINE_S / 2)  # the call itself gives up at the deadline
    assert not drain.is_alive()
    peer.handler.gate.set()
    peer.join_works()
    assert peer.answers == []


def test_drain_waits_for_the_writing():
    """drain returns when the last answer is written, not only given to the writer."""
    peer = SlowlyReadPeer()
    peer.serve(call(1, "echo"))
    drain = start_drain(peer.connection)
    assert peer.writing.wait(DEADLINE_S)
    assert drain.is_alive()
    assert peer.answers == []
    peer.reading.set()
    drain.join(DEADLINE_S)
    assert not drain.is_alive()
    assert peer.answers == [result(1, echo={})]


# ---------------------------------------------------------------- batches


def test_batch_is_answered_with_one_array():
    """A batch of quick calls gets one array of answers, in order."""
    answer = {"jsonrpc": "2.0", "id": 9, "result": {}}
    batch = [call(1, "echo", a=1), note("hello"), answer, call(2, "refuse"), call(3, "echo")]
    (answers,) = Peer().exchange(batch)
    assert codes(answers) == [(1, None), (2, -32000), (3, None)]
    assert answers[0] == result(1, echo={"a": 1})


def test_batch_waits_for_its_slowest_call():
    """A batch is answered in one array when its last answer is there."""
    peer = Peer()
    peer.serve([call(1, "slow"), call(2, "echo"), call(3, "slow_fail")], call(4, "echo"))
    assert peer.answers == [result(4, echo={})]
    peer.handler.gate.set()
    peer.drain()
    (answers,) = peer.answers[1:]
    assert sorted(codes(answers)) == [(1, None), (2, None), (3, INTERNAL_ERROR)]


def test_batch_of_any_text_is_one_line():
    """A batch is one line of JSON, also where one answer must be written in ASCII."""
    peer = Peer()
    batch = [call(1, "echo", a="\ud800\n"), call(2, "echo", a="\u20ac\n"), call(3, "nonsense")]
    (answers,) = peer.exchange(batch)
    assert answers[:2] == [result(1, echo={"a": "\ud800\n"}), result(2, echo={"a": "\u20ac\n"})]
    assert codes(answers[2:]) == [(3, INTERNAL_ERROR)]
    assert b"".join(peer.written).count(b"\n") == 1


def test_wrong_items_of_a_batch_are_answered_one_by_one():
    """A wrong item of a batch gets its own error in the array."""
    wrong = [7, {}, {"jsonrpc": "2.0", "id": 1.5, "method": "echo"}, []]
    (answers,) = Peer().exchange([*wrong, call(1, "echo"), call(1, "echo")])
    assert codes(answers) == [(None, INVALID_REQUEST)] * 4 + [(1, None), (1, None)]


@pytest.mark.parametrize(
    "batch", [[note("hello"), note("again")], [{"jsonrpc": "2.0", "id": 1, "result": {}}]]
)
def test_batch_without_calls_is_not_answered(batch):
    """A batch in which nothing is asked is not answered, not even with an empty array."""
    assert Peer().exchange(batch, call(9, "echo")) == [result(9, echo={})]


def test_batch_of_too_many_is_refused():
    """More messages in one array than anybody needs are not looked at."""
    wrong, answers = Peer().exchange([1] * 1001, [call(id, "echo") for id in range(1000)])
    assert codes([wrong]) == [(None, INVALID_REQUEST)]
    assert "more than 1000 messages" in wrong["error"]["message"]
    assert len(answers) == 1000


def test_batch_whose_answers_are_too_large_is_cut(monkeypatch):
    """What is asked after the answers of a batch have grown too large is not done, and told."""
    monkeypatch.setattr("backgroundr.jsonrpc._BATCH_ANSWER_BYTES", 150)
    peer = Peer()
    batch = [
        call(1, "echo", a="x" * 50),
        call(2, "echo", a="x" * 50),
        note("x"),
        7,
        {"jsonrpc": "2.0", "id": 9, "result": {}},
        call(3, "echo"),
    ]
    (answers,) = peer.exchange([*batch, call(4, "echo")])
    assert codes(answers) == [
        (1, None),
        (2, None),
        (None, INVALID_REQUEST),
        (3, INTERNAL_ERROR),
        (4, INTERNAL_ERROR),
    ]
    assert "the answers before exceed 150 bytes" in answers[3]["error"]["message"]
    assert len(peer.handler.calls) == 2
    assert peer.handler.notes == [("x", {})]


def test_cancelled_call_is_left_out_of_its_batch():
    """A batch is answered without the call that was cancelled."""
    peer = Peer()
    answers = peer.exchange([call(1, "slow"), call(2, "echo"), note("cancel", id=1)])
    assert answers == [[result(2, echo={})]]


def test_batch_of_cancelled_calls_is_not_answered():
    """A batch of which every call was cancelled is not answered."""
    answers = Peer().exchange(
        [call(1, "slow"), call(2, "slow")], note("cancel", id=1), note("cancel", id=2)
    )
    assert answers == []


def test_id_in_flight_counts_inside_a_batch():
    """A call of a batch is refused when its id is in flight in the same batch."""
    peer = Peer()
    peer.serve([call(1, "stubborn"), call(1, "echo")])
    peer.handler.gate.set()
    peer.drain()
    (answers,) = peer.answers
    assert sorted(codes(answers), key=str) == [(1, INVALID_REQUEST), (1, None)]


def test_batch_is_an_error_where_there_are_none():
    """A batch is one error, and none of it is done, where the protocol has no batches."""
    peer = Peer(FakeHandler(batches=False))
    batch, good = peer.exchange([call(1, "echo"), note("hello")], call(2, "echo"))
    assert codes([batch]) == [(None, INVALID_REQUEST)]
    assert "batches" in batch["error"]["message"]
    assert good == result(2, echo={})
    assert (len(peer.handler.calls), peer.handler.notes) == (1, [])
