"""TaskManager: starts background commands, keeps what they print, and ends them.

The library of this package, of which the MCP server is the first user:

    with TaskManager() as manager:
        task = manager.start("make test")
        task = manager.wait(task.task_id, timeout_s=60)
        print(task.status, task.exit_code, manager.output(task.task_id).text)

Threads, all of them started by the first command: one reader (see `reader`), one keeper
(time limits, and tasks that are ending), and on systems that cannot watch for an exit in
another way, one waiter a command. None is left after `close`.
"""

from __future__ import annotations

import heapq
import math
import os
import threading
import time

from .cancel import CancelToken
from .errors import Cancelled, InvalidValue, ManagerClosed, SpawnFailed, UnknownTask
from .lifecycle import (
    ALIVE,
    BY_REQUEST,
    BY_TIMEOUT,
    EXITED,
    FINISHED,
    RUNNING,
    STATUS_WORDS,
    STOP,
    next_state,
    outcome,
)
from .output import STREAMS, OutputLog
from .proctree import native, open_tree, shell_argv, signal_name, signal_number, survey
from .reader import Channel, open_reader
from .screen import render

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Callable, Dict, List, Mapping, Optional, Tuple, Type, Union

    from .proctree import Tree
    from .reader import SelectReader, ThreadReader

BUFFER_BYTES = 1024 * 1024
GRACE_S = 5.0
# MCP clients give a server about two seconds to go before they signal it; this leaves half.
CLOSE_GRACE_S = 1.0
# A bound for every time that a caller gives: thirty days. Python's own limit for a wait is
# 49 days on Windows, and infinity is refused everywhere.
MAX_SECONDS = 30 * 24 * 3600

# An ending is over when so many surveys in a row, so far apart, found nobody: one survey
# can miss a process that is forked while it reads the table.
EMPTY_SURVEYS = 3
SURVEY_PAUSE_S = 0.005
# Between surveys while processes have the grace to end by themselves after the command.
GRACE_PAUSE_S = 0.05

_NO_ROOM_ADVICE = "End tasks that are not needed any more, then try again."

# Crockford's base 32: no letter is taken for a digit. A letter stands in front, so that no
# id can be taken for a number. 8 times 5 bits.
_ID_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_ID_PREFIX = "t"
_ID_LENGTH = 8


class TaskStatus:
    """What is known of a task at one moment; it does not change any more.

    task_id, name (or None), command, cwd (absolute), pid.
    status: one of `lifecycle.STATUS_WORDS`; the last four are final.
    exit_code: int once the command has exited, None before and after a death by signal.
    signal: the name of the signal that the command died of, else None.
    kill_requested: somebody asked for the end, or the time limit did.
    started_at, ended_at: seconds since the epoch; ended_at is None until it is over.
    runtime_s, timeout_s (or None): seconds.
    total_lines, total_bytes: printed so far on both streams. output_open: more may come;
    also after the end, when a process that the command left behind still holds a stream.
    """

    __slots__ = (
        "task_id",
        "name",
        "command",
        "cwd",
        "pid",
        "status",
        "exit_code",
        "signal",
        "kill_requested",
        "started_at",
        "ended_at",
        "runtime_s",
        "timeout_s",
        "total_lines",
        "total_bytes",
        "output_open",
    )

    def __init__(self, task: _Task) -> None:
        self.task_id = task.task_id
        self.name = task.name
        self.command = task.command
        self.cwd = task.cwd
        self.pid = task.tree.pid
        self.status = task.outcome or task.state
        self.exit_code = task.exit_code
        self.signal = task.signal
        self.kill_requested = task.stopped_by is not None
        self.started_at = task.started_at
        self.ended_at = task.ended_at
        self.runtime_s = (task.ended_monotonic or time.monotonic()) - task.started_monotonic
        self.timeout_s = task.timeout_s
        self.total_lines = task.log.total_lines()
        self.total_bytes = task.log.total_bytes()
        self.output_open = bool(task.open_streams)

    @property
    def is_final(self) -> bool:
        """True when the task is over and the status can not change any more."""
        return self.status not in ALIVE

    def __repr__(self) -> str:
        return "<TaskStatus %s %s %r>" % (self.task_id, self.status, self.command)


