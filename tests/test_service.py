"""`serve`: MCP on the streams of a host program, with its own tools and its own manager."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from backgroundr import BackgroundrError, Cancelled, InvalidValue, TaskManager, Tool, serve
from backgroundr.service import _FileStreams

from .client import ENVIRONMENT
from .forms import PACKAGE
from .messages import LEGACY_VERSIONS, META, MODERN_VERSION
from .programs import DEADLINE_S, HELLO, SLEEP, eventually, linux_only, open_descriptors, posix_only

INITIALIZE = {
    "protocolVersion": LEGACY_VERSIONS[-1],
    "capabilities": {},
    "clientInfo": {"name": "tests", "version": "1"},
}


class Peer:
    """A client at the other end of a socket that `serve` serves on a thread of the test."""

    def __init__(self, *arguments, **options):
        self._ours, self._theirs = socket.socketpair()
        self._ours.settimeout(DEADLINE_S)
        self._file = self._theirs.makefile("rwb")
        self.stream = self._ours.makefile("rwb")
        self._last_id = 0
        self.thread = threading.Thread(
            target=serve, args=(self._file, self._file, *arguments), kwargs=options
        )
        self.thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.leave()
        self._file.close()
        self._theirs.close()
        self.stream.close()
        self._ours.close()

    def leave(self):
        """End the input; return when the serving has ended."""
        try:
            self._ours.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # done already
        self.thread.join(DEADLINE_S)
        assert not self.thread.is_alive()

    def send(self, method, params):
        self._last_id += 1
        message = {"jsonrpc": "2.0", "id": self._last_id, "method": method, "params": params}
        self.stream.write(json.dumps(message).encode() + b"\n")
        self.stream.flush()
        return self._last_id

    def answer(self, id):
        """Return the message that answers `id`; what comes before it is left out."""
        while True:
            message = json.loads(self.stream.readline())
            if message.get("id") == id:
                return message

    def request(self, method, params=None):
        return self.answer(self.send(method, params or {}))

    def open(self):
        assert (
            self.request("initialize", INITIALIZE)["result"]["serverInfo"]["name"] == "backgroundr"
        )

    def call(self, tool, **arguments):
        return self.request("tools/call", {"name": tool, "arguments": arguments})


@pytest.fixture
def nothing_left():
    """The test leaves no thread."""
    before = set(threading.enumerate())
    yield
    eventually(lambda: not set(threading.enumerate()) - before, "the end of the threads")


def test_one_call_serves_until_the_input_ends(nothing_left):
    """A manager of its own is made for the client and closed, with its tasks, behind it."""
    with Peer(max_tasks=1) as peer:
        peer.open()
        started = peer.call("run_background_task", command=SLEEP)["result"]["structuredContent"]
        assert peer.call("run_background_task", command=SLEEP)["result"]["isError"]
        waiting = peer.send(
            "tools/call",
            {"name": "wait_for_task", "arguments": {"task_id": started["task_id"]}},
        )
        peer.leave()
        # The call that waits for the task is answered by its end.
        assert peer.answer(waiting)["result"]["structuredContent"]["status"] == "terminated"


def test_the_era_without_a_handshake_is_served_too():
    """Each request may name its protocol revision."""
    meta = {
        META + "protocolVersion": MODERN_VERSION,
        META + "clientInfo": {"name": "tests", "version": "1"},
        META + "clientCapabilities": {},
    }
    with Peer() as peer:
        found = peer.request("server/discover", {"_meta": meta})["result"]
        assert found["supportedVersions"] == [MODERN_VERSION]


def test_any_binary_streams_do():
    """A client that is a recording, and an output that is memory."""
    lines = [
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": INITIALIZE},
        {
            "jsonrpc": "2.0",
            "id": 2,
            "method": "tools/call",
            "params": {
                "name": "run_background_task",
                "arguments": {"command": HELLO, "wait_seconds": 20},
            },
        },
    ]
    output = io.BytesIO()
    serve(io.BytesIO(b"".join(json.dumps(line).encode() + b"\n" for line in lines)), output)
    answers = [json.loads(line) for line in output.getvalue().splitlines()]
    by_id = {answer["id"]: answer for answer in answers if "id" in answer}
    assert set(by_id) == {1, 2}
    # The end of the input came before that of the task, which was ended.
    assert by_id[2]["result"]["structuredContent"]["status"] in ("completed", "terminated")


def test_several_clients_share_a_manager(nothing_left):
    """What one starts another sees, and hears of; the manager outlives them all."""
    with TaskManager() as manager:
        with Peer(manager) as one, Peer(manager) as other:
            one.open()
            other.open()
            one.call("run_background_task", command=SLEEP, name="shared")
            while json.loads(other.stream.readline()).get("method") != (
                "notifications/resources/list_changed"
            ):
                pass
            one.send("tools/call", {"name": "wait_for_task", "arguments": {"task_id": "shared"}})
            began = time.monotonic()
            one.leave()
            assert time.monotonic() - began < 5  # it was not waited for
            assert "backgroundr-call" not in [thread.name for thread in threading.enumerate()]
            assert len(manager._listeners) == 1
            status = other.call("get_task_status", task_id="shared")["result"]
            assert status["structuredContent"]["status"] == "running"
        assert manager._listeners == ()
        (task,) = manager.list()
        assert task.status == "running"


def test_a_host_adds_its_own_tools(capsys):
    """They stand in the same list; arguments are checked; what they return and raise is told."""

    def add(arguments):
        if arguments["b"] == 0:
            raise BackgroundrError("Adding 0 changes nothing.")
        return {"sum": arguments["a"] + arguments["b"]}

    def cancel(arguments):
        raise Cancelled()

    def break_down(arguments):
        raise RuntimeError("a defect")

    number = {"type": "integer"}
    tools = [
        Tool("add", "Add.", add, {"a": number, "b": number}, ["a", "b"], "Add numbers"),
        Tool(
            "greet",
            "Greet.",
            lambda arguments: "Hello, %s." % arguments["name"],
            {"name": {"type": "string"}},
        ),
        Tool("nothing", "Return nothing.", lambda arguments: None),
        Tool("exit", "End the thread.", sys.exit),
        Tool("cancel", "Refuse.", cancel),
        Tool("defect", "Break.", break_down),
    ]
    with Peer(tools=tools) as peer:
        peer.open()
        listed = {tool["name"]: tool for tool in peer.request("tools/list")["result"]["tools"]}
        assert listed["add"]["title"] == "Add numbers"
        assert listed["add"]["inputSchema"]["required"] == ["a", "b"]
        assert "outputSchema" not in listed["greet"]
        assert "run_background_task" in listed
        result = peer.call("add", a=2, b=3)["result"]
        assert result["structuredContent"] == {"sum": 5}
        assert json.loads(result["content"][0]["text"]) == {"sum": 5}
        assert peer.call("greet", name="you")["result"]["content"][0]["text"] == "Hello, you."
        for arguments, problem in (
            ({"a": 1, "b": 0}, "Adding 0 changes nothing."),
            ({"a": 1}, "add was not called: b is required."),
        ):
            refused = peer.call("add", **arguments)["result"]
            assert refused["isError"]
            assert refused["content"][0]["text"] == problem
        assert peer.call("cancel")["result"]["isError"]
        for name in ("nothing", "defect", "exit"):
            assert peer.call(name)["error"]["code"] == -32603
        assert peer.call("list_background_tasks")["result"]["isError"] is False
    assert "RuntimeError: a defect" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"name": "no spaces"}, "name must be 1 to 128 of the characters"),
        ({"name": ""}, "name must be 1 to 128 of the characters"),
        ({"name": 5}, "name must be 1 to 128 of the characters"),
        ({"name": "ok", "description": None}, "description must be text"),
        ({"name": "ok", "handler": None}, "handler must be a function"),
        ({"name": "ok", "required": ["x"]}, "required has what is no property: x"),
        ({"name": "ok", "properties": {"x": True}}, "properties must be JSON Schemas"),
    ],
)
def test_a_wrong_tool_is_refused(arguments, problem):
    """A tool that no client could call is an error where it is made."""
    with pytest.raises(InvalidValue, match=problem):
        Tool(**{"description": "", "handler": str, **arguments})


def test_wrong_arguments_of_serve_are_refused(manager):
    """Streams of text, a second tool of a name, options beside a manager: an error at once."""
    binary = io.BytesIO()
    with pytest.raises(InvalidValue, match="input must be a binary stream"):
        serve(io.StringIO(), binary)
    with pytest.raises(InvalidValue, match="output must be a binary stream"):
        serve(binary, io.StringIO())
    with pytest.raises(InvalidValue, match="a second tool named 'get_task_status'"):
        serve(binary, binary, tools=[Tool("get_task_status", "", str)])
    with pytest.raises(InvalidValue, match="input must be a binary stream"):
        serve(5, binary)
    with pytest.raises(InvalidValue, match="tools must be a list of Tool"):
        serve(binary, binary, tools=[5])
    with pytest.raises(InvalidValue, match="max_message_bytes must be a whole number"):
        serve(binary, binary, manager, max_message_bytes=0)
    with pytest.raises(InvalidValue, match="beside a manager: shell"):
        serve(binary, binary, manager, shell="/bin/sh")


def test_a_client_that_is_gone_ends_its_serving(nothing_left):
    """Nobody reads the answers and the connection is lost: the thread comes back."""
    with TaskManager() as manager:
        peer = Peer(manager)
        peer.open()
        peer.call("run_background_task", command=SLEEP)
        peer.stream.close()
        peer._ours.close()
        peer.thread.join(DEADLINE_S)
        assert not peer.thread.is_alive()
        assert [task.status for task in manager.list()] == ["running"]
        with contextlib.suppress(OSError):
            peer._file.close()  # what could not be written may still be in it
        peer._theirs.close()


def test_a_client_that_reads_slowly_gets_all(nothing_left):
    """Answers that wait for their reader come in full after the input has ended."""
    with Peer() as peer:
        peer.open()
        ids = [peer.send("tools/list", {}) for _ in range(100)]  # more than a socket holds
        ending = threading.Thread(target=peer.leave)
        ending.start()
        assert [peer.answer(id)["id"] for id in ids] == ids
        ending.join()


@linux_only
def test_a_client_that_leaves_and_never_reads_is_given_up(nothing_left):
    """Its answers fill what the connection holds, and it has closed its side: serving ends."""
    with TaskManager() as manager, contextlib.ExitStack() as stack:
        ours, theirs = socket.socketpair()
        stack.callback(theirs.close)
        with ours, theirs.makefile("rb") as input, theirs.makefile("wb") as output:
            flood = Tool("flood", "Flood.", lambda arguments: "x" * 1000000)
            server = threading.Thread(target=serve, args=(input, output, manager, [flood]))
            server.start()
            call = {"name": "flood", "arguments": {}}
            for id, (method, params) in enumerate(
                [("initialize", INITIALIZE)] + [("tools/call", call)] * 50
            ):
                message = {"jsonrpc": "2.0", "id": id, "method": method, "params": params}
                ours.sendall(json.dumps(message).encode() + b"\n")
            ours.shutdown(socket.SHUT_WR)
            server.join(DEADLINE_S)
            assert not server.is_alive()
            ours.close()  # or the closing of the output would wait for a reader
            with contextlib.suppress(OSError):
                output.close()


def test_a_client_that_was_silent_before_has_time_to_read():
    """What counts is how long answers wait for it, not how long nothing was to be written."""
    streams = _FileStreams(io.BytesIO(), io.BytesIO())
    streams._written_at -= 1000
    assert not streams.given_up(0.1)
    assert streams.given_up(61)
    streams.write(b"x")
    assert not streams.given_up(61)


@pytest.mark.parametrize("error", [RuntimeError("odd"), TypeError("odd")])
def test_an_output_that_fails_in_any_way_ends_the_serving(nothing_left, error):
    """Streams are the host's; what they raise is taken for the end of the connection."""

    class Output(io.RawIOBase):
        def write(self, data):
            raise error

    reading, writing = os.pipe()
    with open(reading, "rb") as input, open(writing, "wb") as pipe:
        server = threading.Thread(target=serve, args=(input, Output()))
        server.start()
        message = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": INITIALIZE}
        pipe.write(json.dumps(message).encode() + b"\n")
        pipe.close()
        server.join(DEADLINE_S)
        assert not server.is_alive()


