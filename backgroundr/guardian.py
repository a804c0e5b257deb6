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
from .proctable import MarkedTree, hide_process_posix, kill_group, now_ticks, survey_posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Collection, Dict, Optional, Set

# Between SIGTERM and SIGKILL, when the server is gone.
GUARDIAN_GRACE_S = 1.0

# What a list of processes shows of it: its name, and the last word of its command line. Not
# the words by which people, and commands, end every server or every Python at once.
_NAME = "task-guardian"
_TITLE = "guardian of background tasks"
# For how long it is waited for at the very end.
_PATIENCE_S = 3.0

_HAS_PROC = os.path.exists("/proc/self/stat")

# A line in its pipe: those who are left had their grace.
_NO_GRACE = b"!\n"

# What it is made of, in the order in which each imports the others. All is run as one module.
_PARTS = ("marks", "proctable", "ending", "guardian")
# How the line begins that stands above each module where all are joined into one file.
PART_MARK = "# backgroundr/"

# It gets its text, of a length that is told, through the pipe: these four modules, as they were
# read when the server began. Its own files may be gone or changed by the time that it is started,
# and a command line that named them would not tell what is running.
_LOADER = """
import os, sys
text = b""
while len(text) < int(sys.argv[1]):
    text += os.read(0, int(sys.argv[1]) - len(text)) or sys.exit()
exec(text)
"""
_PROGRAM = """
from __future__ import annotations
module = type(sys)("backgroundr")
module.__package__ = module.__name__
for name, source in %r:
    exec(compile(source, name + ".py", "exec"), vars(module))
    sys.modules[module.__name__ + "." + name] = module
module.guard(%d, %d, int(sys.argv[2]))
"""


def guardian_program(base_mark: int) -> Optional[bytes]:
    """Return the text of the guardian of a manager; None where the sources are not at hand.

    To be called before anything is started, and early: by the time that a guardian is started,
    the package may have been replaced by another version, or removed.
    """
    try:
        joined = _parts_of(_source_of(__name__))
        package = __name__.rpartition(".")[0]
        parts = [(one, joined.get(one) or _source_of(package + "." + one)) for one in _PARTS]
    except (KeyError, AttributeError, OSError):
        return None
    return (_PROGRAM % (parts, base_mark, now_ticks())).encode()


def _source_of(name: str) -> bytes:
    """Return the source of a module that is loaded, wherever it came from."""
    module: Any = sys.modules[name]
    source: bytes = module.__loader__.get_data(module.__file__)
    return source


def _parts_of(source: bytes) -> Dict[str, bytes]:
    """Return the modules that are joined in a file, by name; none where it is one of them."""
    parts = {}
    for part in source.split(("\n" + PART_MARK).encode())[1:]:
        name, _, text = part.partition(b".py\n")
        parts[name.decode()] = text
    return parts


