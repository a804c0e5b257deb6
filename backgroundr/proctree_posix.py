"""Spawn a command so that all that comes of it can be found again and ended. POSIX.

What marks a process as belonging to a tree:

- the group and the session of the command, which `start_new_session` makes its own;
- an environment entry that children inherit (ENV_NAME, one token a tree), read back from
  /proc/PID/environ; it also finds what moved to a session of its own;
- descent from a process found by one of these.

Where there is no /proc, `ps` gives groups and descent, and a process that left both is
not found. Nor is one that cleared its environment, or is of another user id so that its
environment is not ours to read, once it left the session and lost its parent.

A pid is signalled only while it cannot have come to mean another process. The command
itself is waited for without being reaped, so its pid and with it its group and session stay
taken until `reap`. Any other process is signalled through a pidfd, opened first and then
checked to be the process that was found (Linux 5.3 and Python 3.9 on); elsewhere its start
time is checked just before the signal, which leaves the microseconds between the two (on
macOS, where `ps` is all there is, the milliseconds since the survey).
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Set

# A path of tokens, outermost first, joined by ":". It is a path so that a backgroundr that
# runs as a task of another leaves its own tasks findable for both.
ENV_NAME = "BACKGROUNDR_TASK"


class Member:
    """A living process of a tree.

    started: when, in ticks of `_now_ticks`. in_group: it is in the command's own group.
    """

    __slots__ = ("pid", "started", "in_group")

    def __init__(self, pid: int, started: int = 0, in_group: bool = True) -> None:
        self.pid = pid
        self.started = started
        self.in_group = in_group


class ProcessTree:
    """A command and all that came of it, on POSIX: a `proctree.Tree`, which has the contract.

    pipes are non-blocking. started_ticks: a moment before it was started.
    """

    def __init__(self, argv: List[str], cwd: str, env: Mapping[str, str], token: str) -> None:
        self.token = token
        # _lock owns _returncode and so the answer to "is the pid still ours?". It is held
        # across the kill and across the reap, so that neither can fall into the other.
        self._lock = threading.Lock()
        self._returncode: Optional[int] = None
        self._reaped_ticks = 0
        # Who got the last signal: the group, these processes, and when they got it.
        self._group_signalled = False
        self._signalled: Set[int] = set()
        self._signalled_ticks = 0
        self.started_ticks = _now_ticks()
        opened: List[int] = []
        try:
            # Pipes of our own: Popen leaks its when it fails for want of descriptors
            # (Python 3.8 to 3.10).
            null = os.open(os.devnull, os.O_RDWR)
            opened.append(null)
            stdout, child_stdout = os.pipe()
            opened += stdout, child_stdout
            stderr, child_stderr = os.pipe()
            opened += stderr, child_stderr
            # Bytes throughout: in a C locale the text forms refuse what is not ASCII.
            self._popen = subprocess.Popen(
                [native_bytes(arg) for arg in argv],
                stdin=null,
                stdout=child_stdout,
                stderr=child_stderr,
                cwd=native_bytes(cwd),
                env=_environment(env, token),
                start_new_session=True,
            )
        except BaseException:
            for fd in opened:
                os.close(fd)
            raise
        for fd in (null, child_stdout, child_stderr):
            os.close(fd)
        self.pid = self._popen.pid
        os.set_blocking(stdout, False)
        os.set_blocking(stderr, False)
        self.pipes = {stdout: "stdout", stderr: "stderr"}
        self._kqueue: Any = None
        self.exit_fd: Optional[int] = None
        self.exit_fd = self._open_exit_fd()

    def _open_exit_fd(self) -> Optional[int]:
        try:
            if sys.platform == "linux":
                # Linux 5.3, Python 3.9.
                return os.pidfd_open(self.pid) if hasattr(os, "pidfd_open") else None
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

    def wait_exit(self) -> None:
        """Block until the command itself has exited. Its pid stays taken until `reap`."""
        if hasattr(os, "waitid"):
            try:
                os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
            except ChildProcessError:
                pass  # the host program ignores SIGCHLD, or has waited for our child
        else:
            # macOS before Python 3.13, and only when kqueue gave no descriptor. This reaps,
            # so that until `reap` notes it a signal could meet a reused pid.
            self._popen.wait()

    def is_running(self) -> bool:
        """Whether the command itself has not exited yet."""
        with self._lock:
            if self._returncode is not None:
                return False
            if hasattr(os, "waitid"):
                options = os.WEXITED | os.WNOHANG | os.WNOWAIT
                try:
                    return os.waitid(os.P_PID, self.pid, options) is None
                except ChildProcessError:
                    return False  # as in wait_exit
            return False  # macOS before Python 3.13: what ps said has to do

    def reap(self) -> int:
        """Return the exit code, -N for a death by signal N. The pid is free from then on.

        To be called when the command has exited; before that it blocks, and signals with it.
        """
        with self._lock:
            if self._returncode is None:
                self._returncode = self._popen.wait()
                self._reaped_ticks = _now_ticks()
            return self._returncode

    def signal_group(self, number: int) -> None:
        """Send a signal to the command's group at once; `signal_strays` does the rest of the tree.

        All of the group gets it in one moment: a shell that outlived its child by an
        instant would go on to its next command.
        """
        with self._lock:
            self._signalled.clear()
            self._signalled_ticks = _now_ticks()
            self._group_signalled = self._returncode is None
            if self._group_signalled:
                _kill_group(self.pid, number)

    def signal_strays(self, members: List[Member], number: int) -> bool:
        """Send a signal to those of `members` that did not get it yet.

        They are processes outside of the group (and those in it, when the command itself
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
        for member in missed:
            self._signalled.add(member.pid)
            _signal_member(member, number)
        if missed:
            self._signalled_ticks = _now_ticks()
        return bool(missed)

    def kill(self, members: List[Member]) -> None:
        """Send SIGKILL to the group and to `members`."""
        with self._lock:
            if self._returncode is None:
                _kill_group(self.pid, signal.SIGKILL)
        for member in members:
            _signal_member(member, signal.SIGKILL)

    def discard(self) -> None:
        """End a tree that nobody has begun to watch; return when the command is over."""
        try:
            members = survey_posix([self])[self]
        except OSError:
            members = []  # no descriptor free to look with; the group can be killed without
        self.kill(members)
        self.reap()
        self.close_exit_fd()
        for fd in self.pipes:
            os.close(fd)

    def owns_group(self, group: int, started: int) -> bool:
        """True when `group`, of a process that started then, is the command's own.

        Until the reap nobody else can have that number. A stranger who got it later started
        later.
        """
        return group == self.pid and (self._returncode is None or started <= self._reaped_ticks)


def native_bytes(text: str) -> bytes:
    """Return text as the system takes it whatever the locale.

    Raises UnicodeEncodeError for surrogates that stand for no byte.
    """
    # os.fsencode would refuse what a C locale has no characters for.
    return text.encode("utf-8", "surrogateescape")


def _environment(added: Mapping[str, str], token: str) -> Dict[bytes, bytes]:
    env = dict(os.environb)
    for name, value in added.items():
        env[native_bytes(name)] = native_bytes(value)
    mark = native_bytes(ENV_NAME)
    outer = os.environb.get(mark)
    env[mark] = outer + b":" + native_bytes(token) if outer else native_bytes(token)
    return env


def _kill_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
        # A stopped process acts on a signal only when it is continued.
        os.killpg(group, signal.SIGCONT)
    except (ProcessLookupError, PermissionError):
        pass  # gone, or (macOS) nothing but a zombie; what may not be signalled stays


class _Process:
    """A living process of the system, as /proc/PID/stat or ps tells it."""

    __slots__ = ("pid", "parent", "group", "session", "started")

    def __init__(self, pid: int, parent: int, group: int, session: int, started: int) -> None:
        self.pid = pid
        self.parent = parent
        self.group = group
        self.session = session
        self.started = started


def survey_posix(trees: Sequence[ProcessTree]) -> Dict[ProcessTree, List[Member]]:
    """Return the living processes of each tree. Raises OSError; see `proctree.survey`."""
    found: Dict[ProcessTree, List[Member]] = {tree: [] for tree in trees}
    if not trees:
        return found
    by_token = {native_bytes(tree.token): tree for tree in trees}
    by_pid: Dict[int, List[ProcessTree]] = {}
    for tree in trees:
        by_pid.setdefault(tree.pid, []).append(tree)
    oldest = min(tree.started_ticks for tree in trees)

    def mark_of(process: _Process) -> Optional[ProcessTree]:
        if process.started < oldest or process.pid == os.getpid():
            return None  # older than every tree, and so is all that it descends from
        for number in (process.group, process.session):
            for tree in by_pid.get(number, ()):
                if tree.owns_group(number, process.started):
                    return tree
        for token in reversed(_tokens(process.pid)):
            if token in by_token:
                return by_token[token]
        return None

    # The environment is read right after the rest: a process that lives for a moment, and
    # hands on to a child, would be gone at a second pass.
    processes: Dict[int, _Process] = {}
    owner: Dict[int, Optional[ProcessTree]] = {}
    for process in _processes():
        processes[process.pid] = process
        owner[process.pid] = mark_of(process)

    settled: Set[int] = {os.getpid()}

    def owner_by_descent(pid: int) -> Optional[ProcessTree]:
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
            in_group = process.group == owning.pid
            found[owning].append(Member(process.pid, process.started, in_group))
    for tree in trees:
        # Of the command itself the system tells in a surer way; nobody shall reap it early.
        if not found[tree] and tree.is_running():
            found[tree].append(Member(tree.pid, tree.started_ticks, in_group=True))
    return found


def processes_of_ps() -> Iterator[_Process]:
    """Yield the living processes as ps tells them; started: seconds since the epoch."""
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

    def _now_ticks() -> int:
        # The clock and the unit of field 22 of /proc/PID/stat, proc(5).
        return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))

    def _read_stat(pid: int) -> Optional[_Process]:
        """Return the process if it lives: proc(5), /proc/PID/stat."""
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
        return _Process(pid, int(fields[1]), int(fields[2]), int(fields[3]), int(fields[19]))

    def _processes() -> Iterator[_Process]:
        try:
            names = os.listdir("/proc")
        except FileNotFoundError:  # not mounted, as in a bare chroot
            return
        # Newest first, for they are the likeliest to be gone in a moment.
        for pid in sorted((int(name) for name in names if name.isdigit()), reverse=True):
            process = _read_stat(pid)
            if process is not None:
                yield process

    def _tokens(pid: int) -> List[bytes]:
        """Return the tokens in a process's environment, outermost first."""
        try:
            with open("/proc/%d/environ" % pid, "rb", buffering=0) as file:
                data = b"\0" + file.readall()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            return []  # gone, or of another user
        _, mark, rest = data.partition(b"\0" + native_bytes(ENV_NAME) + b"=")
        return rest.partition(b"\0")[0].split(b":") if mark else []

    def _signal_member(member: Member, number: int) -> None:
        """Signal a process found by a survey, unless its pid means another one by now."""
        pidfd = None
        try:
            if hasattr(os, "pidfd_open"):
                pidfd = os.pidfd_open(member.pid)
            now = _read_stat(member.pid)
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

    def _now_ticks() -> int:
        return int(time.time())

    _processes = processes_of_ps

    def _tokens(pid: int) -> List[bytes]:
        return []

    def _signal_member(member: Member, number: int) -> None:
        """Signal a process found by a survey; its pid is taken to mean the same one still."""
        try:
            os.kill(member.pid, number)
            os.kill(member.pid, signal.SIGCONT)
        except OSError:
            pass  # gone, or not ours to signal
