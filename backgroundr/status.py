"""What is known of a task, and the values in which it is told: they do not change any more."""

from __future__ import annotations

import time

from .lifecycle import ALIVE, FINISHED, RUNNING, STOPPING
from .output import OutputLog

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading
    from typing import List, Optional, Set, Tuple

    from .arguments import TaskSettings
    from .logfile import LogFile
    from .output import Tail
    from .paging import Newest, Page
    from .taskinput import TaskInput
    from .terminal import Echo, Terminal


class TaskRecord:
    """What is known of one command. The manager's mutex owns every field that changes."""

    def __init__(
        self,
        task_id: str,
        settings: TaskSettings,
        pid: int,
        open_streams: Set[str],
        buffer_bytes: int,
        started_at: float,
        started_monotonic: float,
    ) -> None:
        self.task_id = task_id
        self.settings = settings
        self.pid = pid
        self.started_at = started_at
        self.started_monotonic = started_monotonic
        self.state = RUNNING
        self.outcome: Optional[str] = None
        self.stopped_by: Optional[str] = None
        self.exit_code: Optional[int] = None
        self.signal: Optional[str] = None
        self.ended_at: Optional[float] = None
        self.last_output_at: Optional[float] = None
        self.ended_monotonic: Optional[float] = None
        self.log = OutputLog(buffer_bytes)
        self.log_file: Optional[LogFile] = None
        self.open_streams = open_streams
        # The way to its stdin; None where that is empty.
        self.input: Optional[TaskInput] = None
        # Its terminal, if it has one.
        self.terminal: Optional[Terminal] = None
        # What it shows again of what was typed last, and the cursor behind which it does.
        self.echo: Optional[Echo] = None
        self.echo_cursor = ""
        # When it last printed something or was sent something, or else was started.
        self.active_monotonic = started_monotonic
        # When it gets SIGKILL, once it is stopping.
        self.kill_monotonic = 0.0
        # Those who wait for its end, and those who wait for its output too. They share the mutex.
        self.waiters: List[threading.Condition] = []
        self.output_waiters: List[threading.Condition] = []
        # The id of the task that was started in its place.
        self.replaced_by: Optional[str] = None

    def note_activity(self) -> None:
        """Note that it printed something, or was sent something."""
        self.active_monotonic = time.monotonic()


