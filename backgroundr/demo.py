"""The demonstration: plays an MCP client against a real server process, for a person to read.

It is also the check that a machine can run backgroundr: it fails, and says what is wrong,
where something does not work.
"""

from __future__ import annotations

import errno
import json
import os
import queue
import re
import subprocess
import sys
import threading
import time

from .version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional, Set, Tuple

_PROTOCOL_VERSION = "2025-11-25"
_ANSWER_TIMEOUT_S = 15
_QUIT_TIMEOUT_S = 5
_WIDTH = 92

# What the first command runs: real work, some seconds of it, a line at a time.
_BUILD_SCRIPT = """\
import ast, importlib.util, time

for name in "json.decoder queue shlex subprocess tarfile threading typing zipfile".split():
    time.sleep(0.7)
    with open(importlib.util.find_spec(name).origin, "rb") as file:
        tree = ast.parse(file.read())
    print("parsed", name, "-", sum(1 for _ in ast.walk(tree)), "nodes", flush=True)
print("build finished, no error", flush=True)
"""


class _DemoFailed(Exception):
    """Something did not work; the message is for the person who watches."""


def run_demo() -> int:
    """Show a server at work, on stdout; return 0, or 1 when something did not work."""
    import tempfile

    say = _Narrator()
    say.title("backgroundr %s: a client and a server, here, for some seconds" % __version__)
    try:
        with tempfile.TemporaryDirectory(prefix="backgroundr-demo-") as directory:
            client = _Client()
            try:
                pids = _play(client, say, directory)
                _leave(client, say, pids)
            finally:
                client.quit()
    except BrokenPipeError:  # whoever read the demonstration has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except (_DemoFailed, OSError) as error:
        say.failure(str(error))
        return 1
    except KeyboardInterrupt:
        say.failure("interrupted; what was started has been ended")
        return 130
    say.success("All is well: every step worked, and nothing was left running.")
    return 0


def _play(client: _Client, say: _Narrator, directory: str) -> Set[int]:
    """Show the steps; return the pids of the commands that were started."""
    python = os.path.basename(sys.executable)
    with open(os.path.join(directory, "build.py"), "w", encoding="ascii") as file:
        file.write(_BUILD_SCRIPT)

    say.step("The handshake, as any MCP client does it")
    hello = client.request(
        "initialize",
        {
            "protocolVersion": _PROTOCOL_VERSION,
            "capabilities": {},
            "clientInfo": {"name": "demo", "version": __version__},
        },
    )
    client.notify("notifications/initialized")
    tools = client.request("tools/list", {})["tools"]
    say.sent("initialize", "protocol %s" % _PROTOCOL_VERSION)
    say.received(
        "%s %s, protocol %s"
        % (hello["serverInfo"]["name"], hello["serverInfo"]["version"], hello["protocolVersion"])
    )
    say.received("tools: " + ", ".join(tool["name"] for tool in tools))

    say.step("A command that takes some seconds")
    build = client.call(
        say,
        "run_background_task",
        {"name": "build", "command": python + " build.py", "cwd": directory},
    )

    say.step("Meanwhile a web server: the call returns when it is up")
    command = python + " -u -m http.server 0 --bind 127.0.0.1"
    server = client.call(
        say,
        "run_background_task",
        {"name": "web", "command": command, "cwd": directory, "until_output": ["Serving HTTP"]},
    )
    match = re.search(r"port (\d+)", server["matched_line"] or "")
    if match is None:
        raise _DemoFailed("the web server printed %(output)r" % server)
    port = int(match.group(1))
    try:
        say.note("GET http://127.0.0.1:%d/ answers %s" % (port, _get(port)))
        has_network = True
    except OSError as error:
        if error.errno != errno.ENETUNREACH:  # a sandbox may be without even the loopback
            raise
        say.note("its page cannot be fetched here: %s" % error.strerror)
        has_network = False

    say.step("A program that asks is answered, one call a line")
    command = python + " -u -i -q"
    repl = client.call(
        say,
        "run_background_task",
        {"name": "repl", "command": command, "interactive": True, "until_output": [">>> "]},
    )
    answer = client.call(
        say, "send_task_input", {"task_id": "repl", "input": "6 * 7", "until_output": [">>> "]}
    )
    _check("42" in answer["output"], "the program answered %(output)r" % answer)

    say.step("The first one is waited for: one call, which returns the moment that it ends")
    status = client.call(say, "wait_for_task", {"task_id": "build"})
    _check(
        status["status"] == "completed" and status["exit_code"] == 0,
        "the command ended as %(status)s, exit code %(exit_code)s: %(output)s" % status,
    )

    say.step("The web server is ended, with all that it started")
    ended = client.call(say, "end_background_task", {"task_id": "web"})
    _check(ended["status"] == "terminated", "the web server is still %(status)s" % ended)
    if has_network:
        _check(_get(port) is None, "port %d is still served" % port)
        say.note("port %d is free again" % port)

    say.step("All are remembered until the server exits")
    tasks = client.call(say, "list_background_tasks", {})["tasks"]
    _check(
        [task["status"] for task in tasks] == ["completed", "terminated", "running"], "%s" % tasks
    )
    return {build["pid"], server["pid"], repl["pid"]}


