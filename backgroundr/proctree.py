"""The process trees of commands: what the manager asks of the system, whatever system it is.

`open_tree` starts a command so that all that comes of it can be found again and ended;
`survey` looks who is alive. How that is done is in `proctree_posix` and `proctable`, and in
`proctree_win`, of which this system needs one.
"""

from __future__ import annotations

import errno
import os
import signal
import sys

from .errors import InvalidValue, SpawnFailed
from .stdio import EMPTY, PIPE

if sys.platform == "win32":
    from .proctree_win import WindowsTree
else:
    from .guardian import Guardian, guardian_program
    from .proctable import hide_process_posix, return_freed_memory_posix, survey_posix
    from .proctree_posix import ProcessTree, native_bytes

SIGKILL = 9  # Windows has no such signal, but a way to kill
_NO_PROCESS = (errno.EAGAIN, errno.ENOMEM)
_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import (
        Any,
        Callable,
        Collection,
        Dict,
        List,
        Mapping,
        Optional,
        Protocol,
        Sequence,
        Union,
    )

    class Tree(Protocol):
        """A command and all that came of it. Every method may be called by any thread.

        pid: of the command itself. pipes: {descriptor: stream}, to be closed by whoever reads
        them. input_fd: the writing end of stdin, to be closed by whoever writes; None where it
        is empty. exit_fd: a descriptor that becomes readable when the command has exited; None
        where the system offers none, so that a thread has to sit in `wait_exit`. `members`
        come from a `survey`; each has a pid.
        """

        pid: int
        pipes: Dict[int, str]
        input_fd: Optional[int]
        exit_fd: Optional[int]

        def close_exit_fd(self) -> None:
            """Close `exit_fd`; for whoever watched it, once it has spoken."""

        def wait_exit(self) -> None:
            """Block until the command itself has exited. Its pid stays taken until `reap`."""

        def reap(self) -> int:
            """Return the exit code, -N for a death by signal N. The pid is free from then on.

            To be called when the command has exited; before that it blocks, and signals
            with it.
            """

        def signal(self, members: List[Any], number: int) -> None:
            """Send a signal to the command's group and to `members`, as found just before."""

        def signal_strays(self, members: List[Any], number: int) -> bool:
            """Send the signal to those that `signal`, or a former `signal_strays`, missed.

            Not to processes younger than the last signalling: one that handled the signal
            started them, to clean up, and that is what the grace is for. Returns True when
            any was signalled; they may have forked meanwhile.
            """

        def shares_timer_slack(self) -> None:
            """Take note that from now on another tree has the same timer slack (see `marks`)."""

        def kill(self, members: List[Any]) -> None:
            """Send SIGKILL to the group and to `members`."""

        def discard(self) -> None:
            """End a tree that nobody has begun to watch; return when nobody is left of it."""


def open_tree(
    argv: List[str],
    cwd: str,
    env: Mapping[str, str],
    mark: int,
    alone: bool = False,
    stdin: str = EMPTY,
    command: str = "",
) -> Tree:
    """Start a program with a pipe each for stdout and stderr, or on a terminal.

    argv: program and arguments. command: what a failure calls them.
    cwd: an absolute path. env: entries added to this process's own. mark: of `tree_mark`.
    alone: this process starts nothing else meanwhile, so that the command can be marked by
    way of this process's own limits. stdin: EMPTY, PIPE, or TERMINAL: then all three are one
    terminal, its controlling one, and what it prints is all stdout. (Not on Windows.)
    Raises SpawnFailed; then nothing is left running and no descriptor is left open.
    """
    try:
        if sys.platform == "win32":
            return WindowsTree(argv, cwd, env, stdin == PIPE)
        else:
            return ProcessTree(argv, cwd, env, mark, alone, stdin)
    except OSError as error:
        raise _spawn_failed(error, argv, cwd, command) from None


def survey(trees: Sequence[Any], doomed: Collection[Any] = ()) -> Dict[Any, List[Any]]:
    """Return the living processes of each tree, from one look at the system.

    trees: of `open_tree`. Each process has a `pid`. doomed: of `trees` those whose processes
    get SIGKILL on sight, for no later step could reach one that lives for a moment.
    Costs some milliseconds for 300 processes. A zombie does not count as living.
    Raises OSError when the system's table cannot be read, for want of a descriptor.
    """
    if sys.platform == "win32":
        return {tree: tree.members() for tree in trees}
    else:
        return survey_posix(trees, doomed)