class TaskStatus:
    """What is known of a task at one moment; it does not change any more.

    task_id, name (or None), command, cwd (absolute), pid. settings: all that it was started with.
    status: one of `lifecycle.STATUS_WORDS`; the last four are final.
    exit_code: int once the task is over, None before and after a death by signal.
    signal: the name of the signal that the command died of, else None.
    kill_requested: somebody asked for the end, or the time limit did.
    started_at, ended_at, last_output_at: seconds since the epoch; ended_at is None until it
    is over, last_output_at until it has printed something.
    runtime_s, timeout_s (or None): seconds.
    processes_left: how many processes a finished command left behind that still run; None
    while the task is alive, and where the system cannot be looked at.
    total_lines, total_bytes: printed so far on both streams. retained_bytes: how much of it is
    still kept. kill_in_s: of a task that is stopping, the seconds until SIGKILL, else None.
    log_file: the path of the file that holds it all, or None. log_ended: a sentence that says why
    that file does not, or None. output_open: more may come; also after the end, when a process
    that the command left behind still holds a stream. input_open: more can be sent to its stdin.
    replaced_by: the id of the task that was started in its place, or None.
    """

    __slots__ = (
        "task_id",
        "settings",
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
        "last_output_at",
        "runtime_s",
        "timeout_s",
        "total_lines",
        "total_bytes",
        "retained_bytes",
        "kill_in_s",
        "log_file",
        "log_ended",
        "output_open",
        "input_open",
        "replaced_by",
        "processes_left",
    )

    def __init__(self, task: TaskRecord) -> None:
        self.task_id = task.task_id
        self.settings = task.settings
        self.name = task.settings.name
        self.command = task.settings.command
        self.cwd = task.settings.cwd
        self.pid = task.pid
        self.status = task.outcome or task.state
        self.exit_code = task.exit_code
        self.signal = task.signal
        self.kill_requested = task.stopped_by is not None
        self.started_at = task.started_at
        self.ended_at = task.ended_at
        self.last_output_at = task.last_output_at
        self.runtime_s = (task.ended_monotonic or time.monotonic()) - task.started_monotonic
        self.timeout_s = task.settings.timeout_s
        self.total_lines = task.log.total_lines()
        self.total_bytes = task.log.total_bytes()
        self.retained_bytes = task.log.end - task.log.start
        self.kill_in_s = (
            max(0.0, task.kill_monotonic - time.monotonic()) if task.state == STOPPING else None
        )
        log_file = task.log_file
        self.log_file = None if log_file is None else log_file.path
        self.log_ended = None if log_file is None else log_file.ended
        self.output_open = bool(task.open_streams)
        self.input_open = task.input is not None and task.input.is_open
        self.replaced_by = task.replaced_by
        self.processes_left: Optional[int] = 0 if task.state == FINISHED else None

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
    streams and not in `text`; behind a cursor, lines that are not retained are not counted.
    total_bytes, retained_bytes: ever printed on the chosen streams, and still kept of it.
    next_cursor: where `read_output` goes on behind them; a stream that was not chosen is read
    from its oldest byte there. is_since: all this is of what was printed behind a cursor.
    """

    __slots__ = (
        "status",
        "is_since",
        "text",
        "shown_lines",
        "earlier_lines",
        "earlier_bytes",
        "total_bytes",
        "retained_bytes",
        "next_cursor",
    )

    def __init__(
        self,
        status: TaskStatus,
        newest: Newest,
        tail: Tail,
        total_bytes: int,
        retained_bytes: int,
        next_cursor: str,
        is_since: bool = False,
    ) -> None:
        self.status = status
        self.is_since = is_since
        self.text = "\n".join(newest.texts)
        self.shown_lines = len(newest.texts)
        self.earlier_lines = tail.earlier_lines + newest.left_out_lines
        self.earlier_bytes = tail.earlier_bytes + newest.left_out_bytes
        self.total_bytes = total_bytes
        self.retained_bytes = retained_bytes
        self.next_cursor = next_cursor


class TaskPage:
    """A page of the output of a task.

    status: the TaskStatus of the same moment. text: the lines, each with its newline where it
    has ended. skipped_bytes: no longer retained, between the cursor that was asked for and the
    beginning of the page. read_bytes, read_lines: how much of the output the page covers.
    matched_lines: how many of these lines were looked for; None when nothing was.
    previous_cursor, next_cursor: where it begins, and the next one. more: there is more for the
    next one to look at now; of a page that was read `before` a place: there is more before it,
    else skipped_bytes counts what came before it. unfinished_lines: how many lines at the end of
    the text may still grow, and come again with the next page; none where that was not asked for.
    held_bytes: printed behind this page and left for later: an unfinished line, or a character or
    escape sequence of which a part is missing.
    """

    __slots__ = (
        "status",
        "text",
        "skipped_bytes",
        "read_bytes",
        "read_lines",
        "matched_lines",
        "previous_cursor",
        "next_cursor",
        "more",
        "unfinished_lines",
        "held_bytes",
        "_page",
    )

    def __init__(
        self,
        status: TaskStatus,
        page: Page,
        skipped_bytes: int,
        previous_cursor: str,
        next_cursor: str,
    ) -> None:
        self.status = status
        self.text = page.text
        self.skipped_bytes = skipped_bytes
        self.read_bytes = sum(page.sizes.values())
        self.read_lines = page.lines
        self.matched_lines = page.matched_lines
        self.previous_cursor = previous_cursor
        self.next_cursor = next_cursor
        self.more = page.more
        self.unfinished_lines = page.left_lines
        self.held_bytes = sum(page.held.values())
        self._page = page

    def streams(self) -> List[Tuple[Optional[str], int]]:
        """Return whose the lines of the text are: (stream, how many in a row), None for the
        separators of a search."""
        return self._page.streams()


class TaskInputResult:
    """What became of input. status: of the task, after it. written_bytes, unwritten_bytes: how
    much of it the program, or the system for it, has taken, and how much was given up. ends: the
    input ends behind it. cursor: the end of what the task had printed before."""

    __slots__ = ("status", "written_bytes", "unwritten_bytes", "ends", "cursor")

    def __init__(
        self,
        status: TaskStatus,
        written_bytes: int,
        unwritten_bytes: int,
        ends: bool,
        cursor: str,
    ) -> None:
        self.status = status
        self.written_bytes = written_bytes
        self.unwritten_bytes = unwritten_bytes
        self.ends = ends
        self.cursor = cursor
