"""The guardian: a small process that ends what is left when its server was killed. POSIX.

A server that gets SIGKILL can end nothing any more. The guardian waits for the end of a pipe
that only the server holds, however the server went, and then ends every process that carries
a mark of its tasks, as `TaskManager.close` would have. It has a session of its own and none
of the server's other descriptors, blocks every signal, and takes no time of the processor
while it waits. When all tasks have been ended in order it is not needed any more, and killed.

On Windows the Job Objects do this.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time

from .ending import Ending, see_through
from .proctable import MarkedTree, kill_group, now_ticks, survey_posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Collection, Set

# Between SIGTERM and SIGKILL, when the server is gone.
GUARDIAN_GRACE_S = 1.0

# A line in its pipe: those who are left had their grace.
_NO_GRACE = b"!\n"

# The package is made anew around its folder (or its place in a zip file), so that nothing
# else is imported: not what lies around it when it is vendored, nor all of itself.
_PROGRAM = """
import sys
package = type(sys)("backgroundr")
package.__path__ = [sys.argv[1]]
sys.modules["backgroundr"] = package
from backgroundr.guardian import guard
guard(int(sys.argv[2], 16), int(sys.argv[3]))
"""


class Guardian:
    """A guardian for what one manager starts, and this process's end of its pipe."""

    def __init__(self, base_mark: int) -> None:
        """Start the process; it need not be waited for. Raises OSError."""
        import subprocess

        # Isolated, without site-packages, leaving no bytecode behind.
        argv = [sys.executable, "-I", "-S", "-B", "-c", _PROGRAM]
        argv += [os.path.dirname(os.path.abspath(__file__)), "%x" % base_mark, str(now_ticks())]
        reading, self._pipe = os.pipe()
        # The mask is inherited, so that no signal ends it, from its first instant on.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self._popen = subprocess.Popen(
                argv,
                stdin=reading,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
            )
        except OSError:
            os.close(self._pipe)
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            os.close(reading)
        os.set_blocking(self._pipe, False)
        self.pid = self._popen.pid

    def is_alive(self) -> bool:
        """Whether it is there; somebody may have killed it."""
        return self._popen.poll() is None

    def watch(self, pid: int) -> None:
        """Tell it of a command, whose group is then signalled as a whole."""
        self._write(b"+%d\n" % pid)

    def unwatch(self, pid: int) -> None:
        """Tell it that the pid of a command is about to be free for others."""
        self._write(b"-%d\n" % pid)

    def release(self) -> None:
        """Have it go, for nothing is left to end."""
        try:
            self._popen.kill()
        except PermissionError:
            pass  # a host program has changed its user since; it goes at the end of the pipe
        os.close(self._pipe)
        self._popen.wait()

    def take_over(self) -> None:
        """Have it try for another second to kill who is left, then go."""
        self._write(_NO_GRACE)
        os.close(self._pipe)
        self._popen.wait()

    def _write(self, line: bytes) -> None:
        try:
            os.write(self._pipe, line)
        except OSError:
            pass  # gone, or stopped for so long that the pipe is full; the marks remain


class _Leftovers(MarkedTree):
    """All that came of what one manager has started."""

    def __init__(self, base_mark: int, started_ticks: int) -> None:
        super().__init__(base_mark, started_ticks)
        self._groups: Set[int] = set()
        self._orphaned_ticks = 0
        self.grace_s = GUARDIAN_GRACE_S

    def note(self, line: bytes) -> None:
        """Take a line of the guardian's pipe, without its end."""
        if line[:1] == b"+":
            self._groups.add(int(line[1:]))
        elif line[:1] == b"-":
            self._groups.discard(int(line[1:]))
        else:
            self.grace_s = 0

    def signal_groups(self, number: int) -> None:
        """Signal the groups of all commands; at once when their server is gone.

        Until then the numbers were taken, by its children, and no system gives them out
        again within an instant.
        """
        self._orphaned_ticks = self._signalled_ticks = now_ticks()
        self._group_signalled = True
        for group in self._groups:
            kill_group(group, number)

    def groups(self) -> Collection[int]:
        return self._groups

    def owns_groups(self, started: int) -> bool:
        return started <= self._orphaned_ticks


def guard(base_mark: int, started_ticks: int) -> None:
    """Be the guardian: wait until the server is gone, then end what it left; return.

    base_mark: of the server's manager. started_ticks: when it began to start anything.
    stdin: the pipe from `Guardian`.
    """
    leftovers = _Leftovers(base_mark, started_ticks)
    poll = select.poll()
    poll.register(0, select.POLLIN)
    if sys.platform == "linux" and hasattr(os, "pidfd_open"):
        # Other children of a host program, forked from it, can hold the pipe open.
        poll.register(os.pidfd_open(os.getppid()), select.POLLIN)
    unread = b""
    while 0 in dict(poll.poll()):
        data = os.read(0, 65536)
        if not data:
            break
        *lines, unread = (unread + data).split(b"\n")
        for line in lines:
            leftovers.note(line)
    leftovers.signal_groups(signal.SIGTERM)
    kill_at = time.monotonic() + leftovers.grace_s
    see_through(Ending(leftovers, signal.SIGTERM, kill_at), survey_posix)
