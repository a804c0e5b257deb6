"""The living processes of this system, and which of them belong to which tree. POSIX.

What makes a process belong to a tree:

- the group or the session of its command, which are the tree's own;
- the tree's mark (see `marks`), which a process hands on to its children without knowing. It
  stands in its environment (/proc/PID/environ), and on Linux also where even a program that
  clears or overwrites its environment keeps it: as the soft value of two resource limits
  (setrlimit(2)), which have no effect at that height; and for root, whose logins through PAM
  (`su -`, sshd) set all limits anew, a part of it in the timer slack (prctl(2));
- descent from a process found by one of these.

Who was found once is known from then on, whatever it loses.

Where there is no /proc, `ps` gives groups and descent, and a process that left both is not
found. On Linux one gets away that loses all of these before anybody looks, such as the daemon
of a login through PAM where root has not the capability to read a timer slack (CAP_SYS_NICE,
in containers). Nor is found what another program starts on a command's behalf (a container,
a timer, a service).

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
from functools import lru_cache

from .marks import (
    DEFAULT_TIMER_SLACK_NS,
    ENV_NAME,
    base_of,
    is_mark,
    marks_in_path,
    timer_slack_of,
    timer_slacks_of,
)

if sys.platform == "linux":
    import resource

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Collection, Dict, Iterator, List, Optional, Sequence, Set, Tuple


class Member:
    """A living process of a tree.

    started: when, in ticks of `now_ticks`. in_group: it is in a group that the tree signals
    as a whole. orphan: its parent is not, or not any more, a process of the tree.
    """

    __slots__ = ("pid", "started", "in_group", "orphan")

    def __init__(self, pid: int, started: int, in_group: bool, orphan: bool = True) -> None:
        self.pid = pid
        self.started = started
        self.in_group = in_group
        self.orphan = orphan


class MarkedTree:
    """What a survey looks for: processes that have a mark, or one of some groups.

    mark: a tree's, or a base: then whatever a manager started is in it. started_ticks: a
    moment before the first process was started. pid: of the command, None when there is no
    one command. known: {pid: when it started} of those that were found the last time; they
    stay the tree's, even when they have lost their parents since and never had a mark.
    """

    pid: Optional[int] = None

    def __init__(self, mark: int, started_ticks: int) -> None:
        self.mark = mark
        self.started_ticks = started_ticks
        self.known: Dict[int, int] = {}
        # Of processes that started later, a timer slack says nothing.
        self._slack_until_ticks: Optional[int] = None
        # Who got the last signal: the groups, with these processes in them at the time, and
        # these (or they are spared it); and when it was sent.
        self._group_signalled = False
        self._grouped: Set[int] = set()
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

    def shares_timer_slack(self) -> None:
        """Take note that from now on another tree has the same timer slack."""
        self._slack_until_ticks = now_ticks()

    def owns_timer_slack(self, started: int) -> bool:
        """Whether its timer slack makes a process the tree's that started then."""
        until = self._slack_until_ticks
        return started >= self.started_ticks and (until is None or started < until)

    def signal(self, members: List[Member], number: int) -> None:
        """Send a signal to the groups and to `members`, as a survey found them just before."""
        self._signalled_ticks = now_ticks()
        self._group_signalled = self._signal_groups(number)
        self._grouped = {one.pid for one in members if self._has_group_signal(one)}
        self._signalled.clear()
        self._signal_each([one for one in members if one.pid not in self._grouped], number)

    def signal_strays(self, members: List[Member], number: int) -> bool:
        """Send a signal to those of `members` that `signal`, or the last call, missed.

        They are processes outside of the groups that are not younger than the last
        signalling. What is younger was started by a process that handled the signal: the
        cleaning up that the grace is for. So, it seems, was what began in the same tick (10 ms)
        and still has its parent. Returns True when there were any; they may have forked
        meanwhile.
        """
        strays = []
        for one in members:
            if one.pid in self._signalled or self._has_group_signal(one):
                continue
            # Who has just left a group may have done so an instant before the signal.
            left_group = one.pid in self._grouped
            if left_group or one.started < self._signalled_ticks + one.orphan:
                strays.append(one)
            else:
                self._signalled.add(one.pid)  # to be spared for good
        if strays:
            self._signalled_ticks = now_ticks()
            self._signal_each(strays, number)
        return bool(strays)

    def _has_group_signal(self, member: Member) -> bool:
        return member.in_group and self._group_signalled

    def _signal_each(self, members: List[Member], number: int) -> None:
        # Parents first: a shell that outlived its child would go on to its next command.
        for member in sorted(members, key=lambda member: (member.started, member.pid)):
            self._signalled.add(member.pid)
            signal_member(member, number)

    def _signal_groups(self, number: int) -> bool:
        """Signal the groups as far as they are the tree's own; return whether they are."""
        raise NotImplementedError

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
    known = {item: tree for tree in trees for item in tree.known.items()}
    by_slack = {}
    if os.geteuid() == 0:
        by_slack = {slack: tree for tree in trees for slack in timer_slacks_of(tree.mark)}
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
        tree = known.get((process.pid, process.started))
        if tree is not None:
            return tree
        for number in (process.group, process.session):
            for leading in by_group.get(number, ()):
                if leading.owns_groups(process.started):
                    return leading
        limits = process.limits
        if limits is None:
            limits = _limits_in_proc(process.pid)
        tree = tree_of(limits)
        if tree is None:
            environment = _marks_in_environment(process.pid)
            tree = tree_of(environment)
            if tree is None and any(map(is_mark, [*limits, *environment])):
                others.add(process.pid)
        return tree

    # Those that carry marks of other managers alone, and what descends from them.
    others: Set[int] = set()

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
        top = pid
        while top in processes and top not in settled and owner[top] is None:
            settled.add(top)
            line.append(top)
            top = processes[top].parent
        tree = owner.get(top)
        other = top in others
        for child in reversed(line):
            other = other or child in others
            if other:
                others.add(child)
            elif tree is None and by_slack:
                # Neither it nor an ancestor has a mark, not even another manager's.
                tree = owner_by_slack(processes[child])
            owner[child] = tree
        return owner.get(pid)

    def owner_by_slack(process: _Process) -> Optional[MarkedTree]:
        if process.started < oldest:
            return None
        tree = by_slack.get(_timer_slack(process.pid))
        return tree if tree is not None and tree.owns_timer_slack(process.started) else None

    for process in processes.values():
        owning = owner_by_descent(process.pid)
        if owning is not None:
            in_group = process.group in owning.groups()
            orphan = owner.get(process.parent) is not owning
            found[owning].append(Member(process.pid, process.started, in_group, orphan))
    for tree in trees:
        tree.known = {member.pid: member.started for member in found[tree]}
        # Of the command itself the system tells in a surer way; nobody shall reap it early.
        if not found[tree] and tree.is_running():
            found[tree].append(Member(tree.pid or 0, tree.started_ticks, in_group=True))
    return found


