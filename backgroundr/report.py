"""Report: what a client is told of a task, as JSON fields and as words for a model to read.

The fields and their schemas stand together; `tools` and `resources` choose among them.
"""

from __future__ import annotations

import time
from functools import lru_cache

from .lifecycle import STATUS_WORDS
from .proctree import signal_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Optional

    from .status import TaskOutput, TaskPage, TaskStatus

    Schema = Dict[str, Any]

SHORT_CHARS = 120
_PROGRESS_LINE_CHARS = 200

# Controls, and marks of direction (Unicode, UAX #9).
_ACTING = {
    code: "\\x%02x" % code if code < 256 else "\\u%04x" % code
    for code in (*range(32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
}

_TEXT = {"type": "string"}
_TEXT_OR_NULL = {"type": ["string", "null"]}
_WHOLE = {"type": "integer"}
_STATUS = {"enum": list(STATUS_WORDS)}

STARTED_SCHEMA = {
    "task_id": _TEXT,
    "name": _TEXT_OR_NULL,
    "command": _TEXT,
    "cwd": _TEXT,
    "pid": _WHOLE,
    "status": _STATUS,
    "started_at": _TEXT,
}
STATUS_SCHEMA = {
    **STARTED_SCHEMA,
    "exit_code": {"type": ["integer", "null"]},
    "signal": _TEXT_OR_NULL,
    "kill_requested": {"type": "boolean"},
    "ended_at": _TEXT_OR_NULL,
    "runtime_seconds": {"type": "number"},
    "processes_left": {"type": ["integer", "null"]},
    "total_lines": _WHOLE,
    "total_bytes": _WHOLE,
    "retained_bytes": _WHOLE,
    "output_open": {"type": "boolean"},
    "log_file": _TEXT_OR_NULL,
    "log_ended": _TEXT_OR_NULL,
}
TAIL_SCHEMA = {
    **STATUS_SCHEMA,
    "output": _TEXT,
    "output_truncated": {"type": "boolean"},
    "omitted_lines": _WHOLE,
    "omitted_bytes": _WHOLE,
    "next_cursor": _TEXT,
}
PAGE_SCHEMA = {
    **STATUS_SCHEMA,
    "output": _TEXT,
    "skipped_bytes": _WHOLE,
    "read_bytes": _WHOLE,
    "read_lines": _WHOLE,
    "matched_lines": {"type": ["integer", "null"]},
    "next_cursor": _TEXT,
    "more": {"type": "boolean"},
}
_ROW_KEYS = "task_id name command status exit_code signal started_at runtime_seconds processes_left"
ROW_SCHEMA = {key: STATUS_SCHEMA[key] for key in _ROW_KEYS.split()}


def object_of(properties: Schema) -> Schema:
    """Return the schema of an object that has `properties`.

    It always has each, but only the first is said to be required: a model pays for each word
    of a list of tools, and learns nothing from the names repeated.
    """
    return {"type": "object", "properties": properties, "required": list(properties)[:1]}


def started_fields(task: TaskStatus) -> Dict[str, Any]:
    """Return what is known of a task from its start on; see STARTED_SCHEMA."""
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
    """Return all that is known of a task but its output; see STATUS_SCHEMA."""
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
        "output_open": task.output_open,
        "log_file": None if task.log_file is None else unicode_text(task.log_file),
        "log_ended": None if task.log_ended is None else unicode_text(task.log_ended),
    }


def row_fields(task: TaskStatus) -> Dict[str, Any]:
    """Return the short form for a list of tasks; see ROW_SCHEMA."""
    fields = status_fields(task)
    row = {key: fields[key] for key in ROW_SCHEMA}
    row["command"] = shorten(task.command, SHORT_CHARS)
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
    """Return when a task started and ended."""
    started = "started %s" % iso_time(task.started_at)
    return started if task.ended_at is None else started + ", ended " + iso_time(task.ended_at)


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


def state_line(task: TaskStatus) -> str:
    """Return the first line of a status: what is, in one sentence."""
    command = shorten(task.command, SHORT_CHARS)
    time_text = duration_text(task.runtime_s)
    if task.is_final:
        return "Task %s is over: %s, %s, after %s: %s" % (
            label(task),
            task.status,
            how_it_ended(task),
            time_text,
            command,
        )
    return "Task %s is %s, for %s: %s" % (label(task), task.status, time_text, command)


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


def tail_text(output: TaskOutput, stream: Optional[str]) -> str:
    """Return the same in words. stream: the one that `output` is of; None for both."""
    task = output.status
    lines = [
        state_line(task),
        "pid %d, in %s, %s" % (task.pid, path_text(task.cwd), times_text(task)),
        left_text(task),
        log_text(task),
        output_text(output, stream),
    ]
    return "\n".join(line for line in lines if line)


def output_text(output: TaskOutput, stream: Optional[str]) -> str:
    """Return the output with a line above that says what it is and what is missing.

    It goes last, so that nothing a task prints can pass for a word of ours.
    """
    task = output.status
    which = "output" if stream is None else stream
    where = "" if stream is None else " to " + stream
    if output.total_bytes == 0:
        return "It has printed nothing%s%s." % (where, "" if task.is_final else " yet")
    total = "It printed %s, %s in all%s." % (
        count_text(output.shown_lines + output.earlier_lines, "line"),
        count_text(output.total_bytes, "byte"),
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
    if task.output_open:
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


def page_fields(page: TaskPage) -> Dict[str, Any]:
    """Return all that is known of a task and a page of its output; see PAGE_SCHEMA."""
    return {
        **status_fields(page.status),
        "output": page.text,
        "skipped_bytes": page.skipped_bytes,
        "read_bytes": page.read_bytes,
        "read_lines": page.read_lines,
        "matched_lines": page.matched_lines,
        "next_cursor": page.next_cursor,
        "more": page.more,
    }


def page_text(page: TaskPage, stream: Optional[str]) -> str:
    """Return the same in words. stream: the one that `page` is of; None for both.

    The output goes last here too; see `output_text`.
    """
    task = page.status
    which = "output" if stream is None else stream
    lines = [state_line(task)]
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
    elif page.read_bytes == 0:
        found = "There is no %s %s" % (
            which,
            "yet" if task.total_bytes == 0 and task.output_open else "after this cursor",
        )
    else:
        found = "%s of its %s follow" % (covered, which)
    if page.more:
        then = 'there is more: read_task_output with cursor "%s".' % page.next_cursor
    elif task.output_open:
        then = 'cursor "%s" reads what comes next.' % page.next_cursor
    else:
        then = "that is all there will be."
    lines.append("%s; %s" % (found, then))
    return "\n".join(lines) + ("\n" + page.text if page.text else "")


def progress_text(output: TaskOutput) -> str:
    """Return how a task is doing, in a line. output: the last line it printed."""
    task = output.status
    text = "Task %s is %s, for %s" % (label(task), task.status, duration_text(task.runtime_s))
    if not output.text.strip():
        return text
    return "%s. Last line: %s" % (text, shorten(output.text, _PROGRESS_LINE_CHARS))


def count_text(number: int, noun: str, plural: Optional[str] = None) -> str:
    """Return "1 line", "1,234 lines"."""
    return "%s %s" % (format(number, ","), noun if number == 1 else plural or noun + "s")
