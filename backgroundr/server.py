"""The MCP server on this process's stdin and stdout: builds it all, runs it, ends it in order."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading

from .jsonrpc import MAX_MESSAGE_BYTES
from .manager import TaskManager
from .service import UNREAD_S, Service, poll_fd
from .version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any, Optional

_STOP_SIGNALS = [
    getattr(signal, name)
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT")
    if hasattr(signal, name)
]
# After a signal, what is still to be answered has been taken by then, or is given up.
_DRAIN_S = 0.3
# What a task is left to end in when a client that wants the server gone signals again.
_IMPATIENT_GRACE_S = 0.2
_IMPATIENCE_POLL_S = 0.02
# Enough for every thread here, and small enough for hundreds of them.
_THREAD_STACK_BYTES = 256 * 1024


def run_stdio_server(max_message_bytes: int = MAX_MESSAGE_BYTES, **options: Any) -> int:
    """Serve MCP on stdin and stdout until the client closes them or a signal says stop.

    max_message_bytes: a longer line is answered with an error and skipped, at no cost of
    memory. options: those of `TaskManager`, but on_change and owns_process. Takes the process
    over: descriptors 0 and 1, signals, thread stack size. Returns the exit status: 0, or 128+N
    after signal N. Every task has been ended by then.
    """
    if sys.stdin is not None and sys.stdin.isatty():
        _say(
            "backgroundr %s: an MCP server, made to be started by an MCP client; it reads"
            " JSON-RPC from here. Ctrl-D or Ctrl-C stops it; --demo shows it at work." % __version__
        )
    _leave_pid_1()
    _import_from_elsewhere()
    threading.stack_size(_THREAD_STACK_BYTES)
    stdio = _Stdio()
    _end_a_thread()
    with TaskManager(owns_process=True, **options) as manager:
        service = Service(manager, stdio, _report_exception, max_message_bytes=max_message_bytes)
        service.connection.serve()
        # The tasks first: a call that waits for one is answered by its end.
        _close_patiently(manager, stdio)
        service.finish()
        _drain_patiently(service, stdio)
    return 0 if stdio.signal is None else 128 + stdio.signal


def _leave_pid_1() -> None:
    """Where this is the first process of a container, go on as its second.

    The first one inherits every orphan of the container, and has to reap them all
    (pid_namespaces(7)); that is what remains of it. It hands signals on, and ends as the
    server ends.
    """
    if sys.platform == "win32" or os.getpid() != 1:
        return
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    server = os.fork()
    if server == 0:
        return

    def hand_on(number: int, frame: Optional[FrameType]) -> None:
        os.kill(server, number)

    for number in _STOP_SIGNALS:
        signal.signal(number, hand_on)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1):
        os.dup2(null, stream)
    pid = status = 0
    while pid != server:
        pid, status = os.wait()
    os._exit(128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status))


def _import_from_elsewhere() -> None:
    """Keep what is imported from now on from being found in the current directory.

    `python -m` looks there first, and it is some project's, whose select.py is not Python's.
    """
    try:
        here = ("", os.getcwd())
    except OSError:
        here = ("", "")
    sys.path[:] = [path for path in sys.path if path not in here]


def _end_a_thread() -> None:
    """Have the system load what it needs when a thread ends, while there are descriptors.

    Python 3.8 aborts the process otherwise: "libgcc_s.so.1 must be installed". The loading
    goes on after `join`, so not before descriptors 0 to 2 are in their places.
    """
    thread = threading.Thread(target=int)
    try:
        thread.start()
    except RuntimeError:
        return  # no thread is free; who needs one will say so
    thread.join()


def _close_patiently(manager: TaskManager, stdio: _Stdio) -> None:
    """Close the manager; with a shorter grace as soon as a further signal asks for haste.

    Claude Code for one sends SIGINT, SIGTERM after 0.1 s, and SIGKILL some 0.5 s later.
    """
    expected = 0 if stdio.signal is None else 1
    closing = threading.Thread(target=manager.close, name="backgroundr-close")
    try:
        closing.start()
    except RuntimeError:  # no thread is free, until the tasks have been ended
        manager.close(_IMPATIENT_GRACE_S)
        return
    while closing.is_alive():
        closing.join(_IMPATIENCE_POLL_S)
        if stdio.signals > expected:
            manager.close(_IMPATIENT_GRACE_S)


def _drain_patiently(service: Service, stdio: _Stdio) -> None:
    """Let the client have what was answered, for as long as it reads and nobody signals."""
    if stdio.signal is not None or stdio.unread:
        service.connection.drain(_DRAIN_S)
        return
    late_bytes = -1
    while service.writer.late_bytes > late_bytes and stdio.signal is None:
        late_bytes = service.writer.late_bytes
        if service.connection.drain(UNREAD_S):
            return


class _Stdio:
    """The protocol's own duplicates of stdin and stdout, and the signals that end reading.

    In the rest of the process descriptor 0 is the null device and 1 is stderr, so that no
    print and no child can touch the protocol. signal: the number of the first one that came,
    or None; signals: how many came. stopped: `stop` was called. unread: the client has closed
    its side, and does not read.
    """

    def __init__(self) -> None:
        self.signal: Optional[int] = None
        self.signals = 0
        self.stopped = False
        self.unread = False
        null = os.open(os.devnull, os.O_RDWR)
        while null <= 2:  # a parent may have closed one of the three; it must not be reused
            null = os.open(os.devnull, os.O_RDWR)
        self._in = os.dup(0)
        self._out = os.dup(1)
        os.dup2(null, 0)
        os.dup2(2, 1)
        os.close(null)
        if sys.platform == "win32":
            import msvcrt

            msvcrt.setmode(self._in, os.O_BINARY)
            msvcrt.setmode(self._out, os.O_BINARY)
            # A read cannot be interrupted there, so Ctrl-C ends the process at once; the
            # Job Objects end the tasks.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            return
        self._wake, self._waker = os.pipe()
        os.set_blocking(self._waker, False)
        self._input = select.poll()
        self._input.register(self._in, select.POLLIN)
        self._input.register(self._wake, select.POLLIN)
        self._output = select.poll()
        self._output.register(self._out, select.POLLOUT)
        # A signal may be delivered to any thread, and would then not interrupt the main one,
        # where handlers run (after SIGSTOP and SIGCONT it really is).
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        for number in _STOP_SIGNALS:
            signal.signal(number, self._on_signal)
        # Ignored by a parent, it would make every child's exit code read as 0.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # A parent may have blocked any; the commands would inherit that and not hear a SIGTERM.
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def _on_signal(self, number: int, frame: Optional[FrameType]) -> None:
        self.signal = self.signal or number
        self.signals += 1
        self.stop()

    def stop(self) -> None:
        """Have `read` return the end of the input. For any thread and for signal handlers."""
        self.stopped = True
        if sys.platform == "win32":
            os._exit(0)  # the reading thread cannot be woken; the Job Objects end the tasks
        try:
            os.write(self._waker, b"x")
        except BlockingIOError:
            pass  # it has been told often enough

    def given_up(self, waited_s: float) -> bool:
        """Whether to end while the client does not read its answers, for `waited_s` by now.

        So it is after `stop`, and some time after the client has closed its side of stdin.
        """
        if self.stopped or sys.platform == "win32":
            return self.stopped
        if waited_s > UNREAD_S and poll_fd(self._in, select.POLLHUP, 0) & select.POLLHUP:
            self.unread = True
        return self.unread

    def read(self, size: int) -> bytes:
        """Return some bytes of stdin, b"" at its end or after `stop`; blocks meanwhile."""
        while True:
            if sys.platform != "win32" and self._wake in dict(self._input.poll()):
                return b""
            try:
                return os.read(self._in, size)
            except BlockingIOError:
                continue  # a parent may leave its end of a socket non-blocking
            except OSError:
                return b""

    def write(self, data: bytes) -> int:
        """Write some of `data` to stdout; return how many bytes. Raises OSError when broken."""
        while True:
            try:
                return os.write(self._out, data)
            except BlockingIOError:
                if sys.platform != "win32":
                    poll_fd(self._out, select.POLLOUT, None)

    def writable(self) -> bool:
        """Whether stdout takes a small write, or fails, without blocking. For one thread at a
        time."""
        if sys.platform == "win32":
            return False  # pipes cannot be asked; the writer's thread does all
        return bool(self._output.poll(0))


def _report_exception() -> None:
    """Tell stderr of a defect, for whoever reads the client's log."""
    try:
        import traceback
    except (ImportError, OSError):  # no descriptor is free
        _say("backgroundr: %r" % sys.exc_info()[1])
    else:
        _say(traceback.format_exc().rstrip())


def _say(text: str) -> None:
    """Write lines to stderr, unless that would block or nobody has it."""
    try:
        if sys.platform == "win32" or poll_fd(2, select.POLLOUT, 0):
            os.write(2, text.encode("utf-8", "replace") + b"\n")
    except OSError:
        pass
