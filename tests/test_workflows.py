"""The two workflows of the README, with the real programs.

Nothing is installed here. Where a program is missing its tests are skipped, and the summary
of the run says so.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile

import pytest

from .programs import DEADLINE_S, eventually, free_port, linux_only, new_mark, processes_with


def has_pylsp():
    """Whether pylsp is here, and with it the checker that finds the error of the tests."""
    path = shutil.which("pylsp")
    if path is None:
        return False
    with open(path, "rb") as script:
        python = os.fsdecode(script.readline()[2:].split()[0])
    return subprocess.run([python, "-c", "import pyflakes"], check=False).returncode == 0


needs_pylsp = pytest.mark.skipif(
    not has_pylsp(), reason="SKIPPED WORKFLOW: python-lsp-server[pyflakes] is missing"
)
needs_socat = pytest.mark.skipif(
    shutil.which("socat") is None, reason="SKIPPED WORKFLOW: socat is missing"
)


class LspClient:
    """As much of an editor as it takes to get a diagnostic from a language server."""

    def __init__(self, port):
        self._socket = eventually(lambda: self._connect(port), "a language server on %d" % port)
        self._stream = self._socket.makefile("rwb")
        self._last_id = 0

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._stream.close()
        self._socket.close()

    def request(self, method, params):
        self._last_id += 1
        self._send({"id": self._last_id, "method": method, "params": params})
        return self.receive(lambda message: message.get("id") == self._last_id)["result"]

    def notify(self, method, params):
        self._send({"method": method, "params": params})

    def receive(self, wanted):
        """Return the next message that is wanted; others are dropped."""
        while True:
            length = None
            for line in iter(self._stream.readline, b"\r\n"):
                name, _, value = line.partition(b":")
                assert value, "a header was expected, not %r" % line
                if name.lower() == b"content-length":
                    length = int(value)
            message = json.loads(self._stream.read(length))
            if wanted(message):
                return message

    def diagnose(self, text):
        """Open a document and return the messages that the server has about it."""
        uri = "file://%s/example.py" % tempfile.gettempdir()
        self.request("initialize", {"processId": None, "rootUri": None, "capabilities": {}})
        self.notify("initialized", {})
        document = {"uri": uri, "languageId": "python", "version": 1, "text": text}
        self.notify("textDocument/didOpen", {"textDocument": document})
        message = self.receive(
            lambda message: message.get("method") == "textDocument/publishDiagnostics"
        )
        assert message["params"]["uri"] == uri
        return " ".join(one["message"] for one in message["params"]["diagnostics"])

    def _connect(self, port):
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S)
        except ConnectionRefusedError:
            return None

    def _send(self, message):
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self._stream.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        self._stream.flush()


@pytest.fixture
def port():
    """A TCP port that is free."""
    return free_port()


def is_free(port):
    """Whether a program could listen on `port` now."""
    with socket.socket() as listener:
        # As servers do: connections that were closed just now do not count.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


@needs_pylsp
def test_a_language_server_over_tcp_is_kept_alive(client, port):
    """pylsp serves one editor after the other until its task is ended; then the port is free."""
    command = "pylsp -v --tcp --host 127.0.0.1 --port %d" % port
    task_id = client.start(command, name="pylsp")["task_id"]
    serving = "Serving PythonLSPServer on (127.0.0.1, %d)" % port
    eventually(lambda: serving in client.status(task_id)["output"], "the log to say so")
    for _ in range(2):
        with LspClient(port) as editor:
            assert "undefined name 'nowhere'" in editor.diagnose("print(nowhere)\n")
    assert client.status(task_id)["status"] == "running"
    assert not is_free(port)
    ended = client.call("end_background_task", task_id=task_id).structured
    assert (ended["status"], ended["signal"]) == ("terminated", "SIGTERM")
    assert is_free(port)


@needs_pylsp
@needs_socat
@pytest.mark.parametrize("size", [0, 200000], ids=["small", "large"])
def test_a_stdio_language_server_is_kept_behind_socat(client, port, size):
    """socat gives each editor that connects a pylsp of its own, and all end with the task."""
    command = "exec socat TCP-LISTEN:%d,bind=127.0.0.1,reuseaddr,fork EXEC:pylsp" % port
    task_id = client.start(command, name="lsp")["task_id"]
    text = "print(nowhere)\n" + "# é 日本 \\r\\n\n" * (size // 16)
    for _ in range(2):
        with LspClient(port) as editor:
            assert "undefined name 'nowhere'" in editor.diagnose(text)
    ended = client.call("end_background_task", task_id=task_id).structured
    assert ended["status"] == "terminated"
    assert is_free(port)


@needs_socat
@linux_only
def test_nothing_is_left_of_socat_and_its_servers(client, port):
    """Ending socat ends the servers of connections that are still open, in any session."""
    mark = new_mark()
    command = (
        "socat TCP-LISTEN:%d,bind=127.0.0.1,reuseaddr,fork EXEC:'sleep %s' & "
        "socat TCP-LISTEN:%d,bind=127.0.0.1,reuseaddr,fork EXEC:'sleep %s',setsid & wait"
    )
    other = free_port()
    task_id = client.start(command % (port, mark, other, mark))["task_id"]

    def connect(port):
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S)
        except ConnectionRefusedError:
            return None

    connections = [
        eventually(lambda number=number: connect(number), "socat") for number in (port, other)
    ]
    try:
        eventually(lambda: len(processes_with("sleep\0" + mark)) == 2, "both servers")
        client.call("end_background_task", task_id=task_id)
        assert processes_with(mark) == []
    finally:
        for connection in connections:
            connection.close()
    assert is_free(port)