class Guardian:
    """A guardian for what one manager starts, and this process's end of its pipe."""

    def __init__(self, program: bytes) -> None:
        """Start the process; it need not be waited for. Raises OSError.

        program: of `guardian_program`.
        """
        import subprocess

        # A null device of our own: Popen leaks its when it fails for want of descriptors
        # (Python 3.8 to 3.10).
        null = os.open(os.devnull, os.O_WRONLY)
        try:
            reading, self._pipe = os.pipe()
        except OSError:
            os.close(null)
            raise
        # Told, for by the time that it could ask, its parent may be another.
        size, server = str(len(program)), str(os.getpid())
        # The mask is inherited, so that no signal ends it, from its first instant on.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            # Isolated, without site-packages, leaving no bytecode behind.
            self._popen = subprocess.Popen(
                [sys.executable, "-I", "-S", "-B", "-c", _LOADER, size, server, _TITLE],
                stdin=reading,
                stdout=null,
                stderr=null,
                cwd="/",
                start_new_session=True,
            )
        except BaseException:
            os.close(self._pipe)
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            os.close(reading)
            os.close(null)
        try:
            with open(self._pipe, "wb", closefd=False) as file:
                file.write(program)
        except BrokenPipeError:
            pass  # somebody has killed it already
        os.set_blocking(self._pipe, False)

    def is_alive(self) -> bool:
        """Whether it is there, and goes on if it was stopped; somebody may have killed it."""
        poll = select.poll()
        poll.register(self._pipe, 0)
        if self._popen.poll() is not None or poll.poll(0):  # POLLERR: nobody has the other end
            return False
        self._signal(signal.SIGCONT)
        return True

    def watch(self, pid: int) -> None:
        """Tell it of a command, whose group it signals where no mark can be read back."""
        if not _HAS_PROC:  # else marks tell in a surer way, and it need not wake
            self._write(b"+%d\n" % pid)

    def unwatch(self, pid: int) -> None:
        """Tell it that the pid of a command is about to be free for others."""
        if not _HAS_PROC:
            self._write(b"-%d\n" % pid)

    def release(self) -> None:
        """Have it go, for nothing is left to end."""
        self._signal(signal.SIGKILL)
        self._wait_for_end()

    def take_over(self) -> None:
        """Have it try for another second to kill who is left, then go."""
        self._signal(signal.SIGCONT)
        self._write(_NO_GRACE)
        self._wait_for_end()

    def _wait_for_end(self) -> None:
        import subprocess

        os.close(self._pipe)
        try:
            self._popen.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:  # somebody has stopped it again
            self._signal(signal.SIGKILL)
            self._popen.wait()

    def _signal(self, number: int) -> None:
        if self._popen.poll() is None:  # else, until Python 3.9, its pid could be a stranger's
            try:
                self._popen.send_signal(number)
            except (ProcessLookupError, PermissionError):
                pass  # gone, or a host program has changed its user since

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
        self.orphaned_ticks = 0
        self.grace_s = GUARDIAN_GRACE_S

    def note(self, line: bytes) -> None:
        """Take a line of the guardian's pipe, without its end."""
        kind, number = line[:1], line[1:]
        if kind == _NO_GRACE[:1]:
            self.grace_s = 0
        elif number.isdigit():
            (self._groups.add if kind == b"+" else self._groups.discard)(int(number))

    def _signal_groups(self, number: int) -> bool:
        # In the instant after the server is gone. Until then the numbers were taken, by its
        # children, and no system gives them out again so soon.
        for group in self._groups:
            kill_group(group, number)
        return True

    def groups(self) -> Collection[int]:
        return self._groups

    def owns_groups(self, started: int) -> bool:
        return started <= self.orphaned_ticks


def guard(base_mark: int, started_ticks: int, server: int) -> None:
    """Be the guardian: wait until the server is gone, then end what it left; return.

    base_mark: of the server's manager. started_ticks: a moment before it started anything.
    server: its pid, our parent's while it lives. stdin: the pipe from `Guardian`.
    """
    try:
        with open("/proc/self/comm", "w") as comm:
            comm.write(_NAME)
    except OSError:
        pass  # not Linux, or nothing is mounted there
    hide_process_posix()  # or a command could hold the pipe open
    leftovers = _Leftovers(base_mark, started_ticks)
    look_every_ms: Optional[int] = 1000
    poll = select.poll()
    poll.register(0, select.POLLIN)
    if sys.platform == "linux":
        try:
            # Other children of a host program, forked from it, can hold the pipe open.
            poll.register(os.pidfd_open(server), select.POLLIN)
            look_every_ms = None
        except (AttributeError, OSError):
            pass  # an older Python or kernel, or a sandbox that forbids it
    unread = b""
    while True:
        is_orphan = os.getppid() != server
        ready = dict(poll.poll(0 if is_orphan else look_every_ms))
        # What it has written is read to the end, even where it is gone by now.
        if 0 in ready:
            data = os.read(0, 65536)
            if not data:
                break
            *lines, unread = (unread + data).split(b"\n")
            for line in lines:
                leftovers.note(line)
        elif ready or is_orphan:
            break
    leftovers.orphaned_ticks = now_ticks()
    kill_at = time.monotonic() + leftovers.grace_s
    see_through(Ending(leftovers, signal.SIGTERM, kill_at), survey_posix)
