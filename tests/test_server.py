"""The server process as a client meets it: messages, eras, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from .client import (
    ENVIRONMENT,
    LEGACY_VERSIONS,
    META,
    MODERN_VERSION,
    SERVER,
    Client,
    RpcFailure,
)
from .messages import read_all
from .programs import (
    DEADLINE_S,
    HELLO,
    IGNORE_TERM,
    SLEEP,
    eventually,
    is_alive,
    linux_only,
    peak_memory_bytes,
    posix_only,
    python,
    shared,
)

INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {
        "protocolVersion": LEGACY_VERSIONS[-1],
        "capabilities": {},
        "clientInfo": {"name": "tests", "version": "1"},
    },
}
ENVELOPE = {META + "protocolVersion": MODERN_VERSION, META + "clientCapabilities": {}}


def call_message(id, tool, **arguments):
    return {
        "jsonrpc": "2.0",
        "id": id,
        "method": "tools/call",
        "params": {"name": tool, "arguments": arguments},
    }


def serve(data, **popen):
    """Run a server with `data` as its whole input; return (exit status, checked answers)."""
    process = subprocess.run(
        SERVER,
        input=data,
        stdout=subprocess.PIPE,
        env=ENVIRONMENT,
        timeout=DEADLINE_S,
        check=False,
        **popen,
    )
    messages = read_all(data, process.stdout.splitlines(True))
    return process.returncode, [message for message in messages if "id" in message]


# ---------------------------------------------------------------- opening


@pytest.mark.parametrize("version", LEGACY_VERSIONS)
def test_each_handshake_revision_is_spoken(version):
    """A client that asks for a revision gets it, and tools."""
    with Client(version) as client:
        hello = client.open()
        assert hello["protocolVersion"] == version
        assert hello["serverInfo"]["name"] == "backgroundr"
        assert "tools" in hello["capabilities"]
        assert "resultType" not in hello
        assert client.call("list_background_tasks").structured["tasks"] == []


@pytest.mark.parametrize("version", ["1999-01-01", "latest", "", MODERN_VERSION])
def test_an_unknown_revision_is_answered_with_the_latest(version):
    """A client that asks for a revision without a handshake here is offered the newest."""
    with Client(version) as client:
        client.is_modern = False
        assert client.open()["protocolVersion"] == LEGACY_VERSIONS[-1]


def test_the_modern_era_needs_no_handshake():
    """A request that carries its own envelope is served on a fresh connection."""
    with Client(MODERN_VERSION) as client:
        result = client.request("tools/list")
        assert result["resultType"] == "complete"
        assert result["ttlMs"] > 0
        assert result["cacheScope"] == "public"
        assert result["_meta"][META + "serverInfo"]["name"] == "backgroundr"
        assert client.open()["supportedVersions"] == [MODERN_VERSION]


def test_a_client_that_probes_and_falls_back_gets_in():
    """Whatever a client tried before, the handshake works after it, and both eras go on."""
    with Client() as client:
        for meta in ({META + "protocolVersion": "2099-01-01", META + "clientCapabilities": {}}, {}):
            with pytest.raises(RpcFailure):
                client.request("server/discover", {"_meta": meta})
        assert client.open()["protocolVersion"] == LEGACY_VERSIONS[-1]
        modern = {META + "protocolVersion": MODERN_VERSION, META + "clientCapabilities": {}}
        assert client.request("tools/list", {"_meta": modern})["resultType"] == "complete"
        assert "resultType" not in client.request("tools/list")


@pytest.mark.parametrize(
    ("meta", "code"),
    [
        ({META + "protocolVersion": "2025-11-25", META + "clientCapabilities": {}}, -32022),
        ({META + "protocolVersion": MODERN_VERSION}, -32602),
        ({META + "protocolVersion": 5, META + "clientCapabilities": {}}, -32602),
        ({META + "protocolVersion": MODERN_VERSION, META + "clientCapabilities": []}, -32602),
        ({META + "clientCapabilities": {}}, -32602),
        ({META + "clientInfo": {"name": "x", "version": "1"}}, -32602),
        ({**ENVELOPE, META + "clientInfo": 5}, -32602),
        ({**ENVELOPE, META + "logLevel": "loud"}, -32602),
        ({**ENVELOPE, "progressToken": 1.5}, -32602),
    ],
)
@shared
def test_a_wrong_envelope_is_refused(legacy_client, meta, code):
    """An envelope that is not whole gets the error that the revision asks for."""
    with pytest.raises(RpcFailure) as caught:
        legacy_client.request("tools/list", {"_meta": meta})
    assert caught.value.code == code
    if code == -32022:
        assert caught.value.data == {"supported": [MODERN_VERSION], "requested": "2025-11-25"}


def test_a_request_without_an_envelope_or_a_handshake_is_refused():
    """Where neither era has begun, an empty envelope is none."""
    with Client() as client:
        for meta in ({}, None):
            with pytest.raises(RpcFailure) as caught:
                client.request("tools/list", {"_meta": meta})
            assert caught.value.code == -32602


def test_a_method_of_the_other_era_says_where_it_exists():
    """Who forgets the envelope, or uses what the revision removed, is told so."""
    with Client() as client:
        client.open()
        for method in ("server/discover", "subscriptions/listen"):
            with pytest.raises(RpcFailure, match="exists in revision 2026-07-28 only") as caught:
                client.request(method)
            assert caught.value.code == -32601
        for method in ("ping", "initialize", "resources/subscribe"):
            with pytest.raises(RpcFailure, match="not exist in revision 2026-07-28") as caught:
                client.request(method, {"_meta": ENVELOPE})
            assert caught.value.code == -32601


def test_a_modern_request_is_refused_in_a_batch():
    """A batch is of the one revision that has them, and holds no initialize either."""
    with Client("2025-03-26") as client:
        client.open()
        messages = [
            {"jsonrpc": "2.0", "id": id, "method": method, "params": params}
            for id, method, params in (
                ("listen", "subscriptions/listen", {"notifications": {}, "_meta": ENVELOPE}),
                ("initialize", "initialize", INITIALIZE["params"]),
                ("ping", "ping", {}),
            )
        ]
        for message in messages:
            client.expect(message["id"])
        client.write(json.dumps(messages))
        for id in ("listen", "initialize"):
            with pytest.raises(RpcFailure, match="batch") as caught:
                client.receive(id)
            assert caught.value.code == -32600
        assert client.receive("ping") == {}


def test_a_request_before_the_handshake_is_answered_with_an_error():
    """A client that forgot the handshake is told so; ping works without it."""
    with Client() as client:
        assert client.request("ping") == {}
        with pytest.raises(RpcFailure, match="initialize"):
            client.request("tools/list")
        client.open()
        assert client.request("tools/list")["tools"]


# ---------------------------------------------------------------- messages


@shared
@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("no/such/method", {}, -32601),
        ("tools/list", {"cursor": "x"}, -32602),
        ("tools/call", {}, -32602),
        ("tools/call", {"name": 5}, -32602),
        ("tools/call", {"name": "no_such_tool"}, -32602),
        ("tools/call", {"name": "list_background_tasks", "arguments": []}, -32602),
    ],
)
def test_a_wrong_request_is_refused_with_its_code(client, method, params, code):
    """A request that cannot be served gets the code that JSON-RPC and MCP have for it."""
    with pytest.raises(RpcFailure) as caught:
        client.request(method, params)
    assert caught.value.code == code


@shared
def test_arguments_may_be_left_out(client):
    """A tool that needs no arguments can be called without them."""
    tasks = client.call("list_background_tasks").structured["tasks"]
    for params in ({}, {"arguments": None}, {"arguments": {}}):
        result = client.request("tools/call", {"name": "list_background_tasks", **params})
        assert result["structuredContent"]["tasks"] == tasks


def test_nonsense_is_answered_and_survived(legacy_client):
    """Lines that are no message get an error without an id, and the next one is served."""
    for line, *codes in (
        ("not json", -32700),
        (b"\xff\xfe", -32700),
        ('{"jsonrpc":"2.0","id":1,"method":"ping"', -32700),
        ('{"a":NaN}', -32700),
        ("[" * 100000, -32700),
        ('{"n":%s}' % ("9" * 6000), -32700, -32600),  # not every Python has the limit
        ("42", -32600),
        ("[]", -32600),
        ('[{"jsonrpc":"2.0","id":1,"method":"ping"}]', -32600),
        ('{"jsonrpc":"2.0","id":null,"method":"ping"}', -32600),
    ):
        legacy_client.write(line)
        answer = legacy_client.unasked.get(timeout=DEADLINE_S)
        assert answer["error"]["code"] in codes, line
        assert "id" not in answer
    legacy_client.write("")
    legacy_client.write('{"jsonrpc":"2.0","id":5,"result":{}}')
    legacy_client.notify("notifications/no-such")
    assert legacy_client.request("ping") == {}
    assert legacy_client.unasked.empty()


@pytest.mark.parametrize("limit", [None, 5000])
def test_a_line_too_long_is_skipped(limit):
    """A line above the limit is answered with an error that names it; one below is served."""
    flags = () if limit is None else ("--max-message-bytes", str(limit))
    limit = limit or 16 * 1024 * 1024
    ping = '{"jsonrpc":"2.0","id":"%s","method":"ping"}'
    with Client(flags=flags) as client:
        client.open()
        longest = "x" * (limit - len(ping) + 2)
        client.expect(longest)
        client.write(ping % longest)
        assert client.receive(longest) == {}
        client.write(ping % (longest + "x"))
        answer = client.unasked.get(timeout=DEADLINE_S)
        assert answer["error"]["code"] == -32600
        assert "The limit is %d bytes (max_message_bytes)" % limit in answer["error"]["message"]
        assert client.request("ping") == {}


@linux_only
def test_a_line_too_long_costs_no_memory(legacy_client):
    """A line of 64 MiB is not collected."""
    mib = 1024 * 1024
    before = peak_memory_bytes(legacy_client.process.pid)
    for _ in range(2):
        legacy_client.write(b"[" * 64 * mib)
        assert legacy_client.unasked.get(timeout=DEADLINE_S)["error"]["code"] == -32600
    assert legacy_client.request("ping") == {}
    assert peak_memory_bytes(legacy_client.process.pid) < before + 40 * mib


@shared
def test_a_request_without_an_id_is_not_executed(client):
    """A notification is never answered, and a tool call without an id starts nothing."""
    before = client.call("list_background_tasks").structured["tasks"]
    client.notify("tools/call", {"name": "run_background_task", "arguments": {"command": SLEEP}})
    assert client.call("list_background_tasks").structured["tasks"] == before
    assert client.unasked.empty()


@shared
@pytest.mark.parametrize("id", [0, -1, "", "a", "1", 2**53, "日本"])
def test_ids_come_back_as_they_were(legacy_client, id):
    """An answer carries the id of its request, in value and type."""
    assert legacy_client.receive(legacy_client.send("ping", id=id)) == {}


def test_a_batch_is_served_where_the_revision_has_them():
    """At 2025-03-26 an array of requests gets one array of answers."""
    with Client("2025-03-26") as client:
        client.open()
        for id in ("a", "b"):
            client.expect(id)
        client.write(
            '[{"jsonrpc":"2.0","id":"a","method":"ping"},{"jsonrpc":"2.0","method":"x"},'
            '{"jsonrpc":"2.0","id":"b","method":"tools/list"}]'
        )
        assert client.receive("a") == {}
        assert client.receive("b")["tools"]


def test_everything_read_before_the_end_is_answered():
    """Input that is written in one go and ends gets every answer, a cut-off last line too."""
    lines = [
        INITIALIZE,
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        call_message(1, "run_background_task", command=HELLO),
        {"jsonrpc": "2.0", "id": 2, "method": "ping"},
    ]
    data = b"\xef\xbb\xbf" + b"\r\n".join(json.dumps(line).encode() for line in lines)
    status, messages = serve(data)
    assert status == 0
    assert [message["id"] for message in messages] == [0, 1, 2]
    assert all("result" in message for message in messages)


# ---------------------------------------------------------------- calls that wait


@posix_only
@shared
def test_a_call_that_waits_blocks_no_other(client):
    """While a task takes its time to end, other calls are answered."""
    task = client.start(IGNORE_TERM)
    eventually(lambda: "ready" in client.status(task["task_id"])["output"], "the task")
    ending = client.send_call("end_background_task", task_id=task["task_id"], grace_seconds=600)
    status = client.status(task["task_id"])
    assert (status["status"], status["kill_requested"]) == ("stopping", True)
    other = client.start(HELLO)
    eventually(lambda: client.status(other["task_id"])["status"] == "completed", "the other task")
    assert not client.has_answered(ending)
    client.call("end_background_task", task_id=task["task_id"], signal="SIGKILL")
    assert client.tool_result("end_background_task", ending).structured["signal"] == "SIGKILL"


@posix_only
@shared
def test_a_cancelled_call_is_silent_and_the_ending_goes_on(client):
    """Nothing is written for a call that was cancelled; what it asked for still happens."""
    task_id = client.start(IGNORE_TERM)["task_id"]
    eventually(lambda: "ready" in client.status(task_id)["output"], "the task")
    ending = client.send_call("end_background_task", task_id=task_id, grace_seconds=0.3)
    client.notify("notifications/cancelled", {"requestId": ending, "reason": "changed my mind"})
    for ignored in ({"requestId": "no such"}, {"requestId": None}, {}):
        client.notify("notifications/cancelled", ignored)
    eventually(lambda: client.status(task_id)["status"] == "terminated", "the end")
    assert not client.has_answered(ending)


@posix_only
@shared
def test_sixty_calls_wait_at_once(client):
    """Many waits at the same time are each answered, and a ping among them at once."""
    task_id = client.start(IGNORE_TERM)["task_id"]
    eventually(lambda: "ready" in client.status(task_id)["output"], "the task")
    endings = [
        client.send_call("end_background_task", task_id=task_id, grace_seconds=600)
        for _ in range(60)
    ]
    assert client.status(task_id)["status"] == "stopping"
    client.call("end_background_task", task_id=task_id, signal="SIGKILL")
    for ending in endings:
        result = client.tool_result("end_background_task", ending)
        assert result.structured["status"] == "terminated"


def test_a_client_that_writes_before_it_reads_is_not_stuck():
    """A hundred requests written before one answer is read are all answered."""
    process = subprocess.Popen(
        SERVER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT
    )
    requests = [INITIALIZE] + [
        {"jsonrpc": "2.0", "id": number, "method": "tools/list", "params": {"x": "x" * 2000}}
        for number in range(1, 101)
    ]
    # More than a pipe holds in both directions; if the server waited for us to read, this
    # write would never return.
    data = b"".join(json.dumps(request).encode() + b"\n" for request in requests)
    process.stdin.write(data)
    process.stdin.close()
    with process.stdout as lines:
        assert [message["id"] for message in read_all(data, lines)] == list(range(101))
    assert process.wait(DEADLINE_S) == 0


@posix_only
def test_a_client_that_never_reads_cannot_hold_the_server():
    """With nobody reading the answers, requests are no longer taken, and a signal still ends it."""
    process = subprocess.Popen(
        SERVER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT
    )
    requests = process.stdin.fileno()
    os.set_blocking(requests, False)
    os.write(requests, json.dumps(INITIALIZE).encode() + b"\n")
    request = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}).encode() + b"\n"
    data = request * 20000  # answers of some 100 MB
    rest = memoryview(data)
    last_taken = time.monotonic()
    while rest and time.monotonic() - last_taken < 1:
        try:
            rest = rest[os.write(requests, rest[:65536]) :]
            last_taken = time.monotonic()
        except BlockingIOError:
            time.sleep(0.01)
    assert len(rest) > len(data) / 2
    if sys.platform == "linux":
        with open("/proc/%d/statm" % process.pid) as file:
            assert int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") < 100 * 2**20
    began = time.monotonic()
    process.terminate()
    assert process.wait(DEADLINE_S) == 128 + signal.SIGTERM
    assert time.monotonic() - began < 2
    process.stdout.close()
    process.stdin.close()


# ---------------------------------------------------------------- what a task must not touch


@linux_only
@shared
def test_a_task_has_nothing_of_the_protocol(client):
    """A task reads nothing of the protocol's input and its output is not the protocol's."""
    code = (
        "import os, sys; print(sys.stdin.read() == ''); print(sorted(os.listdir('/proc/self/fd')))"
    )
    task_id = client.start(python(code))["task_id"]
    eventually(lambda: client.status(task_id)["status"] == "completed", "the task")
    assert client.status(task_id)["output"] == "True\n['0', '1', '2', '3']"
    assert client.request("tools/list")["tools"]


# ---------------------------------------------------------------- the end


@posix_only
@pytest.mark.parametrize(
    ("how", "stubborn"),
    [
        ("end of input", False),
        ("SIGTERM", False),
        ("SIGINT", False),
        ("SIGHUP", False),
        ("SIGQUIT", False),
        # Each takes the second that a task has to end in.
        ("end of input", True),
        ("SIGTERM", True),
    ],
)
def test_the_server_ends_its_tasks_and_itself(how, stubborn):
    """However the server is told to go, tasks go first, and it is gone within two seconds."""
    with Client() as client:
        client.open()
        task = client.start(IGNORE_TERM if stubborn else SLEEP + " # ready")
        if stubborn:
            eventually(lambda: client.status(task["task_id"])["output"] == "ready", "the task")
        began = time.monotonic()
        if how == "end of input":
            client.process.stdin.close()
            expected = 0
        else:
            number = getattr(signal, how)
            client.process.send_signal(number)
            expected = 128 + number
        assert client.process.wait(DEADLINE_S) == expected
        assert time.monotonic() - began < 2
        if sys.platform == "linux":
            assert not is_alive(task["pid"])
        assert client.unasked.empty()


@posix_only
@pytest.mark.parametrize("first", ["SIGINT", "end of input"])
def test_a_client_that_signals_again_is_not_kept_waiting(first):
    """A further signal shortens the grace of the tasks: some clients kill half a second later."""
    with Client() as client:
        client.open()
        task = client.start(IGNORE_TERM)
        eventually(lambda: client.status(task["task_id"])["output"] == "ready", "the task")
        began = time.monotonic()
        if first == "SIGINT":
            client.process.send_signal(signal.SIGINT)
        else:
            client.process.stdin.close()
        with pytest.raises(subprocess.TimeoutExpired):
            client.process.wait(0.1)
        client.process.send_signal(signal.SIGTERM)
        expected = signal.SIGINT if first == "SIGINT" else signal.SIGTERM
        assert client.process.wait(DEADLINE_S) == 128 + expected
        assert time.monotonic() - began < 0.8
        if sys.platform == "linux":
            assert not is_alive(task["pid"])


@posix_only
def test_a_signal_that_comes_while_stopped_is_not_lost():
    """A server that is stopped, told to end, and continued, ends: whichever thread is told."""
    for _ in range(5):
        with Client() as client:
            client.open()
            client.start(SLEEP)
            for name in ("SIGSTOP", "SIGTERM", "SIGCONT"):
                client.process.send_signal(getattr(signal, name))
            assert client.process.wait(DEADLINE_S) == 128 + signal.SIGTERM


@posix_only
def test_the_end_of_input_is_seen_behind_unread_answers():
    """A client that reads no answers and closes its side ends the server all the same."""
    process = subprocess.Popen(
        SERVER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT
    )
    request = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}).encode() + b"\n"
    process.stdin.write(json.dumps(INITIALIZE).encode() + b"\n" + request * 900)
    process.stdin.close()
    assert process.wait(DEADLINE_S) == 0
    process.stdout.close()


def test_a_slow_reader_gets_every_answer_after_the_end():
    """After the end of its input the server waits for a client that still reads, slowly."""
    lists = [{"jsonrpc": "2.0", "id": id, "method": "tools/list"} for id in range(1, 61)]
    data = b"".join(json.dumps(message).encode() + b"\n" for message in [INITIALIZE, *lists])
    process = subprocess.Popen(
        SERVER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT
    )
    process.stdin.write(data)
    process.stdin.close()
    lines = []
    with process.stdout as answers:
        for line in answers:
            lines.append(line)
            time.sleep(0.03)  # longer than the server waits for who does not read at all
    assert [message["id"] for message in read_all(data, lines)] == list(range(61))
    assert process.wait(DEADLINE_S) == 0


def test_a_call_in_flight_at_the_end_is_answered():
    """The end of the input ends the tasks, and so answers those who wait for an end."""
    with Client() as client:
        client.open()
        client.tools()
        task = client.start(SLEEP)
        ending = client.send_call("end_background_task", task_id=task["task_id"])
        client.process.stdin.close()
        assert client.tool_result("end_background_task", ending).structured["ended_at"]


def test_no_input_at_all_is_a_clean_end():
    """A server whose input is empty exits at once with status 0 and writes nothing."""
    assert serve(b"") == (0, [])
    assert serve(b"\n\n") == (0, [])


@posix_only
def test_a_client_that_stops_reading_ends_the_server():
    """When nobody reads the answers any more, the server ends its tasks and exits."""
    process = subprocess.Popen(
        SERVER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT
    )
    process.stdin.write(json.dumps(INITIALIZE).encode() + b"\n")
    process.stdin.write(
        json.dumps(call_message(1, "run_background_task", command=SLEEP)).encode() + b"\n"
    )
    process.stdin.flush()
    process.stdout.readline()
    task = json.loads(process.stdout.readline())["result"]["structuredContent"]
    process.stdout.close()
    process.stdin.write(b'{"jsonrpc":"2.0","id":2,"method":"ping"}\n')
    process.stdin.flush()
    assert process.wait(DEADLINE_S) == 0
    process.stdin.close()
    if sys.platform == "linux":
        assert not is_alive(task["pid"])


# ---------------------------------------------------------------- odd parents


@posix_only
def test_standard_streams_may_be_a_non_blocking_socket():
    """A parent that hands over one non-blocking socket for both directions is served."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    process = subprocess.Popen(SERVER, stdin=theirs, stdout=theirs, env=ENVIRONMENT)
    theirs.close()
    ours.settimeout(DEADLINE_S)
    requests = [INITIALIZE] + [
        {"jsonrpc": "2.0", "id": number, "method": "tools/list"} for number in range(1, 101)
    ]
    with ours, ours.makefile("rwb") as stream:
        data = b"".join(json.dumps(request).encode() + b"\n" for request in requests)
        stream.write(data)
        stream.flush()
        messages = read_all(data, [stream.readline() for _ in requests])
        assert [message["id"] for message in messages] == list(range(101))
        ours.shutdown(socket.SHUT_WR)
        assert stream.readline() == b""
    assert process.wait(DEADLINE_S) == 0