def processes_of_ps() -> Iterator[_Process]:
    """Yield the living processes as ps tells them; started: seconds since the epoch.

    Raises OSError when it does not.
    """
    import calendar
    import subprocess

    # The columns are POSIX's, but for lstart (macOS and the BSDs).
    columns = ("pid=", "ppid=", "pgid=", "stat=", "lstart=")
    ps = subprocess.run(
        ["ps", "-A"] + [word for column in columns for word in ("-o", column)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={"PATH": "/bin:/usr/bin", "LC_ALL": "C", "TZ": "UTC0"},
        check=False,
    )
    if ps.returncode != 0 or not ps.stdout:
        raise OSError("ps did not tell of the processes")
    for line in ps.stdout.decode("utf-8", "replace").splitlines():
        fields = line.split(None, 4)
        if len(fields) == 5 and not fields[3].startswith("Z"):
            try:
                started = calendar.timegm(time.strptime(fields[4].strip()))
            except ValueError:
                started = int(time.time())
            yield _Process(int(fields[0]), int(fields[1]), int(fields[2]), 0, started)


def hide_process_posix() -> None:
    """Keep this process's memory and descriptors from other processes of the same user.

    Else a command could write to the stream of its server through /proc/PID/fd. For the life
    of the process; debuggers, profilers and core dumps are kept out with it. root is not.
    Linux (PR_SET_DUMPABLE, prctl(2)); elsewhere nothing, for nothing like /proc is there.
    """
    prctl(_PR_SET_DUMPABLE, 0)


# linux/prctl.h
_PR_SET_DUMPABLE = 4
_PR_SET_TIMERSLACK, _PR_GET_TIMERSLACK = 29, 30
_SYS_PIDFD_OPEN = 434  # nearly everywhere; where it is another call, it fails
# malloc.h. The threshold is that from which the library begins, and keeps when told so.
_M_MMAP_THRESHOLD = -3
_LARGE_BYTES = 128 * 1024

if sys.platform == "linux":
    # The innermost mark stands in the one, the outermost in the other: of two servers, one
    # a task of the other, each finds what is its own. RLIMIT_RTTIME bounds the microseconds
    # that a process with real-time priority may compute without a pause, and 2**61 of them
    # are 73,000 years; RLIMIT_LOCKS, which Python has no name for, has bounded nothing since
    # Linux 2.4.25.
    _INNERMOST = resource.RLIMIT_RTTIME
    _OUTERMOST = 10  # RLIMIT_LOCKS
    _MARKED_LIMITS = (_INNERMOST, _OUTERMOST)
    # The processes are listed until no new one shows, for one that was gone before it was read
    # may have handed on to a child; so often at most, for on a busy system there is no end.
    _MAX_LISTINGS = 10
    _PRLIMIT = "/usr/bin/prlimit"
    _PRLIMIT_NAMES = {_INNERMOST: "rttime", _OUTERMOST: "locks"}

    def limits_with(mark: int) -> Dict[int, Tuple[int, int]]:
        """Return {limit: (soft, hard)} for a process that this one starts, with a mark in it.

        Empty where the hard limits do not leave the room, or the kernel has no such limits.
        """
        limits = {}
        for limit in _MARKED_LIMITS:
            try:
                soft, hard = resource.getrlimit(limit)
            except (OSError, ValueError):
                continue
            if limit == _OUTERMOST and is_mark(soft):
                continue
            if hard == resource.RLIM_INFINITY or hard >= mark:
                limits[limit] = (mark, hard)
        return limits

    def set_limits(pid: int, limits: Dict[int, Tuple[int, int]]) -> Dict[int, Tuple[int, int]]:
        """Set limits of a process, 0 for this one; return what they were before.

        Does nothing to a process that is gone, or not ours.
        """
        before = {}
        for limit, values in limits.items():
            try:
                before[limit] = resource.prlimit(pid, limit, values)
            except (OSError, ValueError):
                pass
        return before

    def argv_with(limits: Dict[int, Tuple[int, int]], argv: List[str]) -> List[str]:
        """Return a command that sets the soft limits for itself and becomes `argv`.

        `argv` as it is where there is no such program (util-linux has it), or where it would
        be the one to find that `argv` cannot be run.
        """
        if not limits or not os.access(_PRLIMIT, os.X_OK):
            return argv
        program = argv[0]
        if not (os.path.isabs(program) and os.path.isfile(program) and os.access(program, os.X_OK)):
            return argv
        options = ["--%s=%d:" % (_PRLIMIT_NAMES[limit], limits[limit][0]) for limit in limits]
        return [_PRLIMIT, *options, "--", *argv]

    def begin_timer_slack(mark: int) -> bool:
        """Mark what this thread starts from now on in its timer slack; return whether it is.

        Only for root, for nobody else could read it back, and where it is as it is everywhere.
        """
        if os.geteuid() != 0 or prctl(_PR_GET_TIMERSLACK) != DEFAULT_TIMER_SLACK_NS:
            return False
        return prctl(_PR_SET_TIMERSLACK, timer_slack_of(mark)) == 0

    def end_timer_slack() -> None:
        """Give this thread back the timer slack that everybody has."""
        prctl(_PR_SET_TIMERSLACK, DEFAULT_TIMER_SLACK_NS)

    def prctl(option: int, value: int = 0) -> int:
        """Call prctl(2); return what it returns, -1 also where there is no way to call it."""
        return _call_libc("prctl", option, value, 0, 0, 0)

    def return_freed_memory_posix() -> None:
        """Have the C library give large pieces of memory back as soon as they are freed.

        Else it keeps, once it has seen one of a MiB, up to two MiB for the next (mallopt(3),
        M_MMAP_THRESHOLD). For the life of the process. With glibc; elsewhere nothing.
        """
        _call_libc("mallopt", _M_MMAP_THRESHOLD, _LARGE_BYTES)

    def open_pidfd(pid: int) -> Optional[int]:
        """Return a descriptor that becomes readable when a process exits (pidfd_open(2), Linux
        5.3), or None where there are none. Raises OSError."""
        if hasattr(os, "pidfd_open"):
            return int(os.pidfd_open(pid))
        fd = _call_libc("syscall", _SYS_PIDFD_OPEN, pid, 0)  # Python 3.8
        return fd if fd >= 0 else None

    def _call_libc(name: str, *numbers: int) -> int:
        """Return what a function of the C library returns, -1 also where it cannot be called."""
        try:
            import ctypes

            function = _libc_function(name)
            return int(function(*[ctypes.c_long(number) for number in numbers]))
        except (ImportError, OSError, AttributeError):
            return -1

    @lru_cache(maxsize=None)
    def _libc_function(name: str) -> Any:
        import ctypes

        return getattr(ctypes.CDLL(None), name)

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
        seen: Set[int] = set()
        for _ in range(_MAX_LISTINGS):
            try:
                names = os.listdir("/proc")
            except FileNotFoundError:  # not mounted, as in a bare chroot
                return
            pids = {int(name) for name in names if name.isdigit()} - seen
            # Newest first, for they are the likeliest to be gone in a moment.
            for pid in sorted(pids, reverse=True):
                process = _read_process(pid)
                if process is not None:
                    yield process
            if not pids:
                return
            seen |= pids

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

    def _timer_slack(pid: int) -> int:
        slack = _read_proc(pid, "timerslack_ns")
        return int(slack) if slack else 0

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
            pidfd = os.pidfd_open(member.pid)
        except (AttributeError, OSError):
            pass  # an older Python or kernel, a sandbox that forbids it, or it is gone
        try:
            try:
                now = _read_process(member.pid)
            except OSError:  # that was the last descriptor
                if pidfd is None:
                    raise
                os.close(pidfd)
                pidfd = None
                now = _read_process(member.pid)
            if now is None or now.started != member.started:
                return
            if pidfd is not None:
                try:
                    # It can only reach the process whose start was just compared.
                    signal.pidfd_send_signal(pidfd, number)
                    signal.pidfd_send_signal(pidfd, signal.SIGCONT)
                    return
                except ProcessLookupError:
                    return
                except OSError:
                    pass  # forbidden by a sandbox, or not ours to signal
            os.kill(member.pid, number)
            os.kill(member.pid, signal.SIGCONT)
        except OSError:
            pass  # gone, or not ours to signal
        finally:
            if pidfd is not None:
                os.close(pidfd)

else:

    def limits_with(mark: int) -> Dict[int, Tuple[int, int]]:
        """Return nothing: no limit here is read back from another process."""
        return {}

    def set_limits(pid: int, limits: Dict[int, Tuple[int, int]]) -> Dict[int, Tuple[int, int]]:
        """Do nothing, as there are no limits to set."""
        return {}

    def argv_with(limits: Dict[int, Tuple[int, int]], argv: List[str]) -> List[str]:
        """Return `argv`, as there are no limits to set."""
        return argv

    def begin_timer_slack(mark: int) -> bool:
        """Do nothing, as there is no timer slack."""
        return False

    def end_timer_slack() -> None:
        """Do nothing, as there is no timer slack."""

    def prctl(option: int, value: int = 0) -> int:
        """Return -1, as there is no such call."""
        return -1

    def return_freed_memory_posix() -> None:
        """Do nothing: it is not known how."""

    def open_pidfd(pid: int) -> Optional[int]:
        """Return None, as there are no pidfds."""
        return None

    def now_ticks() -> int:
        """Return the time in seconds since the epoch, as `processes_of_ps` does."""
        return int(time.time())

    _processes = processes_of_ps

    def _limits_in_proc(pid: int) -> Sequence[int]:
        return ()

    def _marks_in_environment(pid: int) -> Sequence[int]:
        return ()

    def _timer_slack(pid: int) -> int:
        return 0

    def signal_member(member: Member, number: int) -> None:
        """Signal a process found by a survey; its pid is taken to mean the same one still."""
        try:
            os.kill(member.pid, number)
            os.kill(member.pid, signal.SIGCONT)
        except OSError:
            pass  # gone, or not ours to signal