class TaskOutput:
    """The most recent lines of a task, as text.

    status: the TaskStatus of the same moment. text: the lines, joined by newlines.
    shown_lines: how many. earlier_lines, earlier_bytes: printed before them on the chosen
    streams and not in `text`.
    """

    __slots__ = ("status", "text", "shown_lines", "earlier_lines", "earlier_bytes")

    def __init__(
        self, status: TaskStatus, lines: List[str], earlier_lines: int, earlier_bytes: int
    ) -> None:
        self.status = status
        self.text = "\n".join(lines)
        self.shown_lines = len(lines)
        self.earlier_lines = earlier_lines
        self.earlier_bytes = earlier_bytes


class _Task(Channel):
    """One command. The manager's mutex owns every field that changes."""

    def __init__(
        self,
        manager: TaskManager,
        task_id: str,
        name: Optional[str],
        command: str,
        cwd: str,
        timeout_s: Optional[float],
        tree: Tree,
    ) -> None:
        super().__init__(tree.pipes)
        self._manager = manager
        self.task_id = task_id
        self.name = name or None
        self.command = command
        self.cwd = cwd
        self.timeout_s = timeout_s
        self.tree = tree
        self.started_at = time.time()
        self.started_monotonic = time.monotonic()
        self.state = RUNNING
        self.outcome: Optional[str] = None
        self.stopped_by: Optional[str] = None
        self.ending: Optional[_Ending] = None
        self.exit_code: Optional[int] = None
        self.signal: Optional[str] = None
        self.ended_at: Optional[float] = None
        self.ended_monotonic: Optional[float] = None
        self.log = OutputLog(manager.buffer_bytes)
        self.open_streams = set(tree.pipes.values())
        # Those who wait for this task; notified when it is over. They share the mutex.
        self.waiters: List[threading.Condition] = []

    def on_output(self, stream: str, data: bytes) -> None:
        newlines = data.count(b"\n")
        with self._manager._mutex:
            self.log.append(stream, data, newlines)

    def on_output_end(self, stream: str) -> None:
        with self._manager._mutex:
            self.open_streams.discard(stream)

    def on_exit(self) -> None:
        self.tree.close_exit_fd()
        self._manager._command_exited(self)

    def on_drained(self) -> None:
        self._manager._drained(self)


class _Ending:
    """A tree on its way out. The mutex owns the fields; the keeper works on them.

    signal_number: what was sent. kill_at: when SIGKILL follows. look_at: when to survey it
    next. empty_surveys: how many in a row found nobody. Times are of the monotonic clock.
    """

    __slots__ = ("task", "signal_number", "kill_at", "look_at", "empty_surveys", "over")

    def __init__(self, task: _Task, signal_number: int, kill_at: float) -> None:
        self.task = task
        self.signal_number = signal_number
        self.kill_at = kill_at
        self.look_at = 0.0
        self.empty_surveys = 0
        self.over = False


