"""Nine thousand inputs that no client should send, after which the server still serves.

Each line that the server writes meanwhile is checked as everywhere (see `messages`), so a wrong
or a second answer, a traceback, or one word that is no message fails the test too.
"""

from __future__ import annotations

import json
import random

import pytest

from .client import LEGACY_VERSIONS, META, MODERN_VERSION, Client

INPUTS = 3000  # for each of three connections
PROBE_EVERY = 300

METHODS = [
    "initialize",
    "server/discover",
    "ping",
    "tools/list",
    "tools/call",
    "resources/list",
    "resources/templates/list",
    "resources/read",
    "resources/subscribe",
    "resources/unsubscribe",
    "subscriptions/listen",
    "completion/complete",
    "logging/setLevel",
    "prompts/list",
    "tasks/get",
    "notifications/initialized",
    "notifications/cancelled",
    "notifications/progress",
    "no/such",
    "",
]
TOOLS = [
    "run_background_task",
    "get_task_status",
    "wait_for_task",
    "end_background_task",
    "list_background_tasks",
    "no_such_tool",
]
STRINGS = ["", "x", "backgroundr://tasks", "\u2028\u0085", "\ud800", "\0", "é" * 99]
NUMBERS = [0, -1, 1, 2**53, 10**400, 0.5, -0.0, 1e308, True, False, None]
# Written as they are: what json.dumps would not write.
RAW = [
    b"",
    b" \t ",
    b"\r",
    b"null",
    b"nonsense",
    b"{",
    b'{"jsonrpc":"2.0","id":1,"method":"ping"',
    b'{"jsonrpc":"2.0","id":NaN,"method":"ping"}',
    b'{"jsonrpc":"2.0","id":1e400,"method":"ping"}',
    b'{"jsonrpc":"2.0","id":%s,"method":"ping"}' % (b"7" * 6000),
    b'{"id":1,"id":"twice","jsonrpc":"2.0","method":"ping","method":"no/such"}',
    b"\xff\xfe\x00",
    b"\xef\xbb\xbf{}",
    b'"\xed\xa0\x80"',
    b"[" * 5000,
    b'{"a":' * 5000,
    b"[]",
    b"[[]]",
    b"\0",
]


class Fuzz:
    """Hostile lines from a seed, each another, some of them about the task `task_id`."""

    def __init__(self, seed, task_id):
        self.random = random.Random(seed)
        self.strings = [*STRINGS, task_id, "backgroundr://tasks/%s/output" % task_id]
        self.last_id = 0

    def line(self):
        kind = self.random.random()
        if kind < 0.1:
            return self.random.choice(RAW)
        message = self.message()
        if kind < 0.2:
            message = [self.message() for _ in range(self.random.randrange(4))] + [message]
        data = json.dumps(message).encode()
        if kind > 0.9:  # broken on its way
            at = self.random.randrange(len(data))
            data = data[:at] + self.random.choice([b"", b"\xff", b"{", b'"']) + data[at + 1 :]
        return data.replace(b"\n", b"")

    def message(self):
        # So far apart that a broken digit does not make one id of another.
        self.last_id = self.random.randrange(2**50)
        message = {
            "jsonrpc": "2.0",
            "id": self.random.choice([self.last_id, -self.last_id, "\ud800 %d" % self.last_id]),
            "method": self.random.choice(METHODS),
            "params": self.params(),
        }
        if self.random.random() < 0.4:
            self.spoil(message)
        return message

    def params(self):
        params = {
            "name": self.random.choice(TOOLS),
            "arguments": {
                "task_id": self.value(1),
                "command": "true" if self.random.random() < 0.02 else self.value(1),
                "timeout_seconds": self.random.choice([0, 0.01, self.value(1)]),
                "status": self.value(1),
            },
            "uri": self.random.choice(["backgroundr://tasks", self.value(1)]),
            "requestId": self.random.choice([self.last_id, self.value(1)]),
            "notifications": {
                "resourceSubscriptions": self.value(2),
                "resourcesListChanged": self.random.choice([True, self.value(1)]),
            },
            "ref": {"type": "ref/resource", "uri": self.value(1)},
            "argument": {"name": "task_id", "value": self.value(1)},
        }
        for name in list(params) + list(params["arguments"]):
            if self.random.random() < 0.5:
                params.pop(name, None)
                params.get("arguments", {}).pop(name, None)
        if self.random.random() < 0.3:
            params["protocolVersion"] = self.random.choice([*LEGACY_VERSIONS, "1", self.value(1)])
        if self.random.random() < 0.5:
            params["_meta"] = {
                META + "protocolVersion": MODERN_VERSION,
                META + "clientCapabilities": {},
                "progressToken": self.value(1),
            }
            if self.random.random() < 0.3:
                self.spoil(params["_meta"])
        return params

    def value(self, depth):
        """Return any JSON value, nested `depth` levels at most."""
        kind = self.random.randrange(4 if depth else 2)
        if kind == 0:
            return self.random.choice(self.strings)
        if kind == 1:
            return self.random.choice(NUMBERS)
        if kind == 2:
            return [self.value(depth - 1) for _ in range(self.random.randrange(3))]
        return {self.random.choice(self.strings): self.value(depth - 1)}

    def spoil(self, members):
        """Take a member away, give it another value, or add one."""
        name = self.random.choice([*members, "extra"])
        if self.random.random() < 0.3:
            members.pop(name, None)
        elif name == "id":
            members[name] = self.random.choice([None, True, 0.5, [], {"id": 1}])
        else:
            members[name] = self.value(2)


@pytest.mark.parametrize("version", ["2025-03-26", LEGACY_VERSIONS[-1], MODERN_VERSION])
def test_nine_thousand_hostile_inputs_are_survived(version):
    """Whatever comes in, each request is answered at most once, and the next good one is served."""
    with Client(version) as client:
        client.open()
        task_id = client.start("echo still here")["task_id"]
        client.call("wait_for_task", task_id=task_id)
        fuzz = Fuzz("backgroundr " + version, task_id)
        for _ in range(0, INPUTS, PROBE_EVERY):
            # Many at once: it is the server that is to be kept busy, not the pipe.
            client.write(b"\n".join(fuzz.line() for _ in range(PROBE_EVERY)))
            assert client.status(task_id)["output"] == "still here"
        assert client.call("list_background_tasks").structured["tasks"]
        assert client.request("server/discover" if client.is_modern else "ping") is not None
        assert client.unasked.qsize() > INPUTS / 2
        assert client.close() == 0