@posix_only
@pytest.mark.parametrize("closed", ["2>&-", "2>&- 2>/dev/full", "<&-", ">&-"])
def test_a_closed_standard_stream_is_survived(closed):
    """A server that was started without one of its streams serves or ends, and never hangs."""
    command = ["sh", "-c", 'exec "$@" %s' % closed, "sh"] + SERVER
    data = json.dumps(INITIALIZE).encode() + b"\n"
    result = subprocess.run(
        command,
        input=data,
        stdout=subprocess.PIPE,
        env=ENVIRONMENT,
        timeout=DEADLINE_S,
        check=False,
    )
    assert result.returncode == 0
    if closed.startswith("2"):
        (message,) = read_all(data, result.stdout.splitlines(True))
        assert message["id"] == 0
    else:
        assert result.stdout == b""


@posix_only
def test_a_parent_that_leaks_a_thousand_descriptors_is_survived():
    """A server whose own descriptors come to lie beyond 1024 serves all the same."""
    program = (
        "import os, resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (1200, resource.RLIM_INFINITY)[:1] * 2)\n"
        "for _ in range(1100):\n"
        "    os.set_inheritable(os.open(os.devnull, os.O_RDONLY), True)\n"
        "os.execv(sys.executable, %r)\n" % SERVER
    )
    data = json.dumps(INITIALIZE).encode() + b"\n"
    result = subprocess.run(
        [sys.executable, "-c", program],
        input=data,
        capture_output=True,
        env=ENVIRONMENT,
        timeout=DEADLINE_S,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, b"")
    (message,) = read_all(data, result.stdout.splitlines(True))
    assert message["id"] == 0