class TaskManager:
    """Starts commands and ends them, with all that comes of them, at `close` at the latest.

    shell: the program that runs command lines, by `shell -c COMMAND`; None: /bin/sh, on
    Windows %COMSPEC%. buffer_bytes: how much of its most recent output is kept a task.

    Every method may be called from any thread, and none disturbs another that waits. The
    manager installs no signal handler, prints nothing, and starts nothing before the first
    command. Leaving a `with` block closes it.
    """

    def __init__(self, shell: Optional[str] = None, buffer_bytes: int = BUFFER_BYTES) -> None:
        self.shell = shell
        self.buffer_bytes = buffer_bytes
        # Unique to this manager: what survives of another one is never taken for ours.
        self._token = os.urandom(8).hex()
        # _mutex owns the table of tasks, every field of a task, every log and every ending.
        # Held for microseconds: never across I/O, a callback or a wait. The exceptions are
        # the kill and the reap, because "not yet reaped" is part of a task's state.
        self._mutex = threading.Lock()
        # Notified when the keeper has something to do sooner than it knew.
        self._keeper_wake = threading.Condition(self._mutex)
        # Notified when an ending is over; `close` waits.
        self._ending_over = threading.Condition(self._mutex)
        self._tasks: Dict[str, _Task] = {}  # oldest first
        self._endings: List[_Ending] = []
        # A heap. The id keeps equal times from comparing tasks.
        self._time_limits: List[Tuple[float, str, _Task]] = []
        self._reader: Union[SelectReader, ThreadReader, None] = None
        self._keeper: Optional[threading.Thread] = None
        self._closed = False
        self._keeper_done = False

    def __enter__(self) -> TaskManager:
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()

    def start(
        self,
        command: str,
        name: Optional[str] = None,
        cwd: Optional[str] = None,
        env: Optional[Mapping[str, str]] = None,
        timeout_s: Optional[float] = None,
    ) -> TaskStatus:
        """Start a shell command line and return at once.

        Its stdin is empty and it has no terminal. name: a label for people. cwd: where it
        runs, "~" understood; None: this process's directory. env: entries added to this
        process's environment. timeout_s: it is ended, and `timed_out`, when it still runs
        after so many seconds.
        Raises InvalidValue, SpawnFailed (nothing was started) and ManagerClosed.
        """
        _check_text("command", command)
        if not command.strip():
            raise InvalidValue("command", "must not be empty")
        if name is not None:
            _check_text("name", name)
        if timeout_s is not None:
            _check_seconds("timeout_s", timeout_s)
        for key, value in (env or {}).items():
            _check_text("env", key)
            _check_text("env", value)
            if not key or "=" in key:
                raise InvalidValue("env", "must not have the name %r: empty, or with a '='" % key)
        directory = _directory(cwd)
        with self._mutex:
            if self._closed:
                raise ManagerClosed()
            task_id = self._new_id()
            try:
                reader = self._ensure_threads()
            except (OSError, RuntimeError) as error:
                reason = getattr(error, "strerror", None) or str(error)
                raise SpawnFailed(command, reason, _NO_ROOM_ADVICE) from None
        tree = open_tree(
            shell_argv(self.shell, command), directory, env or {}, self._token + "." + task_id
        )
        task = _Task(self, task_id, name, command, directory, timeout_s, tree)
        try:
            with self._mutex:
                if self._closed:
                    raise ManagerClosed()
                if tree.exit_fd is None:
                    # With the mutex held, so that it cannot report the exit of a task that
                    # the reader does not know yet.
                    self._start_thread("waiter", self._wait_for_exit, task)
                reader.add(task, tree.exit_fd)
                self._tasks[task_id] = task
                if timeout_s is not None:
                    limit = (task.started_monotonic + timeout_s, task_id, task)
                    heapq.heappush(self._time_limits, limit)
                    self._keeper_wake.notify()
                return TaskStatus(task)
        except (ManagerClosed, RuntimeError) as error:
            tree.discard()
            if isinstance(error, ManagerClosed):
                raise
            raise SpawnFailed(command, str(error), _NO_ROOM_ADVICE) from None

    def status(self, task_id: str) -> TaskStatus:
        """Return what is known of a task now. Raises UnknownTask."""
        with self._mutex:
            return TaskStatus(self._find(task_id))

    def list(self, status: Optional[str] = None) -> List[TaskStatus]:
        """Return every task, oldest first; with `status`, those with that status word.

        Raises InvalidValue when there is no such word.
        """
        if status is not None and status not in STATUS_WORDS:
            raise InvalidValue("status", "must be one of " + ", ".join(STATUS_WORDS))
        with self._mutex:
            every = [TaskStatus(task) for task in self._tasks.values()]
        return [one for one in every if status is None or one.status == status]

    def output(
        self, task_id: str, tail_lines: int = 50, stream: Optional[str] = None
    ) -> TaskOutput:
        """Return the last `tail_lines` lines, as text that a terminal would show at the end.

        stream: "stdout", "stderr", or None for both in the order of arrival. All that a
        command printed before its exit is there as soon as its status is final.
        Raises UnknownTask, InvalidValue.
        """
        if isinstance(tail_lines, bool) or not isinstance(tail_lines, int) or tail_lines < 0:
            raise InvalidValue("tail_lines", "must be a whole number, 0 or more")
        if stream is not None and stream not in STREAMS:
            raise InvalidValue("stream", "must be one of " + ", ".join(STREAMS))
        with self._mutex:
            task = self._find(task_id)
            status = TaskStatus(task)
            tail = task.log.tail(tail_lines, STREAMS if stream is None else (stream,))
        return TaskOutput(status, render(tail.pieces), tail.earlier_lines, tail.earlier_bytes)

    def wait(
        self,
        task_id: str,
        timeout_s: Optional[float] = None,
        cancel: Optional[CancelToken] = None,
    ) -> TaskStatus:
        """Block until the task is over, at most `timeout_s` seconds; return its status then.

        When the time is up the status is not final, and the task runs on.
        Raises UnknownTask, InvalidValue, and Cancelled when `cancel` was cancelled.
        """
        if timeout_s is not None:
            _check_seconds("timeout_s", timeout_s)
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        changed = threading.Condition(self._mutex)

        def wake() -> None:
            with self._mutex:
                changed.notify_all()

        if cancel is not None:
            cancel.add_callback(wake)
        try:
            with self._mutex:
                task = self._find(task_id)
                task.waiters.append(changed)
                try:
                    while task.state != FINISHED:
                        if cancel is not None and cancel.cancelled:
                            raise Cancelled()
                        left = None if deadline is None else deadline - time.monotonic()
                        if left is not None and left <= 0:
                            break
                        changed.wait(left)
                    return TaskStatus(task)
                finally:
                    task.waiters.remove(changed)
        finally:
            if cancel is not None:
                cancel.remove_callback(wake)

    def end(
        self,
        task_id: str,
        signal: str = "SIGTERM",
        grace_s: float = GRACE_S,
        cancel: Optional[CancelToken] = None,
    ) -> TaskStatus:
        """End a task with all that came of it; return its status when that is done.

        signal, grace_s: as for `request_end`. A task that is over already is left alone.
        Raises UnknownTask, InvalidValue, and Cancelled when `cancel` was cancelled: then the
        ending goes on, and only the wait for it is given up.
        """
        self.request_end(task_id, signal, grace_s)
        return self.wait(task_id, cancel=cancel)

    def request_end(
        self, task_id: str, signal: str = "SIGTERM", grace_s: float = GRACE_S
    ) -> TaskStatus:
        """Ask a task to end; return at once what it was before.

        Every process of the task gets `signal`, a name; those that are left after
        `grace_s` seconds get SIGKILL. Asking again sends the signal again and can shorten
        the grace, not lengthen it. Nothing happens when the status returned is final.
        Raises UnknownTask, InvalidValue.
        """
        number = signal_number(signal)
        _check_seconds("grace_s", grace_s)
        with self._mutex:
            task = self._find(task_id)
            before = TaskStatus(task)
            if task.state != FINISHED:
                self._begin_ending(task, BY_REQUEST, number, grace_s)
            return before

    def close(self, grace_s: float = CLOSE_GRACE_S) -> None:
        """End every task, and what finished tasks left behind; take no more.

        SIGTERM first, SIGKILL after `grace_s` seconds, one common deadline for all. Returns
        when nothing is left, at most a second after the deadline. May be called again.
        """
        _check_seconds("grace_s", grace_s)
        number = signal_number("SIGTERM")
        with self._mutex:
            self._closed = True
            if self._keeper is not None:  # else nothing was started, or it is closed already
                for task in self._tasks.values():
                    self._begin_ending(task, BY_REQUEST, number, grace_s)
            deadline = time.monotonic() + grace_s + 1
            while self._endings and time.monotonic() < deadline:
                self._ending_over.wait(deadline - time.monotonic())
            reader, self._reader = self._reader, None
            keeper, self._keeper = self._keeper, None
            self._keeper_done = True
            self._keeper_wake.notify()
        if keeper is not None:
            keeper.join()
        if reader is not None:
            reader.close()

    # What follows and does not take the mutex itself is called with it held.

    def _find(self, task_id: str) -> _Task:
        try:
            return self._tasks[task_id]
        except (KeyError, TypeError):
            raise UnknownTask(task_id, reversed(list(self._tasks))) from None

    def _new_id(self) -> str:
        while True:
            number = int.from_bytes(os.urandom(5), "big")
            digits = (_ID_ALPHABET[number >> 5 * i & 31] for i in range(_ID_LENGTH))
            task_id = _ID_PREFIX + "".join(digits)
            if task_id not in self._tasks:
                return task_id

    def _ensure_threads(self) -> Union[SelectReader, ThreadReader]:
        if self._reader is None:
            self._reader = open_reader()
        if self._keeper is None:
            self._keeper = self._start_thread("keeper", self._keep)
        return self._reader

    def _start_thread(
        self, noun: str, target: Callable[..., None], *args: object
    ) -> threading.Thread:
        thread = threading.Thread(target=target, args=args, name="backgroundr-" + noun, daemon=True)
        thread.start()
        return thread

    def _begin_ending(self, task: _Task, by: str, signal_number: int, grace_s: float) -> None:
        """Signal a tree, or what a finished command left of it, and have the keeper see to it."""
        if task.state != FINISHED:
            task.state = next_state(task.state, STOP)
            task.stopped_by = task.stopped_by or by
        kill_at = time.monotonic() + grace_s
        if task.ending is None:
            task.ending = _Ending(task, signal_number, kill_at)
            self._endings.append(task.ending)
        else:
            task.ending.signal_number = signal_number
            task.ending.kill_at = min(task.ending.kill_at, kill_at)
            task.ending.look_at = 0.0
        task.tree.tell(signal_number)
        self._keeper_wake.notify()

    # The threads' side; each takes the mutex itself.

    def _wait_for_exit(self, task: _Task) -> None:
        task.tree.wait_exit()
        self._command_exited(task)

    def _command_exited(self, task: _Task) -> None:
        with self._mutex:
            if task.ending is not None:
                # The task is over when all of its tree is.
                task.ending.look_at = 0.0
                self._keeper_wake.notify()
                return
            reader = self._reader
        if reader is not None:
            reader.drain(task)

    def _drained(self, task: _Task) -> None:
        with self._mutex:
            if task.state == FINISHED or (task.ending is not None and not task.ending.over):
                return
            returncode = task.tree.reap()
            task.state = next_state(task.state, EXITED)
            task.outcome = outcome(returncode, task.stopped_by)
            if returncode < 0:
                task.signal = signal_name(-returncode)
            else:
                task.exit_code = returncode
            task.ended_at = time.time()
            task.ended_monotonic = time.monotonic()
            if task.ending is not None:
                self._forget_ending(task.ending)
            for waiter in task.waiters:
                waiter.notify_all()

    def _forget_ending(self, ending: _Ending) -> None:
        ending.task.ending = None
        self._endings.remove(ending)
        self._ending_over.notify_all()

    def _keep(self) -> None:
        """The keeper: enforces time limits and sees endings through."""
        while True:
            with self._mutex:
                now = time.monotonic()
                wake_at = self._enforce_time_limits(now)
                due = []
                for ending in self._endings:
                    if ending.over:
                        continue  # only its last output is still to be read
                    if ending.look_at <= now:
                        ending.look_at = math.inf  # unless somebody asks for an earlier look
                        due.append(ending)
                    else:
                        wake_at = min(wake_at, ending.look_at)
                if not due:
                    if self._keeper_done:
                        return
                    self._keeper_wake.wait(None if wake_at == math.inf else max(0, wake_at - now))
                    continue
            self._see_through(due)

    def _enforce_time_limits(self, now: float) -> float:
        """End the tasks whose time is up; return when the next one's is."""
        while self._time_limits:
            at, _, task = self._time_limits[0]
            if at > now and task.state == RUNNING:
                return at
            heapq.heappop(self._time_limits)
            if task.state == RUNNING:
                self._begin_ending(task, BY_TIMEOUT, signal_number("SIGTERM"), GRACE_S)
        return math.inf

    def _see_through(self, due: List[_Ending]) -> None:
        """Survey the trees of `due` once, act on what is found, say when to look again."""
        try:
            found = survey([ending.task.tree for ending in due])
        except OSError:
            found = None  # no descriptor free to look with; the group can be killed without
        gone = []
        for ending in due:
            tree = ending.task.tree
            now = time.monotonic()
            members = found[tree] if found is not None else []
            if found is None:
                if now >= ending.kill_at:
                    tree.kill([])
                look_at = now + GRACE_PAUSE_S
            elif not members:
                ending.empty_surveys += 1
                look_at = now + SURVEY_PAUSE_S
                if ending.empty_surveys >= EMPTY_SURVEYS:
                    gone.append(ending)
            elif now >= ending.kill_at:
                tree.kill(members)
                look_at = now + SURVEY_PAUSE_S
            elif tree.follow(members, ending.signal_number):
                look_at = now + SURVEY_PAUSE_S
            elif any(member.pid == tree.pid for member in members):
                look_at = ending.kill_at  # its exit brings the next look sooner
            else:
                look_at = min(ending.kill_at, now + GRACE_PAUSE_S)
            if members:
                ending.empty_surveys = 0
            with self._mutex:
                ending.look_at = min(ending.look_at, look_at)
        with self._mutex:
            reader = self._reader
            drains = []
            for ending in gone:
                ending.over = True
                if ending.task.state == FINISHED:
                    self._forget_ending(ending)
                else:
                    drains.append(ending.task)
        for task in drains:
            # Nobody was seen, and the number of the group is still taken: where the system
            # shows less than it should (no /proc), this reaches who is left in it.
            task.tree.kill([])
            if reader is not None:
                reader.drain(task)


