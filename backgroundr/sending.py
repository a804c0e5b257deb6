"""Sending: what is written to a task for input, and what becomes of it."""

from __future__ import annotations

from .errors import InputRefused, InvalidValue
from .lifecycle import FINISHED
from .output import STDOUT
from .paging import Newest, format_cursor
from .status import TaskInputResult
from .stdio import LINE_MODE_BYTES, TerminalModes
from .terminal import KEYS, echo_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Sequence

    from .status import TaskRecord, TaskStatus
    from .taskinput import Sent, TaskInput
    from .terminal import Terminal

# In so much of its last output a prompt is looked for.
_PROMPT_BYTES = 1024


class PendingInput:
    """What was sent to a task, and how much of it is written. cursor: the end of what the task
    had printed before."""

    def __init__(
        self,
        status_of: Callable[[str], TaskStatus],
        task: TaskRecord,
        data: bytes,
        enter: bool,
        keys: Sequence[str],
        close: bool,
    ) -> None:
        """Put it into the task's input; to be called with the manager's mutex held.

        status_of: returns the status of a task. The rest is as for `TaskManager.send_input`,
        and so is what is raised.
        """
        if keys and task.terminal is None:
            raise InvalidValue(
                "keys",
                "are for a task with a terminal: restart it with pty. (What ctrl-c does,"
                " end_background_task does with signal SIGINT; close ends the input)",
            )
        self._status_of = status_of
        self._input = _open_input(task)
        self.task_id = task.task_id
        self.cursor = format_cursor(task.log.end_place)
        if task.terminal is None:
            sent = self._input.send(data + b"\n" if enter else data, close)
        else:
            sent = self._input.send(_typed(task, task.terminal, data, enter, keys, close))
        if sent is None:
            raise InputRefused(
                task.task_id, "its input has ended, or the program has closed it. It runs on."
            )
        self._sent: Sent = sent
        task.note_activity()

    @property
    def is_written(self) -> bool:
        """Whether nothing is left to wait for."""
        return self._input.is_written(self._sent)

    def finish(self, timeout_s: float) -> TaskInputResult:
        """Wait until all is written, at most so many seconds, and give up the rest."""
        self._input.wait(self._sent, timeout_s)
        unwritten_bytes = self._input.withdraw(self._sent)
        return TaskInputResult(
            self._status_of(self.task_id),
            self._sent.written,
            unwritten_bytes,
            self._sent.ends,
            self.cursor,
        )


def _typed(
    task: TaskRecord,
    terminal: Terminal,
    data: bytes,
    enter: bool,
    keys: Sequence[str],
    close: bool,
) -> bytes:
    """Return what is typed at a terminal; note with the task what will be shown of it."""
    text = data.decode("utf-8", "replace")
    data += b"\r" if enter else b""
    data += b"".join([_key(terminal, name) for name in keys])
    task.echo = None
    if task.input is not None and task.input.fd is not None:
        modes = TerminalModes(task.input.fd)
        if modes.is_line_mode:
            _check_lines(data)
        if modes.has_echo or not modes.is_line_mode:
            task.echo = echo_of(_prompt(task), text, not modes.is_line_mode)
            task.echo_cursor = format_cursor(task.log.end_place)
    return terminal.typed(data, close)


def _open_input(task: TaskRecord) -> TaskInput:
    """Return the input of a task. Raises InputRefused."""
    if task.input is None or not task.settings.interactive:
        raise InputRefused(
            task.task_id, "it was started without interactive or pty. Start it anew so."
        )
    if task.state == FINISHED:
        raise InputRefused(task.task_id, "it is over. restart_background_task starts it anew.")
    return task.input


def _key(terminal: Terminal, name: str) -> bytes:
    """Return what a key sends. Raises InvalidValue."""
    try:
        return terminal.key(name)
    except KeyError:
        raise InvalidValue(
            "keys", "has the unknown name %r; there are %s" % (name[:100], ", ".join(KEYS))
        ) from None


def _check_lines(data: bytes) -> None:
    """Raise InvalidValue when a terminal that puts lines together would drop some of it."""
    longest = max(map(len, data.replace(b"\r", b"\n").split(b"\n")))
    if longest > LINE_MODE_BYTES:
        raise InvalidValue(
            "input",
            "must have no line of more than %d bytes, for a terminal drops the rest; this one has"
            " %d" % (LINE_MODE_BYTES, longest),
        )


def _prompt(task: TaskRecord) -> str:
    """Return what stands in the line in which the cursor of a terminal is."""
    begin = task.log.end_place[STDOUT] - _PROMPT_BYTES
    pieces = task.log.since({STDOUT: begin})
    if not pieces or pieces[-1][1].endswith(b"\n"):
        return ""
    return Newest(pieces, ()).texts[-1]
