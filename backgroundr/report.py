"""Report: what a client is told of a task, as JSON fields and as words for a model to read.

The fields and their schemas stand together; `tools` and `resources` choose among them.
"""

from __future__ import annotations

import time
from functools import lru_cache

from .lifecycle import STATUS_WORDS
from .proctree import signal_name
from .waiting import WAIT_REASONS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional

    from .manager import TaskManager
    from .ports import PortHolder
    from .schema import Schema
    from .status import TaskOutput, TaskPage, TaskStatus

SHORT_CHARS = 120
_PROGRESS_LINE_CHARS = 200

# Controls, and marks of direction (Unicode, UAX #9).
_ACTING = {
    code: "\\x%02x" % code if code < 256 else "\\u%04x" % code
    for code in (*range(32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
}

_TEXT = {"type": "string"}
# Or null. Which in JSON Schema takes a list of types, of which some clients warn.
_OR_NULL: Schema = {}
_WHOLE = {"type": "integer"}
_YES_OR_NO = {"type": "boolean"}

# What is declared of the answers is what they are read for, and README tells the rest: a model
# pays for each word of a list of tools.
_SHORT = {"summary": _TEXT, "task_id": _TEXT, "status": _TEXT}
STARTED_SCHEMA = {**_SHORT, "pid": _WHOLE}
TAIL_SCHEMA = {
    **_SHORT,
    "status": {"enum": list(STATUS_WORDS)},
    "command": _TEXT,
    "cwd": _TEXT,
    "pid": _WHOLE,
    "started_at": _TEXT,
    "exit_code": _OR_NULL,
    "signal": _OR_NULL,
    "runtime_seconds": {"type": "number"},
    "total_lines": _WHOLE,
    "total_bytes": _WHOLE,
    "output": _TEXT,
    "omitted_lines": _WHOLE,
    "next_cursor": _TEXT,
}
PAGE_SCHEMA = {
    **_SHORT,
    "output": _TEXT,
    "skipped_bytes": _WHOLE,
    "matched_lines": _OR_NULL,
    "next_cursor": _TEXT,
    "more": _YES_OR_NO,
}
EVENT_SCHEMA = {
    "summary": _TEXT,
    "reason": {"enum": list(WAIT_REASONS)},
    **_SHORT,
    "task_id": _OR_NULL,
    "exit_code": _OR_NULL,
    "output": _TEXT,
    "next_cursor": _TEXT,
    "matched_line": _OR_NULL,
    "matched_cursor": _OR_NULL,
    "port": _OR_NULL,
    "tasks": {"type": "array"},
}
SENT_SCHEMA = {
    **_SHORT,
    "written_bytes": _WHOLE,
    "unwritten_bytes": _WHOLE,
    "next_cursor": _TEXT,
    "output": _TEXT,
}
ENDED_SCHEMA = {**_SHORT, "exit_code": _OR_NULL, "signal": _OR_NULL, "processes_left": _OR_NULL}
_ROW_KEYS = [
    "task_id",
    "name",
    "command",
    "status",
    "exit_code",
    "signal",
    "started_at",
    "runtime_seconds",
    "processes_left",
    "last_output_at",
    "total_bytes",
]
LISTED_SCHEMA = {"summary": _TEXT, "tasks": {"type": "array"}, "left_out": _WHOLE}


def object_of(properties: Schema) -> Schema:
    """Return the schema of an object that has `properties`, of which the first is required."""
    return {"type": "object", "properties": properties, "required": list(properties)[:1]}


def started_fields(task: TaskStatus) -> Dict[str, Any]:
    """Return what is known of a task from its start on."""
    return {
        "task_id": task.task_id,
        "name": None if task.name is None else unicode_text(task.name),
        "command": unicode_text(task.command),
        "cwd": unicode_text(task.cwd),
        "pid": task.pid,
        "status": task.status,
        "started_at": iso_time(task.started_at),
    }


def status_fields(task: TaskStatus) -> Dict[str, Any]:
    """Return all that is known of a task but its output; see TAIL_SCHEMA."""
    return {
        **started_fields(task),
        "exit_code": task.exit_code,
        "signal": task.signal,
        "kill_requested": task.kill_requested,
        "ended_at": None if task.ended_at is None else iso_time(task.ended_at),
        "runtime_seconds": round(task.runtime_s, 3),
        "processes_left": task.processes_left,
        "total_lines": task.total_lines,
        "total_bytes": task.total_bytes,
        "retained_bytes": task.retained_bytes,
        "last_output_at": None if task.last_output_at is None else iso_time(task.last_output_at),
        "output_open": task.output_open,
        "input_open": task.input_open,
        "pty": task.settings.pty,
        "replaced_by": task.replaced_by,
        "log_file": None if task.log_file is None else unicode_text(task.log_file),
        "log_ended": None if task.log_ended is None else unicode_text(task.log_ended),
    }


def row_fields(task: TaskStatus, last: str) -> Dict[str, Any]:
    """Return the short form for a list of tasks."""
    fields = status_fields(task)
    row = {key: fields[key] for key in _ROW_KEYS}
    row["command"] = shorten(task.command, SHORT_CHARS)
    row["last_line"] = last
    return row


def path_text(path: str) -> str:
    """Return a path as it is, but for what would act on a terminal; see `shorten`."""
    return unicode_text(path).translate(_ACTING)


def unicode_text(text: str) -> str:
    """Return text without lone surrogates, which clients refuse. A path can bring them along,
    where a byte of its name is no UTF-8 (PEP 383)."""
    try:
        text.encode("utf-8")
        return text
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


@lru_cache(maxsize=1000)  # each answer tells the same times again
def iso_time(seconds: float) -> str:
    """Return seconds since the epoch as ISO 8601, UTC, to the millisecond."""
    milliseconds = int(seconds * 1000)
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(milliseconds // 1000))
    return "%s.%03dZ" % (whole, milliseconds % 1000)


def shorten(text: str, chars: int) -> str:
    """Return text on one line, its newlines shown, at most `chars` characters.

    Nothing in it can act on a terminal, or turn the direction of what stands beside it: it
    goes among our own words.
    """
    text = unicode_text(text)
    text = " ".join(text.strip().replace("\r", "").replace("\n", " \u23ce ").split())
    text = text.translate(_ACTING)
    return text if len(text) <= chars else text[: chars - 3] + "..."


def quoted(text: str, chars: int = SHORT_CHARS) -> str:
    """Return text as `shorten` does, in quotes that nothing in it can end."""
    return '"%s"' % shorten(text, chars).replace("\\", "\\\\").replace('"', '\\"')


def label(task: TaskStatus) -> str:
    """Return the id of a task, and its name if it has one."""
    if task.name is None:
        return task.task_id
    return "%s (%s)" % (task.task_id, shorten(task.name, SHORT_CHARS))


def duration_text(seconds: float) -> str:
    """Return a time as "180 ms", "4.5 s", "3 min 20 s" or "2 h 5 min"."""
    if seconds < 1:
        return "%d ms" % (seconds * 1000)
    if seconds < 60:
        return "%.1f s" % seconds
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return "%d min %d s" % (minutes, rest)
    return "%d h %d min" % divmod(minutes, 60)


def times_text(task: TaskStatus) -> str:
    """Return when a task started, and when it ended or last printed something."""
    started = "started %s" % iso_time(task.started_at)
    if task.ended_at is not None:
        return started + ", ended " + iso_time(task.ended_at)
    if task.last_output_at is None:
        return started
    return "%s, last output %s ago" % (started, _age_text(task.last_output_at))


def _age_text(seconds: float) -> str:
    """Return how long ago a time since the epoch was."""
    return duration_text(max(0.0, time.time() - seconds))


def how_it_ended(task: TaskStatus) -> str:
    """Return how a finished task ended, "exit code 0" or "killed by SIGTERM"."""
    if task.signal is not None:
        return "killed by %s" % task.signal
    code = task.exit_code or 0
    if 128 < code <= 128 + 64:  # how a shell tells that its command died of a signal
        return "exit code %d (128 + %s)" % (code, signal_name(code - 128))
    return "exit code %d" % code


def outcome_text(task: TaskStatus) -> str:
    """Return the status of a task for a row of a list, "failed (exit code 2)"."""
    if not task.is_final:
        return task.status
    text = "%s (%s)" % (task.status, how_it_ended(task))
    if not task.processes_left:
        return text
    return "%s with %s left" % (text, count_text(task.processes_left, "process", "processes"))


def left_text(task: TaskStatus) -> str:
    """Return what to know of processes that a finished command left behind, or ""."""
    if not task.processes_left:
        return ""
    return "%s that it started still %s; end_background_task ends what is left." % (
        count_text(task.processes_left, "process", "processes"),
        "runs" if task.processes_left == 1 else "run",
    )


def state_line(task: TaskStatus, subject: Optional[str] = None) -> str:
    """Return the first line of a status: what is, in one sentence. subject: in place of its
    name."""
    subject = subject or "Task %s" % label(task)
    command = shorten(task.command, SHORT_CHARS)
    time_text = duration_text(task.runtime_s)
    if task.is_final:
        return "%s is over: %s, %s, after %s: %s" % (
            subject,
            task.status,
            how_it_ended(task),
            time_text,
            command,
        )
    return "%s is %s, for %s: %s" % (subject, task.status, time_text, command)


def tail_fields(output: TaskOutput) -> Dict[str, Any]:
    """Return all that is known of a task and its most recent output; see TAIL_SCHEMA."""
    return {
        **status_fields(output.status),
        "output": output.text,
        "output_truncated": output.earlier_bytes > 0,
        "omitted_lines": output.earlier_lines,
        "omitted_bytes": output.earlier_bytes,
        "next_cursor": output.next_cursor,
    }


def status_lines(task: TaskStatus) -> List[str]:
    """Return what to know of a task beside `state_line`, a line each, "" for nothing."""
    return [
        "pid %d, in %s, %s" % (task.pid, path_text(task.cwd), times_text(task)),
        left_text(task),
        input_text(task),
        "" if task.replaced_by is None else "It was restarted as task %s." % task.replaced_by,
        log_text(task),
    ]


def input_text(task: TaskStatus) -> str:
    """Return how a task can be talked to, or ""."""
    if not task.input_open or not task.settings.interactive:
        return ""
    return "It %s send_task_input." % (
        "has a terminal: type to it with" if task.settings.pty else "takes input by"
    )


def output_text(output: TaskOutput, stream: Optional[str], says_how_to_go_on: bool = True) -> str:
    """Return the output with a line above that says what it is and what is missing.

    stream: the one that it is of; None for both. says_how_to_go_on: with which cursor what comes
    next is read.
    """
    task = output.status
    which = "output" if stream is None else stream
    where = "" if stream is None else " to " + stream
    since = " since the cursor" if output.is_since else ""
    if output.total_bytes == 0:
        yet = "" if task.is_final or since else " yet"
        return "It has printed nothing%s%s%s." % (where, since, yet)
    # Of what is not kept any more the bytes are known, the lines not.
    at_least = "at least " if since and output.retained_bytes < output.total_bytes else ""
    total = "It printed %s%s, %s%s%s." % (
        at_least,
        count_text(output.shown_lines + output.earlier_lines, "line"),
        count_text(output.total_bytes, "byte"),
        since or " in all",
        where,
    )
    if output.retained_bytes == 0:
        return "%s None of it is kept any more%s." % (
            total,
            ": tasks that ended since have taken the room (--finished-buffer-bytes)"
            if task.is_final
            else "",
        )
    if output.shown_lines == 0:
        return total + " None of it is shown."
    if output.earlier_bytes == 0:
        head = "All of its %s:" % which
    elif output.earlier_lines == 0:
        head = "Its %s without the first %s:" % (which, count_text(output.earlier_bytes, "byte"))
    else:
        head = "The last %s of its %s, without %s:" % (
            "line" if output.shown_lines == 1 else count_text(output.shown_lines, "line"),
            which,
            count_text(output.earlier_lines, "earlier line"),
        )
    if output.earlier_bytes > 0:
        total += " read_task_output pages through %s." % (
            "it"
            if output.retained_bytes == output.total_bytes
            else "the last %s, which are kept" % count_text(output.retained_bytes, "byte")
        )
    if task.output_open and says_how_to_go_on:
        total += (
            ' read_task_output with cursor "%s" reads what comes after this.' % output.next_cursor
        )
    return "%s %s\n%s" % (total, head, output.text)


def log_text(task: TaskStatus) -> str:
    """Return where the whole output is to be found on disk, or ""."""
    if task.log_file is None:
        return "" if task.log_ended is None else "There is no log file. %s" % task.log_ended
    if task.log_ended is None:
        return 'The whole output is in the log file "%s".' % path_text(task.log_file)
    return 'There is a log file "%s". %s' % (path_text(task.log_file), task.log_ended)


def full_row_fields(task: TaskStatus, last: str) -> Dict[str, Any]:
    """Return the long form for a list of tasks: all that is known, for who draws a picture."""
    return {
        **status_fields(task),
        "interactive": task.settings.interactive or task.settings.pty,
        "kill_in_seconds": None if task.kill_in_s is None else round(task.kill_in_s, 3),
        "last_line": last,
    }


def marked_fields(page: TaskPage) -> Dict[str, Any]:
    """Return whose the lines of a page are, [stream, how many in a row], and how many at its end
    may still grow, and come again with the next page."""
    return {
        "streams": [list(run) for run in page.streams()],
        "unfinished_lines": page.unfinished_lines,
    }


def page_fields(page: TaskPage, is_before: bool) -> Dict[str, Any]:
    """Return all that is known of a task and a page of its output; see PAGE_SCHEMA.

    is_before: it is the one that ends somewhere.
    """
    before = {"previous_cursor": page.previous_cursor} if is_before else {}
    return {
        **status_fields(page.status),
        "output": page.text,
        "skipped_bytes": page.skipped_bytes,
        "read_bytes": page.read_bytes,
        "read_lines": page.read_lines,
        "matched_lines": page.matched_lines,
        **before,
        "next_cursor": page.next_cursor,
        "more": page.more,
    }


def page_lines(page: TaskPage, stream: Optional[str], is_before: bool) -> List[str]:
    """Return what to know of a page, a line each. stream: the one that it is of; None for both.
    is_before: it is the one that ends somewhere."""
    task = page.status
    which = "output" if stream is None else stream
    lines = []
    if page.skipped_bytes:
        lines.append(
            "%s of its %s before this %s no longer kept.%s"
            % (
                count_text(page.skipped_bytes, "byte"),
                which,
                "is" if page.skipped_bytes == 1 else "are",
                " " + log_text(task) if task.log_file else "",
            )
        )
    covered = "%s, %s" % (
        "Part of a line"
        if page.read_bytes and not page.read_lines
        else count_text(page.read_lines, "line"),
        count_text(page.read_bytes, "byte"),
    )
    if page.matched_lines is not None:
        if page.held_bytes:
            lines.append(
                "%s of a line that has not ended will be searched when it has."
                % count_text(page.held_bytes, "byte")
            )
        found = "%s of its %s searched: %s" % (
            covered,
            which,
            count_text(page.matched_lines, "line matches", "lines match"),
        )
    elif page.read_bytes == 0 and page.text:
        found = "Part of a line follows, which the next page has too"
    elif page.read_bytes == 0:
        found = "There is no %s %s" % (
            which,
            "yet"
            if task.total_bytes == 0 and task.output_open
            else "before this that is kept"
            if is_before
            else "after this cursor",
        )
    else:
        found = "%s of its %s follow" % (covered, which)
    if is_before:
        then = (
            'read_task_output with before "%s" reads what comes before.' % page.previous_cursor
            if page.more
            else "nothing before it is kept."
            if page.skipped_bytes
            else "it begins there."
        )
        if task.output_open:
            then += ' Cursor "%s" reads what comes after.' % page.next_cursor
    elif page.more:
        then = 'there is more: read_task_output with cursor "%s".' % page.next_cursor
    elif task.output_open:
        then = 'cursor "%s" reads what comes next.' % page.next_cursor
    else:
        then = "that is all there will be."
    return [*lines, "%s; %s" % (found, then)]


def last_line(manager: TaskManager, task: TaskStatus) -> str:
    """Return what a task has printed last, short."""
    return shorten(manager.last_line(task.task_id), SHORT_CHARS)


def row_text(task: TaskStatus, last: str) -> str:
    """Return a line about a task for a list of tasks."""
    text = "%s  %s, %s, since %s  %s" % (
        label(task),
        outcome_text(task),
        duration_text(task.runtime_s),
        iso_time(task.started_at),
        shorten(task.command, SHORT_CHARS),
    )
    if task.last_output_at is None:
        return text + "  (no output)"
    return "%s  (%s, the last %s ago%s)" % (
        text,
        count_text(task.total_bytes, "byte"),
        _age_text(task.last_output_at),
        ": " + quoted(last) if last else "",
    )


def port_fields(holder: PortHolder) -> Dict[str, Any]:
    """Return who listens on a port."""
    return {
        "port": holder.port,
        "of_task": holder.is_of_task,
        "pid": holder.pid,
        "program": holder.program,
    }


def port_text(holder: PortHolder, task: TaskStatus, other: Optional[TaskStatus] = None) -> str:
    """Return who listens on a port, in a sentence. task: the one of which that was expected.
    other: the task that it is in its place, if it is one."""
    who = (
        ""
        if holder.pid is None
        else " (pid %d%s)"
        % (
            holder.pid,
            "" if holder.program is None else ", " + shorten(holder.program, SHORT_CHARS),
        )
    )
    if holder.is_of_task:
        return "Task %s serves port %d%s." % (label(task), holder.port, who)
    if holder.is_of_task is None:
        return "Port %d is in use; whether by task %s cannot be seen here." % (
            holder.port,
            label(task),
        )
    return "Port %d is held by another %s%s, which is not of task %s." % (
        holder.port,
        "program" if other is None else "task, %s" % label(other),
        who,
        label(task),
    )


def progress_text(output: TaskOutput, count: int = 1) -> str:
    """Return how a task is doing, in a line. output: the last line it printed. count: how many
    are waited for."""
    task = output.status
    text = "Task %s is %s, for %s" % (label(task), task.status, duration_text(task.runtime_s))
    if count > 1:
        text = "Waiting for %d tasks. %s" % (count, text)
    if not output.text.strip():
        return text
    return "%s. Last line: %s" % (text, quoted(output.text, _PROGRESS_LINE_CHARS))


def count_text(number: int, noun: str, plural: Optional[str] = None) -> str:
    """Return "1 line", "1,234 lines"."""
    return "%s %s" % (format(number, ","), noun if number == 1 else plural or noun + "s")