@posix_only
def test_two_copies_in_one_process_do_not_know_each_other(tmp_path):
    """A vendored copy beside an installed one: each ends its own tasks and no others."""
    from .forms import copy_to

    program = (
        f"import sys, {PACKAGE}\n"
        f"first = sys.modules['{PACKAGE}']\n"
        "for name in list(sys.modules):\n"
        f"    if name.split('.')[0] == '{PACKAGE}'.split('.')[0]:\n"
        "        del sys.modules[name]\n"
        f"sys.path[:0] = sys.argv[1].split({os.pathsep!r})\n"
        f"import {PACKAGE}\n"
        f"second = sys.modules['{PACKAGE}']\n"
        "assert second.__file__ != first.__file__\n"
        "one, two = first.TaskManager(), second.TaskManager()\n"
        "ours = one.start('sleep 600 & exec sleep 600')\n"
        "theirs = two.start('env -i setsid -f sleep 600; exec sleep 600')\n"
        "two.close()\n"
        "print(one.status(ours.task_id).status, two.status(theirs.task_id).status)\n"
        "try:\n"
        "    one.status('x')\n"
        "except second.UnknownTask:\n"
        "    print('mixed up')\n"
        "except first.UnknownTask:\n"
        "    one.close()\n"
        "import threading\n"
        "print(one.status(ours.task_id).status, threading.active_count())\n"
    )
    _, places = copy_to(tmp_path / "copy")
    command = [sys.executable, "-W", "error", "-X", "dev", "-c", program, places]
    shown = subprocess.run(command, env=ENVIRONMENT, capture_output=True, check=False)
    assert shown.stdout.decode().split() == ["running", "terminated", "terminated", "1"]
    assert shown.stderr == b""


@linux_only
def test_a_host_keeps_what_is_its_own(nothing_left):
    """Signal handlers, the loop and the children of a host are as before, and after `close`."""
    import asyncio

    handlers = {number: signal.getsignal(number) for number in range(1, 32)}
    descriptors = open_descriptors()

    async def host():
        loop = asyncio.get_running_loop()
        heard = []
        loop.add_signal_handler(signal.SIGUSR1, heard.append, "usr1")
        with TaskManager() as manager:
            task = await loop.run_in_executor(None, manager.start, "exit 3")
            child = await asyncio.create_subprocess_exec("sh", "-c", "exit 5")
            os.kill(os.getpid(), signal.SIGUSR1)
            done = await loop.run_in_executor(None, manager.wait, task.task_id, DEADLINE_S)
            assert await child.wait() == 5
            assert done.exit_code == 3
        assert heard == ["usr1"]
        loop.remove_signal_handler(signal.SIGUSR1)

    asyncio.run(host())
    assert {number: signal.getsignal(number) for number in range(1, 32)} == handlers
    eventually(lambda: open_descriptors() <= descriptors, "the descriptors")
