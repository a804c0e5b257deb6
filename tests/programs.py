"""Small programs that the tests run as background commands, and what they need to watch them."""

from __future__ import annotations

import base64
import os
import shlex
import socket
import sys
import time

import pytest

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="uses the tools of POSIX")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

# To start a server takes as long as several tests that only ask it something. So a test shares
# it with others (or a manager, with those of its file) when it knows its tasks by id or name,
# and judges nothing but the answers about them. Not when it ends, kills, starves, floods or
# configures the server, counts its tasks, threads or memory, or listens to notifications.
# What such a test leaves running is killed behind it.
shared = pytest.mark.shared

DEADLINE_S = 20


def python(code: str) -> str:
    """Return a command line that runs `code` with this interpreter, unbuffered.

    Without the packages that are installed (-S), whose search takes longer than most programs.
    """
    if sys.platform == "win32":  # cmd.exe has no quoting that would let any code through
        text = base64.b64encode(code.encode()).decode()
        return '"%s" -S -u -c "import base64; exec(base64.b64decode(\'%s\'))"' % (
            sys.executable,
            text,
        )
    return "exec %s -S -u -c %s" % (shlex.quote(sys.executable), shlex.quote(code))


# Both streams, in this order.
OUT_AND_ERR = python(
    "import sys; print('to stdout', flush=True); print('to stderr', file=sys.stderr, flush=True)"
)
if sys.platform == "win32":
    EXIT_0 = python("pass")
    EXIT_3 = python("raise SystemExit(3)")
    HELLO = python("print('hello')")
    SLEEP = python("import time; time.sleep(600)")
    IGNORE_TERM = python("import time; print('ready'); time.sleep(600)")
else:  # a shell starts in a fraction of the time of a Python, and most tests start some
    EXIT_0 = "exit 0"
    EXIT_3 = "exit 3"
    HELLO = "echo hello"
    SLEEP = "exec sleep 600"
    # Says when the signal is ignored; without that a test could send it too early.
    IGNORE_TERM = "trap '' TERM; echo ready; exec sleep 600"
CLEAN_UP_ON_TERM = python(
    "import signal, sys, time\n"
    "def stop(*_):\n"
    "    time.sleep(0.2)\n"
    "    print('cleaned up')\n"
    "    sys.exit(7)\n"
    "signal.signal(signal.SIGTERM, stop)\n"
    "print('ready')\n"
    "time.sleep(600)"
)


def eventually(condition, what: str, pause_s: float = 0.01):
    """Return the first true value of `condition()`; fail, naming `what`, at the deadline.

    pause_s: how long to wait before it is asked again.
    """
    deadline = time.monotonic() + DEADLINE_S
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, "not in %d s: %s" % (DEADLINE_S, what)
        time.sleep(pause_s)


def is_alive(pid: int) -> bool:
    """Whether a process lives; a zombie does not. Linux."""
    try:
        with open("/proc/%d/stat" % pid, "rb") as file:
            return file.read().rsplit(b")", 1)[1].split()[0] not in (b"Z", b"X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def processes_with(*marks: str) -> list[int]:
    """Return the pids of living processes with one of `marks` in their command line. Linux."""
    wanted = [mark.encode() for mark in marks]
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/cmdline" % name, "rb") as file:
                line = file.read()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if any(mark in line for mark in wanted) and int(name) != os.getpid():
            found.append(int(name))
    return [pid for pid in found if is_alive(pid)]


def processes_in(directory: str) -> list[int]:
    """Return the pids of living processes whose working directory lies under one. Linux."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            place = os.readlink("/proc/%s/cwd" % name)
        except OSError:
            continue
        if place.startswith(os.path.join(directory, "")):
            found.append(int(name))
    return [pid for pid in found if is_alive(pid)]


def free_port() -> int:
    """Return the number of a TCP port that nobody uses."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def new_mark() -> str:
    """Return digits that `sleep` takes for a duration and that no other process has."""
    return "9%d" % int.from_bytes(os.urandom(5), "big")


def peak_memory_bytes(pid: int) -> int:
    """Return the most memory that a process ever had resident. Linux."""
    with open("/proc/%d/status" % pid) as file:
        line = next(line for line in file if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def open_descriptors() -> int:
    """Return how many descriptors this process has open. Linux."""
    return len(os.listdir("/proc/self/fd"))