def _leave(client: _Client, say: _Narrator, pids: Set[int]) -> None:
    say.step("Goodbye: one task still runs, and the client closes the connection")
    seconds = client.close()
    say.note("the server has exited, %.1f s after its input ended" % seconds)
    left = [pid for pid in sorted(pids) if _is_alive(pid)]
    _check(not left, "still running: pid %s" % ", ".join(map(str, left)))


def _check(condition: bool, problem: str) -> None:
    if not condition:
        raise _DemoFailed(problem)


def _this_program() -> Tuple[List[str], List[str]]:
    """Return the arguments by which Python runs this program, and where it is to look for it."""
    path = os.path.abspath(__file__)
    if not __name__.endswith(".demo"):  # all of it is in this file
        return ["-I", path], []
    for _ in __name__.split("."):
        path = os.path.dirname(path)
    return ["-m", __name__.rpartition(".")[0]], [path]


def _environment_with(name: str, first: List[str]) -> str:
    """Return a variable that is a list of paths, with others before those that are there."""
    return os.pathsep.join(first + list(filter(None, [os.environ.get(name)])))


def _get(port: int) -> Optional[str]:
    """Return the status line of a request to a local web server; None when nobody listens."""
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/")
        response = connection.getresponse()
        return "%d %s" % (response.status, response.reason)
    except ConnectionRefusedError:
        return None
    finally:
        connection.close()


def _is_alive(pid: int) -> bool:
    if sys.platform == "win32":
        return False  # the end of the server is the end of its Job Objects
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return False  # somebody else's: the number is in use again
    return True


class _Narrator:
    """Prints what happens; in color and as wide as it is for a terminal, plain otherwise."""

    def __init__(self) -> None:
        import shutil

        is_terminal = sys.stdout.isatty()
        # https://no-color.org
        plain = "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
        self._color = is_terminal and not plain
        self._width = min(_WIDTH, shutil.get_terminal_size().columns - 1) if is_terminal else _WIDTH
        self._steps = 0

    def title(self, text: str) -> None:
        self._print("", text, "1")

    def step(self, text: str) -> None:
        self._steps += 1
        print()
        self._print("%d. " % self._steps, text, "1;36")

    def sent(self, what: str, details: str) -> None:
        self._print("   -> ", "%s  %s" % (what, details), "33")

    def received(self, text: str) -> None:
        for line in text.split("\n"):
            self._print("   <- ", line, "32")

    def note(self, text: str) -> None:
        self._print("      ", text, None)

    def success(self, text: str) -> None:
        print()
        self._print("", text, "1;32")

    def failure(self, text: str) -> None:
        print()
        self._print("This did not work: ", text, "1;31")

    def _print(self, prefix: str, text: str, style: Optional[str]) -> None:
        import textwrap

        # A terminal of the C locale cannot show every character that a command prints.
        encoding = sys.stdout.encoding or "ascii"
        text = text.encode(encoding, "replace").decode(encoding)
        lines = textwrap.wrap(text, max(20, self._width - len(prefix)), break_on_hyphens=False) or [
            ""
        ]
        for number, line in enumerate(lines):
            line = (prefix if number == 0 else " " * len(prefix)) + line
            if self._color and style is not None:
                line = "\x1b[%sm%s\x1b[0m" % (style, line)
            print(line.rstrip(), flush=True)


