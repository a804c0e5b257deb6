"""The living processes of this system, and which of them belong to which tree. POSIX.

What makes a process belong to a tree:

- the group or the session of its command, which are the tree's own;
- the tree's mark (see `marks`), which a process hands on to its children without knowing. It
  stands in its environment (/proc/PID/environ), and on Linux also where even a program that
  clears or overwrites its environment keeps it: as the soft value of two resource limits
  (setrlimit(2)), which have no effect at that height;
- descent from a process found by one of these.

Where there is no /proc, `ps` gives groups and descent, and a process that left both is not
found. On Linux one gets away that clears its environment, and sets both limits anew, and
leaves the session, and loses its parents: nobody does all that by accident. Commands that
ask another program to start something (a container, a timer, a service) start none of it.

A pid is signalled only while it cannot have come to mean another process: through a pidfd,
opened first, when the process is then still the one that was found (Linux 5.3 and Python 3.9
on). Elsewhere its start time is compared just before the signal, which leaves the
microseconds between the two (on macOS, where `ps` is all there is, the milliseconds since
the survey).
"""

from __future__ import annotations

import os
import signal
import sys
import time

from .marks import ENV_NAME, base_of, is_mark, marks_in_path

if sys.platform == "linux":
    import resource

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Collection, Dict, Iterator, List, Optional, Sequence, Set, Tuple


class Member:
    """A living process of a tree.

    started: when, in ticks of `now_ticks`. in_group: it is in a group that the tree signals
    as a whole.
    """

    __slots__ = ("pid", "started", "in_group")

    def __init__(self, pid: int, started: int, in_group: bool) -> None:
        self.pid = pid
        self.started = started
        self.in_group = in_group


class MarkedTree:
    """What a survey looks for: processes that have a mark, or one of some groups.

    mark: a tree's, or a base: then whatever a manager started is in it. started_ticks: a
    moment before the first process was started. pid: of the command, None when there is no
    one command.
    """

    pid: Optional[int] = None

    def __init__(self, mark: int, started_ticks: int) -> None:
        self.mark = mark
        self.started_ticks = started_ticks
        # Who got the last signal: the groups, these processes, and when they got it.
        self._group_signalled = False
        self._signalled: Set[int] = set()
        self._signalled_ticks = 0

    def groups(self) -> Collection[int]:
        """Return the groups, which are sessions too, that are the tree's own."""
        raise NotImplementedError

    def owns_groups(self, started: int) -> bool:
        """Whether `groups` are still the tree's, as far as a process is asked that started then."""
        raise NotImplementedError

    def is_running(self) -> bool:
        """Whether the command itself has not exited yet."""
        return False

    def signal_strays(self, members: List[Member], number: int) -> bool:
        """Send a signal to those of `members` that did not get it yet.

        They are processes outside of the groups (and those in it, when the command itself
        is over and reaped) that are not younger than the last signalling. What is younger
        was started by a process that handled the signal: the cleaning up that the grace is
        for. Returns True when there were any; they may have forked meanwhile.
        """
        missed = [
            member
            for member in members
            if not (member.in_group and self._group_signalled)
            and member.pid not in self._signalled
            and member.started <= self._signalled_ticks
        ]
        # Parents first: a shell that outlived its child would go on to its next command.
        for member in sorted(missed, key=lambda member: (member.started, member.pid)):
            self._signalled.add(member.pid)
            signal_member(member, number)
        if missed:
            self._signalled_ticks = now_ticks()
        return bool(missed)

    def kill(self, members: List[Member]) -> None:
        """Send SIGKILL to `members`."""
        for member in members:
            signal_member(member, signal.SIGKILL)


def kill_group(group: int, number: int) -> None:
    """Send a signal to every process of a group, and have the stopped ones act on it."""
    try:
        os.killpg(group, number)
        # A stopped process acts on a signal only when it is continued.
        os.killpg(group, signal.SIGCONT)
    except (ProcessLookupError, PermissionError):
        pass  # gone, or (macOS) nothing but a zombie; what may not be signalled stays


class _Process:
    """A living process of the system, as /proc/PID/stat or ps tells it.

    limits: the soft values of those limits that hold marks; None when they are not known.
    """

    __slots__ = ("pid", "parent", "group", "session", "started", "limits")

    def __init__(
        self,
        pid: int,
        parent: int,
        group: int,
        session: int,
        started: int,
        limits: Optional[Sequence[int]] = (),
    ) -> None:
        self.pid = pid
        self.parent = parent
        self.group = group
        self.session = session
        self.started = started
        self.limits = limits