def _check_text(argument: str, text: str) -> None:
    """Raise InvalidValue unless the operating system can be handed `text`."""
    if not isinstance(text, str):
        raise InvalidValue(argument, "must be text, not %s" % type(text).__name__)
    if "\0" in text:
        raise InvalidValue(argument, "must not contain a NUL character")
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise InvalidValue(
            argument, "has a character that is no valid Unicode at position %d" % error.start
        ) from None


def _check_seconds(argument: str, seconds: float) -> None:
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise InvalidValue(argument, "must be a number of seconds")
    if not 0 <= seconds <= MAX_SECONDS:
        raise InvalidValue(argument, "must be between 0 and %d seconds" % MAX_SECONDS)


def _directory(cwd: Optional[str]) -> str:
    """Return the absolute path of an existing directory. Raises InvalidValue."""
    if cwd is None:
        try:
            return os.getcwd()
        except OSError:
            raise InvalidValue(
                "cwd", "must be given, for the directory that the server runs in is gone"
            ) from None
    _check_text("cwd", cwd)
    try:
        path = os.path.abspath(os.path.expanduser(cwd))
    except OSError:
        raise InvalidValue(
            "cwd", "must be an absolute path, for the directory that the server runs in is gone"
        ) from None
    if not os.path.isdir(native(path)):
        kind = "a file" if os.path.exists(native(path)) else "missing"
        raise InvalidValue("cwd", "must be an existing directory, and %s is %s" % (path, kind))
    return path