@posix_only
def test_exit_codes_are_true_when_the_parent_ignores_sigchld():
    """An inherited disregard of SIGCHLD, which would make each exit code 0, is undone."""
    command = (
        "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN);"
        " os.execv(sys.executable, %r)" % SERVER
    )
    process = subprocess.Popen(
        [sys.executable, "-c", command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=ENVIRONMENT,
    )
    with process.stdin as requests, process.stdout as answers:

        def ask(message):
            data = json.dumps(message).encode() + b"\n"
            requests.write(data)
            requests.flush()
            while True:
                for message in read_all(data, [answers.readline()]):
                    if "id" in message:
                        return message["result"]

        ask(INITIALIZE)
        started = ask(call_message(1, "run_background_task", command="exit 5"))
        task_id = started["structuredContent"]["task_id"]

        def ended():
            status = ask(call_message(2, "get_task_status", task_id=task_id))["structuredContent"]
            return status["status"] != "running" and status

        assert eventually(ended, "the task to end")["exit_code"] == 5
    assert process.wait(DEADLINE_S) == 0


def test_an_empty_environment_is_enough():
    """A server that was told only where its package is starts and runs commands."""
    keep = {key: os.environ[key] for key in ("SYSTEMROOT", "COMSPEC") if key in os.environ}
    data = (
        json.dumps(INITIALIZE)
        + "\n"
        + json.dumps(call_message(1, "run_background_task", command=HELLO))
    ).encode()
    result = subprocess.run(
        SERVER,
        input=data,
        stdout=subprocess.PIPE,
        env={**keep, "PYTHONPATH": ENVIRONMENT["PYTHONPATH"]},
        timeout=DEADLINE_S,
        check=True,
    )
    started = read_all(data, result.stdout.splitlines(True))[1]
    assert started["result"]["isError"] is False