def survey_posix(
    trees: Sequence[MarkedTree], doomed: Collection[Any] = ()
) -> Dict[MarkedTree, List[Member]]:
    """Return the living processes of each `MarkedTree`. Raises OSError; see `proctree.survey`."""
    found: Dict[MarkedTree, List[Member]] = {tree: [] for tree in trees}
    if not trees:
        return found
    by_mark = {tree.mark: tree for tree in trees}
    by_group: Dict[int, List[MarkedTree]] = {}
    for tree in trees:
        for group in tree.groups():
            by_group.setdefault(group, []).append(tree)
    oldest = min(tree.started_ticks for tree in trees)
    own_pid = os.getpid()

    def tree_of(marks: Sequence[int]) -> Optional[MarkedTree]:
        for mark in marks:
            tree = by_mark.get(mark) or by_mark.get(base_of(mark))
            if tree is not None:
                return tree
        return None

    def owner_by_sight(process: _Process) -> Optional[MarkedTree]:
        if process.started < oldest or process.pid == own_pid:
            return None  # older than every tree, and so is all that it descends from
        for number in (process.group, process.session):
            for tree in by_group.get(number, ()):
                if tree.owns_groups(process.started):
                    return tree
        limits = process.limits
        if limits is None:
            limits = _limits_in_proc(process.pid)
        return tree_of(limits) or tree_of(_marks_in_environment(process.pid))

    # All of a process is read at once, and who is doomed dies at first sight: a process that
    # lives for a moment, and hands on to a child, would be gone at a second pass.
    processes: Dict[int, _Process] = {}
    owner: Dict[int, Optional[MarkedTree]] = {}
    for process in _processes():
        processes[process.pid] = process
        owner[process.pid] = owner_by_sight(process)
        if owner[process.pid] in doomed:
            signal_member(Member(process.pid, process.started, False), signal.SIGKILL)

    settled: Set[int] = {own_pid}

    def owner_by_descent(pid: int) -> Optional[MarkedTree]:
        line = []
        while pid in processes and pid not in settled and owner[pid] is None:
            settled.add(pid)
            line.append(pid)
            pid = processes[pid].parent
        tree = owner.get(pid)
        for child in line:
            owner[child] = tree
        return tree

    for process in processes.values():
        owning = owner_by_descent(process.pid)
        if owning is not None:
            in_group = process.group in owning.groups()
            found[owning].append(Member(process.pid, process.started, in_group))
    for tree in trees:
        # Of the command itself the system tells in a surer way; nobody shall reap it early.
        if not found[tree] and tree.is_running():
            found[tree].append(Member(tree.pid or 0, tree.started_ticks, in_group=True))
    return found


