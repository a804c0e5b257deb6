"""TaskManager: starts background commands, keeps what they print, and ends them.

The library of this package, of which the MCP server is the first user:

    with TaskManager() as manager:
        task = manager.start("make test")
        task = manager.wait(task.task_id, timeout_s=60)
        print(task.status, task.exit_code, manager.output(task.task_id).text)

Threads, all of them started by the first command: one reader (see `reader`), one keeper
(time limits, and tasks that are ending), and on systems that cannot watch for an exit in
another way, one waiter a command. None is left after `close`, nor is the process that was
started with them, the guardian.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque

from .arguments import (
    TaskSettings,
    check_seconds,
    check_text,
    check_texts,
    check_whole,
    input_bytes,
    working_directory,
)
from .ending import KILL_PATIENCE_S
from .errors import (
    AmbiguousName,
    InvalidValue,
    ManagerClosed,
    SpawnFailed,
    UnknownTask,
)
from .keeper import Keeper, Kept
from .lifecycle import (
    ALIVE,
    BY_REQUEST,
    BY_TIMEOUT,
    EXITED,
    FINISHED,
    RUNNING,
    STATUS_WORDS,
    STOP,
    STOPPING,
    next_state,
    outcome,
)
from .logfile import LOG_BYTES, LogFile
from .marks import new_base_mark, timer_slack_of, tree_mark
from .output import STREAMS, Tail, count_newlines
from .paging import (
    MIN_BYTES,
    Newest,
    format_cursor,
    leave_unfinished,
    place_of,
    read_last_page,
    read_page,
    retained_place,
)
from .policy import StartPolicy
from .proctree import (
    guardian_opener,
    hide_process,
    no_room,
    open_tree,
    return_freed_memory,
    shell_argv,
    signal_name,
    signal_number,
    survey,
)
from .reader import Channel, open_reader
from .screen import LINE_CHARS
from .sending import PendingInput
from .status import TaskOutput, TaskPage, TaskStatus
from .stdio import EMPTY, PIPE, TERMINAL
from .taskinput import TaskInput
from .terminal import Terminal
from .waiting import TaskWait, WatchedTask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import (
        Any,
        Callable,
        Deque,
        Dict,
        List,
        Mapping,
        Optional,
        Sequence,
        Tuple,
        Type,
        Union,
    )

    from .cancel import CancelToken
    from .proctree import Tree
    from .reader import SelectReader, ThreadReader
    from .status import TaskInputResult

    OnChange = Callable[[str, str], None]

BUFFER_BYTES = 1024 * 1024
FINISHED_BUFFER_BYTES = 32 * 1024 * 1024
PAGE_BYTES = 16 * 1024
MAX_TASKS = 100
GRACE_S = 5.0
# How long input may take to be written.
INPUT_PATIENCE_S = 1.0
_MAX_PORT = 65535
_LAST_LINE_BYTES = 4096
# In the place of a cursor: where the output ends now.
END = "end"
_BEFORE_WHAT = '"end", or the previous_cursor or next_cursor of an answer about this task'
# How many times as large a part of the output is looked at for a page that ends somewhere: as
# text it may be smaller.
_BEFORE_FACTOR = 4
# The longest line that is left for a further page, as it may grow. To find what a terminal would
# show of so much takes up to 0.06 s, for each page anew.
_LEFT_BYTES = 131072
# MCP clients give a server about two seconds to go before they signal it; this leaves half.
CLOSE_GRACE_S = 1.0

# What `on_change` is told.
CHANGED_START = "start"
CHANGED_OUTPUT = "output"
CHANGED_STATUS = "status"

# Crockford's base 32: no letter is taken for a digit. A letter stands in front, so that no
# id can be taken for a number. 8 times 5 bits.
_ID_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_ID_PREFIX = "t"
_ID_LENGTH = 8


class _Task(WatchedTask, Channel, Kept):
    """One command, its pipes and its processes. The manager's mutex owns what changes."""

    def __init__(
        self,
        manager: TaskManager,
        task_id: str,
        settings: TaskSettings,
        tree: Tree,
        started_at: float,
        started_monotonic: float,
    ) -> None:
        WatchedTask.__init__(
            self,
            task_id,
            settings,
            tree.pid,
            set(tree.pipes.values()),
            manager.buffer_bytes,
            started_at,
            started_monotonic,
        )
        Channel.__init__(self, tree.pipes)
        Kept.__init__(self, tree)
        self._manager = manager
        # It is known that nobody is left of the tree, and that stays so.
        self.tree_empty = False
        # How many were left of it, and in which look at the system that was seen.
        self.left: Optional[int] = None
        self.left_look = 0
        self._lines_are_long = False
        # What its output costs of what all finished tasks may keep.
        self.counted_bytes = 0
        self.is_being_restarted = False
        if tree.input_fd is not None:
            self.input = TaskInput(tree.input_fd)
        if settings.pty:
            self.terminal = Terminal()

    def on_output(self, stream: str, data: bytes) -> None:
        if self.terminal is not None:
            answer = self.terminal.see(data)
            # A program that does not read gets no more of them than a terminal keeps for it.
            if answer and self.input is not None and self.input.pending_bytes == 0:
                self.input.send(answer)
                self._manager._attend(self)
        newlines, self._lines_are_long = count_newlines(data, self._lines_are_long)
        now = time.time()
        if self.log_file is not None:
            self.log_file.write(data)
        with self._manager._mutex:
            self.log.append(stream, data, newlines)
            self.last_output_at = now
            self.note_activity()
            if self.state == FINISHED:
                self._manager._account_for_finished(self)
            for waiter in self.output_waiters:
                waiter.notify_all()
        self._manager._tell(self, CHANGED_OUTPUT)

    def on_output_end(self, stream: str) -> None:
        with self._manager._mutex:
            self.open_streams.discard(stream)
            is_last = not self.open_streams
        if is_last and self.log_file is not None:
            self.log_file.close()

    def on_exit(self) -> None:
        self.tree.close_exit_fd()
        self._manager._command_exited(self)

    def on_drained(self) -> None:
        self._manager._drained(self)

    @property
    def is_running(self) -> bool:
        return self.state == RUNNING

    @property
    def is_over(self) -> bool:
        return self.state == FINISHED and self.ending is None

    def on_time_limit(self) -> None:
        self._manager._begin_ending(self, BY_TIMEOUT, signal_number("SIGTERM"), GRACE_S)

    def on_ending(self) -> None:
        self._manager._tell(self, CHANGED_STATUS)

    def on_nobody_left(self) -> None:
        self._manager._nobody_left(self)