class _Client:
    """A small MCP client of one server process, which it starts."""

    def __init__(self) -> None:
        program, places = _this_program()
        self._server = subprocess.Popen(
            [sys.executable, *program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Ctrl-C is for the demo, which then closes the server's input.
            start_new_session=True,
            # The commands of the demo name the interpreter without its directory.
            env={
                **os.environ,
                "PYTHONPATH": _environment_with("PYTHONPATH", places),
                "PATH": _environment_with("PATH", [os.path.dirname(sys.executable)]),
            },
        )
        self._lines: queue.Queue[bytes] = queue.Queue()
        self._last_id = 0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._server.stdout is not None
        with self._server.stdout as lines:
            for line in lines:
                self._lines.put(line)
        self._lines.put(b"")

    def notify(self, method: str) -> None:
        """Send a notification."""
        self._send({"jsonrpc": "2.0", "method": method})

    def request(
        self, method: str, params: Dict[str, Any], say: Optional[_Narrator] = None
    ) -> Dict[str, Any]:
        """Send a request; return its result. say: shows its progress. Raises _DemoFailed."""
        self._last_id += 1
        self._send({"jsonrpc": "2.0", "id": self._last_id, "method": method, "params": params})
        message: Dict[str, Any] = {}
        while message.get("id") != self._last_id:  # else it is a notification
            try:
                line = self._lines.get(timeout=_ANSWER_TIMEOUT_S)
            except queue.Empty:
                raise _DemoFailed("no answer to %s in %d s" % (method, _ANSWER_TIMEOUT_S)) from None
            if not line:
                raise _DemoFailed("the server ended instead of answering %s" % method)
            try:
                message = json.loads(line)
            except ValueError:
                raise _DemoFailed("the server wrote what is no JSON: %r" % line[:200]) from None
            if say is not None and message.get("method") == "notifications/progress":
                say.note(message["params"]["message"])
        if "result" not in message:
            raise _DemoFailed("%s was refused: %s" % (method, message.get("error")))
        result: Dict[str, Any] = message["result"]
        return result

    def call(self, say: _Narrator, tool: str, arguments: Dict[str, Any]) -> Dict[str, Any]:
        """Call a tool and show it; return its structured content. Raises _DemoFailed."""
        shown = ", ".join("%s: %s" % pair for pair in arguments.items())
        say.sent(tool, shown)
        result = self._call(say, tool, arguments)
        text = result["content"][0]["text"]
        if result.get("isError"):
            raise _DemoFailed("%s says: %s" % (tool, text))
        say.received(text)
        structured: Dict[str, Any] = result["structuredContent"]
        return structured

    def close(self) -> float:
        """End the server's input; return after how many seconds it was gone."""
        assert self._server.stdin is not None
        started = time.monotonic()
        self._server.stdin.close()
        try:
            status = self._server.wait(_ANSWER_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise _DemoFailed("the server does not exit at the end of its input") from None
        if status != 0:
            raise _DemoFailed("the server exited with status %d" % status)
        return time.monotonic() - started

    def quit(self) -> None:
        """End the server, if it is still there, so that it can end its tasks."""
        assert self._server.stdin is not None
        try:
            self._server.stdin.close()
        except OSError:
            pass  # it has ended
        try:
            self._server.wait(_QUIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        self._reader.join()

    def _call(self, say: _Narrator, tool: str, arguments: Dict[str, Any]) -> Dict[str, Any]:
        params = {"name": tool, "arguments": arguments, "_meta": {"progressToken": tool}}
        return self.request("tools/call", params, say)

    def _send(self, message: Dict[str, Any]) -> None:
        assert self._server.stdin is not None
        try:
            self._server.stdin.write(json.dumps(message).encode() + b"\n")
            self._server.stdin.flush()
        except OSError:
            raise _DemoFailed(
                "the server has ended, with status %s" % self._server.wait(_ANSWER_TIMEOUT_S)
            ) from None