def guardian_opener(base_mark: int) -> Callable[[], Any]:
    """Return a function that starts a process which ends what this one leaves, if it is killed.

    What it ends is all that carries marks of the base. To be called early: by the time that
    the function is called, the package's files may be gone. The function returns a
    `guardian.Guardian`, or None where the system does the work (Windows), and where the program
    that runs Python cannot be started a second time, for it is another program that embeds
    Python. It raises OSError for want of processes, memory or descriptors.
    """
    if sys.platform == "win32":
        return lambda: None
    else:
        program = guardian_program(base_mark)

        def open_guardian() -> Optional[Guardian]:
            if program is None or not sys.executable:
                return None
            try:
                return Guardian(program)
            except (FileNotFoundError, PermissionError):
                return None

        return open_guardian


def hide_process() -> None:
    """Keep this process's memory and descriptors from other processes of the same user.

    For the life of the process, and where the system has a way to: Linux.
    """
    if sys.platform != "win32":
        hide_process_posix()


def return_freed_memory() -> None:
    """Have this process give memory back that it does not need any more, where it is known how.

    For the life of the process.
    """
    if sys.platform != "win32":
        return_freed_memory_posix()


def shell_argv(shell: Optional[str], command: str) -> List[str]:
    """Return the program and arguments by which a shell runs a command line.

    shell: a path or a name to look up; None: /bin/sh, on Windows %COMSPEC%.
    """
    if shell is None:
        shell = os.environ.get("COMSPEC", "cmd.exe") if sys.platform == "win32" else "/bin/sh"
    name = os.path.basename(shell.replace("\\", "/")).lower()
    if name in ("cmd", "cmd.exe"):
        return [shell, "/d", "/s", "/c", command]
    if name in ("powershell", "powershell.exe", "pwsh", "pwsh.exe"):
        return [shell, "-NoProfile", "-NonInteractive", "-Command", command]
    return [shell, "-c", command]


def native(text: str) -> Union[str, bytes]:
    """Return a path as the calls of the system take it whatever the locale: bytes on POSIX.

    Raises UnicodeEncodeError for surrogates that stand for no byte.
    """
    if sys.platform == "win32":
        return text
    else:
        return native_bytes(text)


def signal_number(name: str) -> int:
    """Return the number of the signal called `name`, as "SIGTERM" or "term".

    Raises InvalidValue when this system has none of that name.
    """
    wanted = name.upper() if name.upper().startswith("SIG") else "SIG" + name.upper()
    if wanted == "SIGKILL":
        return SIGKILL
    number = getattr(signal, wanted, None)
    if not isinstance(number, signal.Signals):
        raise InvalidValue(
            "signal",
            "must be the name of a signal of this system, such as SIGTERM, SIGINT, SIGHUP or"
            " SIGKILL, not %r" % name,
        )
    return int(number)


def signal_name(number: int) -> str:
    """Return the name of a signal ("SIGTERM" for 15); "signal 40" for one without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return "signal %d" % number


def no_room(error: Exception, command: str) -> SpawnFailed:
    """Return what to tell of a command for which there is no process, thread or descriptor.

    error: an OSError, or the RuntimeError of a thread.
    """
    reason = getattr(error, "strerror", None) or str(error)
    advice = SpawnFailed.MAKE_ROOM
    if getattr(error, "errno", None) in _NO_DESCRIPTOR:
        reason += " (no room for another open file)"
        advice += (
            " A server started with a higher limit of open files (ulimit -n) has room for more."
        )
    elif isinstance(error, RuntimeError) or getattr(error, "errno", None) in _NO_PROCESS:
        reason += " (no room for another process or thread)"
        advice += (
            " A server with a higher limit of processes (ulimit -u) or memory has room for more."
        )
    return SpawnFailed(command, reason, advice)


def _spawn_failed(error: OSError, argv: List[str], cwd: str, command: str) -> SpawnFailed:
    reason = error.strerror or str(error)
    if error.errno in _NO_PROCESS + _NO_DESCRIPTOR:
        return no_room(error, command)
    if error.errno == errno.E2BIG:
        reason += " (a command line of %d characters, and its environment)" % len(command)
        advice = "Write the command to a script file and run that."
    elif error.filename is not None and os.fsdecode(error.filename) == cwd:
        reason += ": the working directory %r" % cwd
        advice = "Give a directory that exists and can be entered."
    elif command not in argv[1:]:
        reason += ": the program %r" % argv[0]
        advice = "No shell runs this command; its first word must be a program that can be run."
    else:
        reason += ": the shell %r" % argv[0]
        advice = "Start the server with --shell and the path of a shell that can be run."
    return SpawnFailed(command, reason, advice)