def processes_of_ps() -> Iterator[_Process]:
    """Yield the living processes as ps tells them; started: seconds since the epoch."""
    import subprocess

    # The columns are POSIX's, but for lstart (macOS and the BSDs).
    columns = ("pid=", "ppid=", "pgid=", "stat=", "lstart=")
    output = subprocess.run(
        ["ps", "-A"] + [word for column in columns for word in ("-o", column)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={"PATH": "/bin:/usr/bin", "LC_ALL": "C"},
    ).stdout
    for line in output.decode("utf-8", "replace").splitlines():
        fields = line.split(None, 4)
        if len(fields) == 5 and not fields[3].startswith("Z"):
            try:
                started = int(time.mktime(time.strptime(fields[4].strip())))
            except ValueError:
                started = int(time.time())
            yield _Process(int(fields[0]), int(fields[1]), int(fields[2]), 0, started)


if sys.platform == "linux":
    # The innermost mark stands in the one, the outermost in the other: of two servers, one
    # a task of the other, each finds what is its own. RLIMIT_RTTIME bounds the microseconds
    # that a process with real-time priority may compute without a pause, and 2**61 of them
    # are 73,000 years; RLIMIT_LOCKS, which Python has no name for, has bounded nothing since
    # Linux 2.4.25.
    _INNERMOST = resource.RLIMIT_RTTIME
    _OUTERMOST = 10  # RLIMIT_LOCKS
    _MARKED_LIMITS = (_INNERMOST, _OUTERMOST)

    def mark_limits(pid: int, mark: int) -> List[Tuple[int, Tuple[int, int]]]:
        """Write a mark into the limits of a process, 0 for this one.

        Returns the limits that were there before, for `restore_limits`. Where the hard limit
        does not leave the room, or the kernel has no such limits, there is no mark.
        """
        before = []
        for limit in _MARKED_LIMITS:
            try:
                soft, hard = resource.prlimit(pid, limit)
                if limit == _OUTERMOST and is_mark(soft):
                    continue
                if hard == resource.RLIM_INFINITY or hard >= mark:
                    resource.prlimit(pid, limit, (mark, hard))
                    before.append((limit, (soft, hard)))
            except (OSError, ValueError):
                pass
        return before

    def restore_limits(before: List[Tuple[int, Tuple[int, int]]]) -> None:
        """Give this process the limits back that it had before `mark_limits(0, ...)`."""
        for limit, values in before:
            resource.setrlimit(limit, values)

    def now_ticks() -> int:
        """Return the time in the clock and the unit of field 22 of /proc/PID/stat, proc(5)."""
        return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))

    def _read_process(pid: int) -> Optional[_Process]:
        """Return the process if it lives: proc(5), /proc/PID/stat."""
        limits: Optional[Sequence[int]]
        try:
            limits = [resource.prlimit(pid, limit)[0] for limit in _MARKED_LIMITS]
        except PermissionError:
            limits = None  # of another user; /proc shows them
        except (OSError, ValueError):
            limits = ()
        try:
            with open("/proc/%d/stat" % pid, "rb", buffering=0) as file:
                data = file.read(4096)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            return None  # gone, or hidden from us by the mount option hidepid
        # The name, in parentheses, may hold spaces and parentheses of its own.
        fields = data[data.rfind(b")") + 2 :].split()
        if len(fields) < 20:
            return None
        # Z with more than one thread: only the first thread is over, the process lives.
        if fields[0] in (b"Z", b"X") and int(fields[17]) <= 1:
            return None
        parent, group, session = map(int, fields[1:4])
        return _Process(pid, parent, group, session, int(fields[19]), limits)

    def _processes() -> Iterator[_Process]:
        try:
            names = os.listdir("/proc")
        except FileNotFoundError:  # not mounted, as in a bare chroot
            return
        # Newest first, for they are the likeliest to be gone in a moment.
        for pid in sorted((int(name) for name in names if name.isdigit()), reverse=True):
            process = _read_process(pid)
            if process is not None:
                yield process

    def _limits_in_proc(pid: int) -> Sequence[int]:
        data = _read_proc(pid, "limits")
        limits = []
        for name in (b"\nMax realtime timeout", b"\nMax file locks"):
            value = data.partition(name)[2].split(None, 1)[:1]
            if value and value[0].isdigit():
                limits.append(int(value[0]))
        return limits

    def _marks_in_environment(pid: int) -> Sequence[int]:
        """Return the marks in a process's environment, innermost first."""
        data = b"\0" + _read_proc(pid, "environ")
        _, name, rest = data.partition(b"\0" + ENV_NAME.encode() + b"=")
        return marks_in_path(rest.partition(b"\0")[0]) if name else ()

    def _read_proc(pid: int, name: str) -> bytes:
        try:
            with open("/proc/%d/%s" % (pid, name), "rb", buffering=0) as file:
                return file.readall()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            return b""  # gone, or of another user

    def signal_member(member: Member, number: int) -> None:
        """Signal a process found by a survey, unless its pid means another one by now."""
        pidfd = None
        try:
            if hasattr(os, "pidfd_open"):
                pidfd = os.pidfd_open(member.pid)
            now = _read_process(member.pid)
            if now is None or now.started != member.started:
                return
            if pidfd is not None:
                # It can only reach the process whose start was just compared.
                signal.pidfd_send_signal(pidfd, number)
                signal.pidfd_send_signal(pidfd, signal.SIGCONT)
            else:
                os.kill(member.pid, number)
                os.kill(member.pid, signal.SIGCONT)
        except OSError:
            pass  # gone, or not ours to signal
        finally:
            if pidfd is not None:
                os.close(pidfd)

else:

    def mark_limits(pid: int, mark: int) -> List[Tuple[int, Tuple[int, int]]]:
        """Nothing: no limit here is read back from another process."""
        return []

    def restore_limits(before: List[Tuple[int, Tuple[int, int]]]) -> None:
        """Nothing, as there is nothing to restore."""

    def now_ticks() -> int:
        """Return the time in seconds since the epoch, as `processes_of_ps` does."""
        return int(time.time())

    _processes = processes_of_ps

    def _limits_in_proc(pid: int) -> Sequence[int]:
        return ()

    def _marks_in_environment(pid: int) -> Sequence[int]:
        return ()

    def signal_member(member: Member, number: int) -> None:
        """Signal a process found by a survey; its pid is taken to mean the same one still."""
        try:
            os.kill(member.pid, number)
            os.kill(member.pid, signal.SIGCONT)
        except OSError:
            pass  # gone, or not ours to signal
