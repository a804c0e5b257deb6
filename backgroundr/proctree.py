"""The process trees of commands: what the manager asks of the system, whatever system it is.

`open_tree` starts a command so that all that comes of it can be found again and ended;
`survey` looks who is alive. How that is done is in `proctree_posix` and `proctable`, and in
`proctree_win`; only what is needed is imported.
"""

from __future__ import annotations

import errno
import os
import signal
import sys

from .errors import InvalidValue, SpawnFailed

if sys.platform == "win32":
    from .proctree_win import WindowsTree
else:
    from .proctable import survey_posix
    from .proctree_posix import ProcessTree, hide_process_posix, native_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Collection, Dict, List, Mapping, Optional, Protocol, Sequence, Union

    from .guardian import Guardian

    class Tree(Protocol):
        """A command and all that came of it. Every method may be called by any thread.

        pid: of the command itself. pipes: {descriptor: stream}, to be closed by whoever reads
        them. exit_fd: a descriptor that becomes readable when the command has exited; None
        where the system offers none, so that a thread has to sit in `wait_exit`. `members`
        come from a `survey`; each has a pid.
        """

        pid: int
        pipes: Dict[int, str]
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

        def signal_group(self, number: int) -> None:
            """Send a signal to the command's group at once; `signal_strays` does the rest."""

        def signal_strays(self, members: List[Any], number: int) -> bool:
            """Send the signal to those that `signal_group`, or a former `signal_strays`, missed.

            Not to processes younger than the last signalling: one that handled the signal
            started them, to clean up, and that is what the grace is for. Returns True when
            any was signalled; they may have forked meanwhile.
            """

        def kill(self, members: List[Any]) -> None:
            """Send SIGKILL to the group and to `members`."""

        def discard(self) -> None:
            """End a tree that nobody has begun to watch; return when nobody is left of it."""


def open_tree(
    argv: List[str], cwd: str, env: Mapping[str, str], mark: int, alone: bool = False
) -> Tree:
    """Start a program with stdin empty, no terminal, and a pipe each for stdout and stderr.

    argv: program and arguments; the last one is what a failure calls the command.
    cwd: an absolute path. env: entries added to this process's own. mark: of `tree_mark`.
    alone: this process starts nothing else meanwhile, so that the command can be born with
    its mark; else it gets the mark an instant later.
    Raises SpawnFailed; then nothing is left running and no descriptor is left open.
    """
    try:
        if sys.platform == "win32":
            return WindowsTree(argv, cwd, env)
        else:
            return ProcessTree(argv, cwd, env, mark, alone)
    except OSError as error:
        raise _spawn_failed(error, argv, cwd) from None


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


def open_guardian(base_mark: int) -> Optional[Guardian]:
    """Start a process that ends what carries marks of a base when this process is gone.

    Returns None where the system does that by itself (Windows), and where the program that
    runs Python cannot be started a second time, for it is another program that embeds it.
    Raises OSError for want of processes, memory or descriptors.
    """
    if sys.platform == "win32":
        return None
    else:
        if not sys.executable:
            return None
        from .guardian import Guardian

        try:
            return Guardian(base_mark)
        except (FileNotFoundError, PermissionError):
            return None


def hide_process() -> None:
    """Keep this process's memory and descriptors from other processes of the same user.

    For the life of the process, and where the system has a way to: Linux.
    """
    if sys.platform != "win32":
        hide_process_posix()


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
        return 9  # Windows has no such signal, but a way to kill
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


def _spawn_failed(error: OSError, argv: List[str], cwd: str) -> SpawnFailed:
    reason = error.strerror or str(error)
    if error.errno in (errno.EAGAIN, errno.ENOMEM):
        reason += " (no room for another process)"
        advice = SpawnFailed.MAKE_ROOM
    elif error.errno in (errno.EMFILE, errno.ENFILE):
        reason += " (no room for another open file)"
        advice = SpawnFailed.MAKE_ROOM
    elif error.errno == errno.E2BIG:
        reason += " (a command line of %d characters, and its environment)" % len(argv[-1])
        advice = "Write the command to a script file and run that."
    elif error.filename is not None and os.fsdecode(error.filename) == cwd:
        reason += ": the working directory %r" % cwd
        advice = "Give a directory that exists and can be entered."
    else:
        reason += ": the shell %r" % argv[0]
        advice = "Start the server with --shell and the path of a shell that can be run."
    return SpawnFailed(argv[-1], reason, advice)
