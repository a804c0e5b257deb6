"""Start a command so that all that comes of it can be found again and ended. POSIX.

How it is found again stands in `proctable`. The command itself is waited for without being
reaped, so its pid, and with it its group and session, stay taken until `reap`.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading

from .ending import Ending, see_through
from .marks import ENV_NAME, mark_path
from .proctable import (
    MarkedTree,
    argv_with,
    begin_timer_slack,
    end_timer_slack,
    kill_group,
    limits_with,
    now_ticks,
    open_pidfd,
    set_limits,
    survey_posix,
)
from .stdio import FOREIGN_SIZE, TERMINAL, TERMINAL_ENVIRONMENT, Stdio

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Collection, Dict, List, Mapping, Optional

    from .proctable import Member

# So many descriptors must be free beside those of a task, or it is not started: a task that
# could not be looked at could not be ended with all that came of it.
SPARE_DESCRIPTORS = 8


class ProcessTree(MarkedTree):
    """A command and all that came of it, on POSIX: a `proctree.Tree`, which has the contract.

    pipes are non-blocking.
    """

    pid: int

    def __init__(
        self,
        argv: List[str],
        cwd: str,
        env: Mapping[str, str],
        mark: int,
        alone: bool,
        stdin: str,
    ) -> None:
        super().__init__(mark, now_ticks())
        # _lock owns _returncode and so the answer to "is the pid still ours?". It is held
        # across the kill and across the reap, so that neither can fall into the other.
        self._lock = threading.Lock()
        self._returncode: Optional[int] = None
        self._reaped_ticks = 0
        stdio = Stdio(stdin)
        spare: List[int] = []
        try:
            for _ in range(SPARE_DESCRIPTORS):
                spare.append(os.dup(stdio.child_stdin))
            argv = stdio.argv(argv)
            # The command is born with its mark. Where other threads may fork too, this
            # process's own limits must not carry it, or their children would.
            limits = limits_with(mark)
            if not alone:
                argv = argv_with(limits, argv)
            own_limits = set_limits(0, limits) if alone else {}
            slack = begin_timer_slack(mark)  # of this thread alone
            try:
                # Bytes throughout: in a C locale the text forms refuse what is not ASCII.
                self._popen = subprocess.Popen(
                    [native_bytes(arg) for arg in argv],
                    stdin=stdio.child_stdin,
                    stdout=stdio.child_stdout,
                    stderr=stdio.child_stderr,
                    cwd=native_bytes(cwd),
                    env=_environment(env, mark, stdin == TERMINAL),
                    start_new_session=True,
                )
            finally:
                set_limits(0, own_limits)
                if slack:
                    end_timer_slack()
        except BaseException:
            stdio.close()
            raise
        finally:
            stdio.close_child()
            for fd in spare:
                os.close(fd)
        self.pid = self._popen.pid
        if not alone:
            set_limits(self.pid, limits)  # late, but better than never
        self._stdio = stdio
        self.pipes = stdio.pipes
        self.input_fd = stdio.input_fd
        self._kqueue: Any = None
        self.exit_fd: Optional[int] = None
        self.exit_fd = self._open_exit_fd()

    def _open_exit_fd(self) -> Optional[int]:
        try:
            if sys.platform == "linux":
                return open_pidfd(self.pid)
            elif hasattr(select, "kqueue"):
                self._kqueue = select.kqueue()
                event = select.kevent(
                    self.pid,
                    select.KQ_FILTER_PROC,
                    select.KQ_EV_ADD | select.KQ_EV_ONESHOT,
                    select.KQ_NOTE_EXIT,
                )
                self._kqueue.control([event], 0)
                return int(self._kqueue.fileno())
        except OSError:  # an older kernel, no descriptor left, or (kqueue) already over
            self.close_exit_fd()
        return None

    def close_exit_fd(self) -> None:
        """Close `exit_fd`; for whoever watched it, once it has spoken."""
        if self._kqueue is not None:
            self._kqueue.close()
            self._kqueue = None
        elif self.exit_fd is not None:
            os.close(self.exit_fd)
        self.exit_fd = None
        with self._lock:
            self._look_at_child()  # now, before its number could be given out again

    def wait_exit(self) -> None:
        """Block until the command itself has exited. Its pid stays taken until `reap`."""
        if hasattr(os, "waitid"):
            try:
                os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
            except ChildProcessError:
                with self._lock:
                    self._look_at_child()
        else:
            # macOS before Python 3.13, and only when kqueue gave no descriptor. This reaps,
            # so that until `reap` notes it a signal could meet a reused pid.
            self._popen.wait()

    def is_running(self) -> bool:
        """Whether the command itself has not exited yet."""
        with self._lock:
            return self._look_at_child() is True

    def reap(self) -> int:
        """Return the exit code, -N for a death by signal N. The pid is free from then on.

        To be called when the command has exited; before that it blocks, and signals with it.
        """
        with self._lock:
            if self._returncode is None:
                self._returncode = self._popen.wait()
                self._reaped_ticks = now_ticks()
            return self._returncode

    def _signal_groups(self, number: int) -> bool:
        # All of the group gets it in one moment: a shell that outlived its child by an
        # instant would go on to its next command.
        with self._lock:
            if self._pid_is_taken():
                kill_group(self.pid, number)
                return True
            return False

    def kill(self, members: List[Member]) -> None:
        """Send SIGKILL to the group and to `members`."""
        with self._lock:
            if self._pid_is_taken():
                kill_group(self.pid, signal.SIGKILL)
        super().kill(members)

    def discard(self) -> None:
        """End a tree that nobody has begun to watch; return when nobody is left of it."""
        self.kill([])
        see_through(Ending(self, signal.SIGKILL, 0), survey_posix)
        self.reap()
        self.close_exit_fd()
        self._stdio.close()

    def groups(self) -> Collection[int]:
        """Return the command's own group."""
        return (self.pid,)

    def owns_groups(self, started: int) -> bool:
        """Whether the command's group is still its own, for a process that started then.

        Until the reap nobody else can have that number. A stranger who got it later started
        later, perhaps in the same tick.
        """
        with self._lock:
            return self._pid_is_taken() or started < self._reaped_ticks

    def _pid_is_taken(self) -> bool:
        return self._look_at_child() is not None

    def _look_at_child(self) -> Optional[bool]:
        """Return True while the command runs, False when it is over, None when it is reaped.

        With the lock held. In a host program that ignores SIGCHLD, or waits for children that
        are not its own, it may be reaped without our knowing; from then on the number says
        nothing, and what it exited with, nobody can tell.
        """
        if self._returncode is not None:
            return None
        if not hasattr(os, "waitid"):  # macOS before Python 3.13: what ps said has to do
            return False
        try:
            options = os.WEXITED | os.WNOHANG | os.WNOWAIT
            return os.waitid(os.P_PID, self.pid, options) is None
        except ChildProcessError:
            self._popen.poll()  # has it notice too
            self._returncode = 0
            return None


def native_bytes(text: str) -> bytes:
    """Return text as the system takes it whatever the locale.

    Raises UnicodeEncodeError for surrogates that stand for no byte.
    """
    # os.fsencode would refuse what a C locale has no characters for.
    return text.encode("utf-8", "surrogateescape")


def _environment(added: Mapping[str, str], mark: int, has_terminal: bool) -> Dict[bytes, bytes]:
    env = dict(os.environb)
    if has_terminal:
        env.update(TERMINAL_ENVIRONMENT)
        for foreign in FOREIGN_SIZE:
            env.pop(foreign, None)
    for name, value in added.items():
        env[native_bytes(name)] = native_bytes(value)
    entry = native_bytes(ENV_NAME)
    env[entry] = mark_path(os.environb.get(entry), mark)
    return env