class TaskManager:
    """Starts commands and ends them, with all that comes of them, at `close` at the latest.

    shell: the program that runs command lines, by `shell -c COMMAND`; None: /bin/sh, on
    Windows %COMSPEC%. buffer_bytes: how much of its most recent output is kept a task.
    max_tasks: how many may run at once. finished_buffer_bytes: how much finished tasks keep
    together; beyond it, those that ended first give up their output, and what was given for
    their stdin, the last one never.
    log_dir: an existing directory for the whole output of each task in a file of its own,
    named as the task; None: no files. log_bytes: how long such a file may become. Where one
    cannot be written any more the task goes on, and its status says so; while a disk makes
    the writing wait, the reading of every task waits.
    allow, deny_env, cwd_roots: what may be started, as in `StartPolicy`; by default everything.
    on_change: called with a task's id and "start", "output" or "status" when that changed, on
    whichever thread saw it, with no lock held; it must not raise, and only take note, for the
    reading of every task waits for it.
    owns_process: this process is there for this manager alone: no other code in it starts
    processes, so that for an instant its own limits may hold the mark of a command (see
    `proctable`); and it is hidden from its commands (see `proctree.hide_process`).

    Every method may be called from any thread, and none disturbs another that waits. The
    manager installs no signal handler, prints nothing, and starts nothing before the first
    command. Leaving a `with` block closes it. In a host program that ignores SIGCHLD, or
    waits for children that are not its own, exit codes are lost and read as 0.

    Raises InvalidValue for numbers and paths that are none.
    """

    def __init__(
        self,
        shell: Optional[str] = None,
        buffer_bytes: int = BUFFER_BYTES,
        max_tasks: int = MAX_TASKS,
        on_change: Optional[OnChange] = None,
        owns_process: bool = False,
        finished_buffer_bytes: int = FINISHED_BUFFER_BYTES,
        log_dir: Optional[str] = None,
        log_bytes: int = LOG_BYTES,
        allow: Optional[Sequence[str]] = None,
        deny_env: bool = False,
        cwd_roots: Sequence[str] = (),
    ) -> None:
        for argument, number, least in (
            ("buffer_bytes", buffer_bytes, 1),
            ("max_tasks", max_tasks, 1),
            ("finished_buffer_bytes", finished_buffer_bytes, 0),
            ("log_bytes", log_bytes, 1),
        ):
            check_whole(argument, number, least)
        if log_dir is not None:
            check_text("log_dir", log_dir)
        if allow is not None and shell is not None:
            raise InvalidValue("shell", "must not be given with allow, for no shell is used then")
        self.policy = StartPolicy(allow, deny_env, cwd_roots)
        self.shell = shell
        self.buffer_bytes = buffer_bytes
        # Not so much that it is dropped from the buffer while it is left.
        self._left_bytes = min(_LEFT_BYTES, buffer_bytes // 2)
        self.max_tasks = max_tasks
        self.finished_buffer_bytes = finished_buffer_bytes
        self.log_dir = None if log_dir is None else os.path.abspath(log_dir)
        self.log_bytes = log_bytes
        # Replaced when one comes or goes, with _mutex held; so it may be read without.
        self._listeners: Tuple[OnChange, ...] = () if on_change is None else (on_change,)
        self._owns_process = owns_process
        # Unique to this manager: what is another one's is never taken for ours.
        self._base_mark = new_base_mark()
        # Held while a command is started, so one at a time. Owns _guardian, which is changed
        # with _mutex held too, _starts and _slacks. Taken before _mutex.
        self._starting = threading.Lock()
        self._open_guardian = guardian_opener(self._base_mark)
        self._guardian: Any = None
        self._starts = 0
        self._slacks: Dict[int, Tree] = {}  # the last tree with each timer slack
        # _mutex owns the table of tasks, every field of a task, every log and every ending.
        # Held for microseconds: never across I/O, a callback or a wait. The exceptions are
        # the reap, because "not yet reaped" is part of a task's state, and a line or the end
        # of a guardian.
        self._mutex = threading.Lock()
        # Held during a look at the system for what finished tasks left; _looks counts those
        # that have begun. Taken before _mutex.
        self._looking = threading.Lock()
        self._looks = 0
        self._tasks: Dict[str, _Task] = {}  # oldest first
        self._alive = 0  # how many of them are not finished
        # Those that are and have not given up their output, the first that ended first; and
        # what that costs.
        self._finished: Deque[_Task] = deque()
        self._finished_bytes = 0
        self._reader: Union[SelectReader, ThreadReader, None] = None
        self._keeper: Optional[Keeper] = None
        # No task is taken any more; and: what could not be ended by now stays as it is.
        self._closed = False
        self._given_up = False

    def __enter__(self) -> TaskManager:
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()

    def __contains__(self, task_id: object) -> bool:
        """Whether a task has this id. (Names do not count here.)"""
        with self._mutex:
            return task_id in self._tasks

    def listen(self, on_change: OnChange) -> None:
        """Have one more function called as `on_change` is, until `unlisten`."""
        with self._mutex:
            self._listeners += (on_change,)

    def unlisten(self, on_change: OnChange) -> None:
        """Undo `listen`; a call that is under way may still come."""
        with self._mutex:
            self._listeners = tuple(one for one in self._listeners if one != on_change)

    def start(
        self,
        command: str,
        name: Optional[str] = None,
        cwd: Optional[str] = None,
        env: Optional[Mapping[str, str]] = None,
        timeout_s: Optional[float] = None,
        stdin: Optional[str] = None,
        interactive: bool = False,
        pty: bool = False,
    ) -> TaskStatus:
        """Start a shell command line and return at once.

        name: a label for people, which may stand for the id while one running task has it.
        cwd: where it runs, "~" understood; None: this process's directory. env: entries added
        to this process's environment. timeout_s: it is ended, and `timed_out`, when it still
        runs after so many seconds. stdin: text for it to read, however slowly; None: nothing.
        interactive: its stdin stays open behind that, for `send_input`; else it ends there.
        pty: it has a terminal of `stdio.COLUMNS` by `stdio.ROWS`, and is interactive; all its
        output is stdout then.
        Raises InvalidValue, SpawnFailed (nothing was started; also when `max_tasks` run),
        NotAllowed and ManagerClosed.
        """
        directory = self.policy.directory(cwd)
        return self._start(
            TaskSettings(command, name, directory, env, timeout_s, stdin, interactive, pty)
        )

    def _start(self, settings: TaskSettings) -> TaskStatus:
        with self._starting:
            task, status = self._start_task(settings)
        if task.input is not None:
            if settings.stdin is not None:
                task.input.send(settings.stdin, ends=not settings.interactive)
            self._attend(task)
        self._tell(task, CHANGED_START)
        return status

    def _start_task(self, settings: TaskSettings) -> Tuple[_Task, TaskStatus]:
        command = settings.command
        argv, directory = self.policy.admit(settings)
        with self._mutex:
            if self._closed:
                raise ManagerClosed()
            if self._alive >= self.max_tasks:
                running = "task is" if self._alive == 1 else "tasks are"
                raise SpawnFailed(
                    command,
                    "%d %s running, as many as may run at once" % (self._alive, running),
                    SpawnFailed.MAKE_ROOM + " The server's option --max-tasks sets how many may.",
                )
            task_id = self._new_id()
            try:
                reader, keeper = self._ensure_threads()
            except (OSError, RuntimeError) as error:
                raise no_room(error, command) from None
        try:
            self._ensure_guardian()
        except OSError as error:
            raise no_room(error, command) from None
        mark = tree_mark(self._base_mark, self._starts)
        self._starts += 1
        slack = timer_slack_of(mark)
        if slack in self._slacks:
            self._slacks[slack].shares_timer_slack()
        # Before it is there: on a busy machine it may be over before anything else is done here.
        started = time.time(), time.monotonic()
        tree = open_tree(
            shell_argv(self.shell, command) if argv is None else argv,
            directory,
            settings.env,
            mark,
            alone=self._owns_process,
            stdin=_stdin_of(settings),
            command=command,
        )
        self._slacks[slack] = tree
        task = _Task(self, task_id, settings, tree, *started)
        try:
            self._ensure_guardian()  # it may have been killed in the meantime
            if self.log_dir is not None:
                task.log_file = LogFile(self.log_dir, task_id, self.log_bytes)
            with self._mutex:
                if self._closed:
                    raise ManagerClosed()
                if tree.exit_fd is None:
                    # With the mutex held, so that it cannot report the exit of a task that
                    # the reader does not know yet.
                    threading.Thread(
                        target=self._wait_for_exit,
                        args=(task,),
                        name="backgroundr-waiter",
                        daemon=True,
                    ).start()
                reader.add(task, tree.exit_fd)
                self._tasks[task_id] = task
                self._alive += 1
                if self._guardian is not None:
                    self._guardian.watch(tree.pid)
                if settings.timeout_s is not None:
                    keeper.limit(task, task.started_monotonic + settings.timeout_s)
                return task, TaskStatus(task)
        except (ManagerClosed, OSError, RuntimeError) as error:
            tree.discard()
            if task.log_file is not None:
                task.log_file.discard()
            if isinstance(error, ManagerClosed):
                raise
            raise no_room(error, command) from None

    def _ensure_guardian(self) -> None:
        """Start the guardian, with the first command, or when somebody has killed it."""
        if self._guardian is not None and self._guardian.is_alive():
            return
        if self._guardian is None and self._owns_process:
            hide_process()
            return_freed_memory()
        guardian = self._open_guardian()
        with self._mutex:
            if self._guardian is not None:
                self._guardian.release()
            self._guardian = guardian
            if guardian is not None:
                for task in self._tasks.values():
                    if task.state != FINISHED:
                        guardian.watch(task.tree.pid)

    def status(self, task_id: str) -> TaskStatus:
        """Return what is known of a task now. Raises UnknownTask, AmbiguousName.

        task_id: here and everywhere its id, or its name when one running task has that; when
        none does, the name of a finished one means the newest.
        """
        with self._mutex:
            status = TaskStatus(self._find(task_id))
        return self._count_left([status])[0]

    def list(self, status: Optional[str] = None) -> List[TaskStatus]:
        """Return every task, oldest first; with `status`, those with that status word.

        Raises InvalidValue when there is no such word.
        """
        if status is not None and status not in STATUS_WORDS:
            raise InvalidValue("status", "must be one of " + ", ".join(STATUS_WORDS))
        with self._mutex:
            every = [TaskStatus(task) for task in self._tasks.values()]
        return self._count_left([one for one in every if status in (None, one.status)])

    def output(
        self,
        task_id: str,
        tail_lines: int = 50,
        stream: Optional[str] = None,
        max_bytes: Optional[int] = None,
        cursor: Union[str, int, None] = None,
    ) -> TaskOutput:
        """Return the last `tail_lines` lines, as text that a terminal would show at the end.

        They begin where the task last cleared the screen. stream: "stdout", "stderr", or None
        for both in the order of arrival. max_bytes: fewer lines when these take more, in
        UTF-8. cursor: only of what was printed behind it, as for `read_output`. A long line
        is clipped in its middle, and says so. All that a command printed before its exit is
        there as soon as its status is final.
        Raises UnknownTask, AmbiguousName, InvalidValue.
        """
        check_whole("tail_lines", tail_lines, 0)
        if max_bytes is not None:
            check_whole("max_bytes", max_bytes, MIN_BYTES)
        streams = _streams(stream)
        with self._mutex:
            task = self._find(task_id)
            status = TaskStatus(task)
            if cursor is None:
                tail = task.log.tail(tail_lines, streams)
                total_bytes = task.log.total_bytes(streams)
                dropped_bytes = task.log.dropped_bytes(streams)
            else:
                place, dropped_bytes = retained_place(task.log, cursor, streams)
                pieces = task.log.since({name: place[name] for name in streams})
                tail = Tail(pieces, 0, dropped_bytes)
                total_bytes = dropped_bytes + sum(len(data) for _, data in pieces)
            end = {**task.log.begin_place, **{name: task.log.end_place[name] for name in streams}}
            retained_bytes = total_bytes - dropped_bytes
            open_streams = set(task.open_streams)
        self._count_left([status])
        newest = Newest(tail.pieces, open_streams, max_bytes, tail_lines)
        for name, held_bytes in newest.held.items():
            end[name] -= held_bytes
        return TaskOutput(
            status,
            newest,
            tail,
            total_bytes,
            retained_bytes,
            format_cursor(end),
            cursor is not None,
        )

    def task_of(self, pid: int) -> Optional[TaskStatus]:
        """Return the task of which a process is, of those that are not over, or None."""
        with self._mutex:
            alive = [task for task in self._tasks.values() if task.state != FINISHED]
        try:
            found = survey([task.tree for task in alive])
        except OSError:
            return None  # no descriptor free to look with
        for task in alive:
            if any(member.pid == pid for member in found[task.tree]):
                return self.status(task.task_id)
        return None

    def last_line(self, task_id: str) -> str:
        """Return the newest line that has something to see, of the last few KiB, or "".

        Raises UnknownTask, AmbiguousName.
        """
        with self._mutex:
            log = self._find(task_id).log
            pieces = log.since(
                {stream: end - _LAST_LINE_BYTES for stream, end in log.end_place.items()}
            )
        lines = Newest(pieces, ()).texts
        return next((line for line in reversed(lines) if line.strip()), "")

    def read_output(
        self,
        task_id: str,
        cursor: Union[str, int, None] = None,
        max_bytes: int = PAGE_BYTES,
        stream: Optional[str] = None,
        contains: Sequence[str] = (),
        context_lines: int = 0,
        raw: bool = False,
        line_chars: int = LINE_CHARS,
        before: Union[str, int, None] = None,
        whole_lines: bool = False,
    ) -> TaskPage:
        """Return a page of output that begins at `cursor`; see `TaskPage`. It changes nothing.

        cursor: the `next_cursor` of a page or of an output of this task, or an offset, the
        number of bytes that both streams had printed before; None: the oldest that is
        retained. max_bytes: how large the text may be, in UTF-8. stream: as for `output`.
        contains: show only lines that contain one of these strings, each with
        `context_lines` lines around it, and groups of lines that do not touch with a line
        "--" between. raw: the text as it was printed, where otherwise it is what a terminal
        would show at the end of each line, lines longer than `line_chars` clipped. (A line that
        was looked for is clipped to a page also when raw.) before: in place of `cursor`, and
        without `contains`, the page that ends there; END: the last one there is now. whole_lines:
        a line that may still grow is shown, and left for the next page too.
        Raises UnknownTask, AmbiguousName, InvalidValue.
        """
        check_whole("max_bytes", max_bytes, MIN_BYTES)
        check_whole("context_lines", context_lines, 0)
        check_whole("line_chars", line_chars, MIN_BYTES)
        contains = check_texts("contains", contains)
        streams = _streams(stream)
        if before is not None:
            if cursor is not None or contains:
                raise InvalidValue("before", "cannot stand beside cursor or contains")
            return self._read_before(
                task_id, before, max_bytes, streams, raw, line_chars, whole_lines
            )
        with self._mutex:
            task = self._find(task_id)
            status = TaskStatus(task)
            place, skipped_bytes = retained_place(task.log, cursor, streams)
            pieces = task.log.since({name: place[name] for name in streams})
            open_streams = set(task.open_streams)
        self._count_left([status])
        page = read_page(pieces, open_streams, max_bytes, raw, contains, context_lines, line_chars)
        if whole_lines and not page.more:
            leave_unfinished(page, open_streams, self._left_bytes)
        previous_cursor = format_cursor(place)
        for name, size in page.sizes.items():
            place[name] += size
        return TaskPage(status, page, skipped_bytes, previous_cursor, format_cursor(place))

    def _read_before(
        self,
        task_id: str,
        before: Union[str, int],
        max_bytes: int,
        streams: Tuple[str, ...],
        raw: bool,
        line_chars: int,
        whole_lines: bool,
    ) -> TaskPage:
        """Return the page that ends at `before`; see `read_output`."""
        with self._mutex:
            task = self._find(task_id)
            status = TaskStatus(task)
            begin = task.log.begin_place
            last = task.log.end_place
            end = last if before == END else place_of(task.log, before, "before", _BEFORE_WHAT)
            last_streams = {name for name in streams if end[name] == last[name]}
            open_streams = last_streams & task.open_streams
            pieces, cut_streams = task.log.until(
                {name: end[name] for name in streams}, max_bytes * _BEFORE_FACTOR, open_streams
            )
        self._count_left([status])
        page = read_last_page(
            pieces, cut_streams, last_streams, open_streams, max_bytes, raw, line_chars
        )
        if whole_lines:
            leave_unfinished(page, open_streams, self._left_bytes)
        place = {name: max(end[name], begin[name]) for name in end}
        for name, held_bytes in page.held.items():
            place[name] -= held_bytes
        # Of a stream that was not asked for, only a cursor can say that it was read.
        others = begin if before == END else place
        next_cursor = format_cursor({**others, **{name: place[name] for name in streams}})
        for name, size in page.sizes.items():
            place[name] -= size
        page.more = any(place[name] > begin[name] for name in streams)
        skipped_bytes = 0 if page.more else sum(min(begin[name], end[name]) for name in streams)
        return TaskPage(status, page, skipped_bytes, format_cursor(place), next_cursor)

    def wait(
        self,
        task_id: str,
        timeout_s: Optional[float] = None,
        cancel: Optional[CancelToken] = None,
    ) -> TaskStatus:
        """Block until the task is over, at most `timeout_s` seconds; return its status then.

        While what a finished task left behind is being ended, it waits for that too. When
        the time is up the status may not be final, and the task runs on. Nor may it be once
        the manager is closed and could not end the task (see `close`).
        Raises UnknownTask, AmbiguousName, InvalidValue, and Cancelled when `cancel` was cancelled.
        """
        if timeout_s is not None:
            check_seconds("timeout_s", timeout_s)
        wait = self.watch([task_id])
        wait.run(timeout_s, cancel)
        return self.status(wait.task_ids[0])

    def watch(
        self,
        task_ids: Sequence[str],
        until_output: Union[str, Sequence[str]] = (),
        cursor: Union[str, int, None] = None,
        until_port: Optional[int] = None,
        until_quiet_s: Optional[float] = None,
        for_all: bool = False,
    ) -> TaskWait:
        """Return a wait for tasks, which its `run` begins, and which goes on with each `run`.

        It is met when one of the tasks, or `for_all` each of them, is over or does what is
        waited for. until_output: prints a line that contains one of these, looked for in what
        is retained, from `cursor` on if that is given (see `read_output`). until_port: listens
        on a TCP port of this machine. until_quiet_s: neither prints nor is sent anything for
        so many seconds. Behind the `cursor` of input that was sent, what a terminal shows again
        of that does not count.
        Raises UnknownTask, AmbiguousName, InvalidValue.
        """
        texts = check_texts("until_output", until_output)
        if until_port is not None:
            check_whole("until_port", until_port, 1)
            if until_port > _MAX_PORT:
                raise InvalidValue("until_port", "must be at most %d" % _MAX_PORT)
        if until_quiet_s is not None:
            check_seconds("until_quiet_s", until_quiet_s)
        if not task_ids:
            raise InvalidValue("task_ids", "must name a task")
        if cursor is not None and len(task_ids) > 1:
            raise InvalidValue("cursor", "is of one task, and cannot stand beside several")
        with self._mutex:
            tasks = list(dict.fromkeys(self._find(task_id) for task_id in task_ids))
            places = [place_of(task.log, cursor) for task in tasks]
            is_reaction = cursor is not None and cursor == tasks[0].echo_cursor
            echo = tasks[0].echo if is_reaction else None
        return TaskWait(
            self._mutex,
            lambda: self._given_up,
            tasks,
            texts,
            places,
            until_port,
            until_quiet_s,
            for_all,
            echo,
        )

    def send_input(
        self,
        task_id: str,
        text: str = "",
        enter: bool = False,
        keys: Sequence[str] = (),
        close: bool = False,
        timeout_s: float = INPUT_PATIENCE_S,
    ) -> TaskInputResult:
        """Send to the stdin of a task that was started `interactive` or with `pty`.

        text: as it is. enter: a newline behind it, on a terminal what the key sends. keys:
        behind that, names of `terminal.KEYS`, for a terminal only. close: the input ends behind
        all; on a terminal that is what ctrl-d says, and more can be sent. timeout_s: what the
        program, or the system for it, has not taken by then is given up.
        Raises UnknownTask, AmbiguousName, InvalidValue, InputRefused.
        """
        check_seconds("timeout_s", timeout_s)
        return self.begin_input(task_id, text, enter, keys, close).finish(timeout_s)

    def begin_input(
        self,
        task_id: str,
        text: str = "",
        enter: bool = False,
        keys: Sequence[str] = (),
        close: bool = False,
    ) -> PendingInput:
        """Send as `send_input` does, without delay; the `finish` of what comes back waits."""
        data = input_bytes("input", text)
        with self._mutex:
            task = self._find(task_id)
            pending = PendingInput(self.status, task, data, enter, keys, close)
        self._attend(task)
        return pending

    def restart(
        self, task_id: str, grace_s: float = GRACE_S, cancel: Optional[CancelToken] = None
    ) -> TaskStatus:
        """End a task, if it is not over, and start it again with the same settings, as a new one.

        Returns the status of the new task; that of the old one says in `replaced_by` which that
        is. grace_s: as for `end`.
        Raises UnknownTask, AmbiguousName, InvalidValue, what `start` raises (then the old task
        has ended all the same), and Cancelled when `cancel` was cancelled before it had.
        """
        with self._mutex:
            task = self._find(task_id)
        # Before anything is ended.
        working_directory(task.settings.cwd)
        if task.settings.has_given_up_stdin:
            raise InvalidValue(
                "task_id",
                "must be of a task whose stdin is still kept: tasks that ended since have taken"
                " the room (--finished-buffer-bytes). Start it with run_background_task",
            )
        with self._mutex:
            if task.is_being_restarted:
                raise InvalidValue("task_id", "must not be a task that is being restarted already")
            newest = task
            while newest.replaced_by is not None:
                newest = self._tasks[newest.replaced_by]
            if newest is not task and newest.state != FINISHED:
                raise InvalidValue(
                    "task_id",
                    "must not be a task that was restarted already: in its place runs %s"
                    % newest.task_id,
                )
            task.is_being_restarted = True
            is_ending = task.state == STOPPING
            if is_ending:
                number = signal_number("SIGTERM")
                self._begin_ending(task, BY_REQUEST, number, grace_s, again=False)
        try:
            if not is_ending:
                self.request_end(task.task_id, grace_s=grace_s)
            status = self.wait(task.task_id, grace_s + 2 * KILL_PATIENCE_S, cancel)
            if not status.is_final:
                raise SpawnFailed(
                    task.settings.command,
                    "the former task %s does not end" % task.task_id,
                    "Wait for it, or start the command as another task.",
                )
            status = self._start(task.settings)
            with self._mutex:
                task.replaced_by = status.task_id
            self._tell(task, CHANGED_STATUS)
            return status
        finally:
            with self._mutex:
                task.is_being_restarted = False

    def end(
        self,
        task_id: str,
        signal: str = "SIGTERM",
        grace_s: float = GRACE_S,
        cancel: Optional[CancelToken] = None,
    ) -> TaskStatus:
        """End a task with all that came of it; return its status when that is done.

        signal, grace_s: as for `request_end`.
        Raises UnknownTask, AmbiguousName, InvalidValue, and Cancelled when `cancel` was
        cancelled: then the ending goes on, and only the wait for it is given up.
        """
        self.request_end(task_id, signal, grace_s)
        return self.wait(task_id, cancel=cancel)

    def request_end(
        self, task_id: str, signal: str = "SIGTERM", grace_s: float = GRACE_S
    ) -> TaskStatus:
        """Ask a task to end; return at once what it was before.

        Every process of the task gets `signal`, a name; those that are left after
        `grace_s` seconds get SIGKILL. Asking again sends the signal again and can shorten
        the grace, not lengthen it. Of a task that is over it ends the processes that the
        command left behind, if there are any, and its status stays what it is.
        Raises UnknownTask, AmbiguousName, InvalidValue.
        """
        number = signal_number(signal)
        check_seconds("grace_s", grace_s)
        before = self.status(task_id)
        if before.processes_left != 0:
            with self._mutex:
                self._begin_ending(self._find(task_id), BY_REQUEST, number, grace_s)
        return before

    def close(self, grace_s: float = CLOSE_GRACE_S) -> None:
        """End every task, and what finished tasks left behind; take no more.

        SIGTERM first, SIGKILL after `grace_s` seconds, one common deadline for all. Returns
        when nothing is left, at most some two seconds after the deadline: a process that may not
        be signalled, for it is another user's, is left. May be called again, also while it
        runs, with a shorter grace.
        """
        check_seconds("grace_s", grace_s)
        number = signal_number("SIGTERM")
        with self._mutex:
            self._closed = True
            if self._keeper is not None:  # else nothing was started, or it is closed already
                for task in self._tasks.values():
                    if not task.tree_empty:
                        self._begin_ending(task, BY_REQUEST, number, grace_s, again=False)
                self._keeper.wait_for_endings(grace_s + KILL_PATIENCE_S)
            reader, self._reader = self._reader, None
            keeper, self._keeper = self._keeper, None
            if keeper is not None:
                keeper.stop()
            self._given_up = True
            all_ended = not any(task.ending for task in self._tasks.values())
            for task in self._tasks.values():
                for waiter in task.waiters:
                    waiter.notify_all()
        if keeper is not None:
            keeper.join()
        if reader is not None:
            reader.close()
        for task in self._tasks.values():
            if task.input is not None:
                task.input.close()
        with self._starting, self._mutex:
            guardian, self._guardian = self._guardian, None
        if guardian is not None:
            if all_ended:
                guardian.release()
            else:
                guardian.take_over()

    def _count_left(self, statuses: List[TaskStatus]) -> List[TaskStatus]:
        """Fill in `processes_left` of those that are over; return `statuses`.

        One look at the system, outside of the mutex, and none for a task of which it is
        known that nobody is left. Who asks while another looks shares the next look with all
        who do: sixty who waited for the same end do not look sixty times.
        """
        with self._mutex:
            looks = self._looks
            over = [
                (status, task)
                for status, task in ((one, self._tasks[one.task_id]) for one in statuses)
                if status.is_final and not task.tree_empty
            ]
        if over:
            with self._looking:
                with self._mutex:
                    unseen = [task for _, task in over if task.left_look <= looks]
                if unseen:
                    self._look(unseen)
            with self._mutex:
                for status, task in over:
                    status.processes_left = task.left
        return statuses

    def _look(self, tasks: List[_Task]) -> None:
        """Count what is left of tasks that are over."""
        with self._mutex:
            self._looks += 1
            look = self._looks
        try:
            found = survey([task.tree for task in tasks])
        except OSError:
            return  # no descriptor free to look with; what was seen last still stands
        with self._mutex:
            for task in tasks:
                task.left = len(found[task.tree])
                task.left_look = look
                # One survey can miss a daemon in the moment of its birth, so soon after the
                # end of its command an empty one is not the last word.
                settled = task.ended_at is not None and time.time() - task.ended_at > 1
                task.tree_empty = settled and not found[task.tree]

    # What follows and does not take the mutex itself is called with it held.

    def _find(self, task_id: str) -> _Task:
        try:
            return self._tasks[task_id]
        except (KeyError, TypeError):
            named = [task for task in self._tasks.values() if task.settings.name == task_id]
        for states in ((RUNNING,), ALIVE):
            found = [task for task in named if task.state in states]
            if len(found) > 1:
                raise AmbiguousName(task_id, [task.task_id for task in reversed(found)])
            if found:
                return found[0]
        if not named:
            newest = reversed(list(self._tasks.values()))
            raise UnknownTask(task_id, {task.task_id: task.settings.name for task in newest})
        return named[-1]

    def _new_id(self) -> str:
        while True:
            number = int.from_bytes(os.urandom(5), "big")
            digits = (_ID_ALPHABET[number >> 5 * i & 31] for i in range(_ID_LENGTH))
            task_id = _ID_PREFIX + "".join(digits)
            if task_id not in self._tasks:
                return task_id

    def _ensure_threads(self) -> Tuple[Union[SelectReader, ThreadReader], Keeper]:
        if self._reader is None:
            self._reader = open_reader()
        if self._keeper is None:
            self._keeper = Keeper(self._mutex)
        return self._reader, self._keeper

    def _account_for_finished(self, task: _Task) -> None:
        """Count what a finished task keeps now, of its output and for a restart, and have the
        oldest give up what is too much."""
        cost_bytes = task.log.cost_bytes + len(task.settings.stdin or b"")
        self._finished_bytes += cost_bytes - task.counted_bytes
        task.counted_bytes = cost_bytes
        while self._finished_bytes > self.finished_buffer_bytes and len(self._finished) > 1:
            oldest = self._finished.popleft()
            oldest.log.give_up()
            oldest.settings = oldest.settings.without_stdin()
            self._finished_bytes -= oldest.counted_bytes
            oldest.counted_bytes = 0

    def _begin_ending(
        self, task: _Task, by: str, signal_number: int, grace_s: float, again: bool = True
    ) -> None:
        """Signal a tree, or what a finished command left of it, and have the keeper see to it."""
        if task.state != FINISHED:
            task.state = next_state(task.state, STOP)
            task.stopped_by = task.stopped_by or by
        if self._keeper is not None:  # else nobody is left of it, or it was given up
            self._keeper.end(task, signal_number, grace_s, again)
            if task.ending is not None:
                task.kill_monotonic = task.ending.kill_at

    # The threads' side; each takes the mutex itself.

    def _tell(self, task: _Task, change: str) -> None:
        for listener in self._listeners:
            listener(task.task_id, change)

    def _attend(self, task: _Task) -> None:
        """Have what was sent to a task written, and its input closed when it has ended."""
        if task.input is None or not task.input.needs_attention():
            return
        with self._mutex:  # so that `close` cannot close the reader meanwhile
            if self._reader is not None:
                self._reader.attend(task.input)

    def _wait_for_exit(self, task: _Task) -> None:
        task.tree.wait_exit()
        self._command_exited(task)

    def _command_exited(self, task: _Task) -> None:
        with self._mutex:
            if task.ending is not None and self._keeper is not None:
                self._keeper.look_now(task.ending)  # the task is over when all of its tree is
            elif self._reader is not None:
                # With the mutex held, so that `close` cannot close the reader meanwhile.
                self._reader.drain(task)

    def _drained(self, task: _Task) -> None:
        with self._mutex:
            if task.state == FINISHED or (task.ending is not None and not task.ending.over):
                return
            if self._guardian is not None:
                self._guardian.unwatch(task.tree.pid)
            returncode = task.tree.reap()
            self._alive -= 1
            task.state = next_state(task.state, EXITED)
            task.outcome = outcome(returncode, task.stopped_by)
            if returncode < 0:
                task.signal = signal_name(-returncode)
            else:
                task.exit_code = returncode
            task.ended_at = time.time()
            task.ended_monotonic = time.monotonic()
            self._finished.append(task)
            self._account_for_finished(task)
            self._forget_ending(task)
            if task.input is not None:
                task.input.end()
        self._attend(task)
        self._tell(task, CHANGED_STATUS)

    def _nobody_left(self, task: _Task) -> None:
        with self._mutex:
            over = task.state == FINISHED
            if over:
                self._forget_ending(task)
            elif self._reader is not None:
                self._reader.drain(task)
        if over:
            self._tell(task, CHANGED_STATUS)

    def _forget_ending(self, task: _Task) -> None:
        if task.ending is not None and self._keeper is not None:
            task.tree_empty = task.ending.nobody_left
            self._keeper.forget(task.ending)
        for waiter in task.waiters:
            waiter.notify_all()


def _stdin_of(settings: TaskSettings) -> str:
    if settings.pty:
        return TERMINAL
    return EMPTY if settings.stdin is None and not settings.interactive else PIPE


def _streams(stream: Optional[str]) -> Tuple[str, ...]:
    """Return which streams a caller means. Raises InvalidValue."""
    if stream is None:
        return STREAMS
    if stream not in STREAMS:
        raise InvalidValue("stream", "must be one of " + ", ".join(STREAMS))
    return (stream,)
