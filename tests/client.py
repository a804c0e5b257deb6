"""A test client of MCP: a real server process, its real stdin and stdout, in either era.

Every line that the server writes is checked as it arrives, as `messages` tells, and every
structured result against the schema that its tool declares.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import tempfile
import threading
import traceback

from backgroundr.schema import check

from .forms import SERVER
from .messages import LEGACY_VERSIONS, META, MODERN_VERSION, Transcript
from .programs import DEADLINE_S

# In which a program imports the package, or runs it, from wherever it is started.
ENVIRONMENT = dict(os.environ)


class RpcFailure(Exception):
    """The server answered with a JSON-RPC error."""

    def __init__(self, error: dict) -> None:
        super().__init__("%(code)s: %(message)s" % error)
        self.code = error["code"]
        self.data = error.get("data")


class ToolResult:
    """The result of tools/call. structured: None for an error. text: the text block."""

    def __init__(self, result: dict) -> None:
        self.is_error = result["isError"]
        self.structured = result.get("structuredContent")
        self.text = result["content"][0]["text"]


class Client:
    """One client and the server process that it starts.

    version: the protocol revision it speaks. server, flags: the command line. Other arguments
    are those of Popen. A server that wrote to stderr fails the test at `close`, unless
    `stderr_text` was read before.
    """

    def __init__(
        self, version: str = LEGACY_VERSIONS[-1], flags=(), env=None, server=SERVER, **popen
    ) -> None:
        self.version = version
        self.is_modern = version == MODERN_VERSION
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115
        self._stderr_seen = False
        popen.setdefault("stderr", self._stderr)
        self.process = subprocess.Popen(
            [*server, *flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**ENVIRONMENT, **(env or {})},
            **popen,
        )
        self._last_id = 0
        self._lock = threading.Lock()
        self._answers: dict[object, queue.Queue] = {}
        self.unasked: queue.Queue = queue.Queue()  # what answers no request of ours
        self.notifications: queue.Queue = queue.Queue()
        self.problems: list[str] = []
        self._transcript = Transcript(version)
        self._tools: dict[str, dict] = {}
        self.reads = threading.Event()  # cleared by a test whose client is not to read
        self.reads.set()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception) -> None:
        if exception[0] is not None:
            self.process.kill()
            self._stderr_seen = True
        if not self._stderr.closed:
            self.close()

    # ------------------------------------------------ messages

    def open(self) -> dict:
        """Make the handshake, or the discovery; return its result."""
        if self.is_modern:
            return self.request("server/discover")
        result = self.request(
            "initialize",
            {
                "protocolVersion": self.version,
                "capabilities": {},
                "clientInfo": {"name": "tests", "version": "1"},
            },
        )
        self.notify("notifications/initialized")
        return result

    def request(self, method: str, params: dict | None = None) -> dict:
        """Send a request and return its result. Raises RpcFailure."""
        return self.receive(self.send(method, params))

    def send(self, method: str, params: dict | None = None, id: object = None) -> object:
        """Send a request; return its id, for `receive`."""
        if id is None:
            self._last_id += 1
            id = self._last_id
        message = {"jsonrpc": "2.0", "id": id, "method": method, "params": self._enveloped(params)}
        self.expect(id)
        self.write(json.dumps(message))
        return id

    def receive(self, id: object, timeout_s: float = DEADLINE_S) -> dict:
        """Return the result of the request `id`. Raises RpcFailure."""
        message = self._answers[id].get(timeout=timeout_s)
        assert message is not None, "the server ended without an answer to %r" % id
        if "error" in message:
            raise RpcFailure(message["error"])
        return message["result"]

    def has_answered(self, id: object) -> bool:
        return not self._answers[id].empty()

    def expect(self, id: object) -> None:
        """Take answers to `id` for `receive`; for requests that are written raw."""
        with self._lock:
            self._answers[id] = queue.Queue()

    def notify(self, method: str, params: dict | None = None) -> None:
        self.write(
            json.dumps({"jsonrpc": "2.0", "method": method, "params": self._enveloped(params)})
        )

    def notification(self, method: str, timeout_s: float = DEADLINE_S) -> dict:
        """Return the params of the next notification `method`; others before it are skipped."""
        while True:
            message = self.notifications.get(timeout=timeout_s)
            if message["method"] == method:
                return message.get("params", {})

    def write(self, line: str | bytes) -> None:
        """Write a line as it is."""
        data = (line if isinstance(line, bytes) else line.encode()) + b"\n"
        self._transcript.wrote(data)
        self.process.stdin.write(data)
        self.process.stdin.flush()

    # ------------------------------------------------ tools

    def call(self, tool: str, **arguments: object) -> ToolResult:
        """Call a tool; its structured content has been checked against its outputSchema."""
        return self.tool_result(tool, self.send_call(tool, **arguments))

    def send_call(self, tool: str, **arguments: object) -> object:
        return self.send("tools/call", {"name": tool, "arguments": arguments})

    def tool_result(self, tool: str, id: object) -> ToolResult:
        result = ToolResult(self.receive(id))
        if not result.is_error:
            schema = self.tools()[tool]["outputSchema"]
            assert check(result.structured, schema, "structuredContent") == []
        return result

    def tools(self) -> dict[str, dict]:
        if not self._tools:
            self._tools = {tool["name"]: tool for tool in self.request("tools/list")["tools"]}
        return self._tools

    def start(self, command: str, **arguments: object) -> dict:
        """Start a task; return the structured content."""
        result = self.call("run_background_task", command=command, **arguments)
        assert not result.is_error, result.text
        return result.structured

    def status(self, task_id: str, **arguments: object) -> dict:
        result = self.call("get_task_status", task_id=task_id, **arguments)
        assert not result.is_error, result.text
        return result.structured

    # ------------------------------------------------ the end

    def tidy(self) -> None:
        """Check what the server wrote so far, and end what runs; for a server that tests share.

        Raises AssertionError, as `close` does.
        """
        for status in ("running", "stopping"):
            for row in self.call("list_background_tasks", status=status).structured["tasks"]:
                self.call("end_background_task", task_id=row["task_id"], signal="SIGKILL")
        for waiting in (self.unasked, self.notifications):
            while not waiting.empty():
                waiting.get()
        assert self.problems == [], "\n".join(self.problems)
        assert os.fstat(self._stderr.fileno()).st_size == 0, self.stderr_text()

    def close(self) -> int:
        """End the server's input; return its exit status, having checked what it wrote."""
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass  # it has ended before
        status = self.process.wait(DEADLINE_S)
        self._reader.join(DEADLINE_S)
        stderr_text = "" if self._stderr_seen else self.stderr_text()
        self._stderr.close()
        assert self.problems == [], "\n".join(self.problems)
        assert stderr_text == ""
        return status

    def stderr_text(self) -> str:
        """Return what the server wrote to stderr so far; then `close` accepts it."""
        self._stderr_seen = True
        self._stderr.seek(0)
        return self._stderr.read().decode()

    # ------------------------------------------------ inside

    def _enveloped(self, params: dict | None) -> dict:
        params = dict(params or {})
        if self.is_modern:
            params["_meta"] = {
                META + "protocolVersion": MODERN_VERSION,
                META + "clientInfo": {"name": "tests", "version": "1"},
                META + "clientCapabilities": {},
                **params.get("_meta", {}),
            }
        return params

    def _read(self) -> None:
        with self.process.stdout as lines:
            for line in lines:
                assert self.reads.wait(DEADLINE_S)
                for message in self._check(line):
                    self._sort(message)
        with self._lock:
            for answers in self._answers.values():
                answers.put(None)

    def _check(self, line: bytes) -> list[dict]:
        """Return the messages in a line; what is wrong with them goes to `problems`."""
        try:
            messages, problems = self._transcript.read(line)
        except Exception:  # or the test would wait for an answer, and nobody would know why
            messages, problems = [], [traceback.format_exc()]
        self.problems += problems
        return messages

    def _sort(self, message: dict) -> None:
        if "method" in message:
            self.notifications.put(message)
            return
        id = message.get("id")
        with self._lock:
            answers = self._answers.get(id) if isinstance(id, (str, int)) else None
        (self.unasked if answers is None else answers).put(message)
