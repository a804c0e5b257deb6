"""The tools: one row a tool, and the one place where MCP's words and the manager's meet.

A row's texts are written for a language model. `tools/list` is this table rendered.
"""

from __future__ import annotations

import time

from .cancel import CancelToken
from .errors import BackgroundrError, InvalidValue, UnknownTask
from .jsonrpc import Deferred
from .lifecycle import STATUS_WORDS
from .manager import GRACE_S, MAX_SECONDS, TaskManager, TaskOutput, TaskStatus
from .proctree import signal_name
from .schema import check

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional, Tuple, Union

    from .jsonrpc import Message

    Arguments = Dict[str, Any]
    Schema = Dict[str, Any]
    # The structured result, and the same facts written to be read.
    Answer = Tuple[Dict[str, Any], str]
    ToolHandler = Callable[[TaskManager, Arguments, CancelToken], "Answer | Deferred"]

INSTRUCTIONS = (
    "Runs shell commands in the background: dev servers, watchers, builds, language servers."
    " run_background_task starts one and returns its task_id at once. get_task_status shows"
    " state, exit code and the most recent output. end_background_task ends a task with every"
    " process it started, and waits for that. list_background_tasks finds a task again whose"
    " id is forgotten. A finished task stays readable; all tasks end with this server. For a"
    " quick command whose output is wanted at once, an ordinary shell tool is simpler."
)

TAIL_LINES = 50
# How long after its grace an ending may take before it is answered as it stands.
_END_PATIENCE_S = 5.0
_ROW_COMMAND_CHARS = 120


class Tool:
    """One tool.

    handler: gets the manager, checked arguments, and a token that is cancelled when nobody
    wants the answer any more; returns (structured content, text) without delay, or a
    Deferred of that, and raises BackgroundrError for what the caller can mend. annotations:
    MCP's hints.
    """

    def __init__(
        self,
        name: str,
        title: str,
        description: str,
        properties: Schema,
        required: Tuple[str, ...],
        output: Schema,
        annotations: Dict[str, bool],
        handler: ToolHandler,
    ) -> None:
        self.name = name
        self.title = title
        self.description = description
        self.input_schema: Schema = {
            "type": "object",
            "properties": properties,
            "required": list(required),
            "additionalProperties": False,
        }
        self.output_schema = output
        self.annotations = annotations
        self.handler = handler

    def describe(self) -> Dict[str, Any]:
        """Return the tool as `tools/list` tells it."""
        return {
            "name": self.name,
            "title": self.title,
            "description": self.description,
            "inputSchema": self.input_schema,
            "outputSchema": self.output_schema,
            "annotations": self.annotations,
        }

    def call(
        self, manager: TaskManager, arguments: Arguments, cancel: CancelToken
    ) -> Union[Message, Deferred]:
        """Return an MCP CallToolResult, or the work that will.

        One with isError says what the caller can mend. The work raises Cancelled.
        """
        problems = check(arguments, self.input_schema, "")
        if problems:
            return _error_result("%s was not called: %s." % (self.name, "; ".join(problems)))
        try:
            answer = self.handler(manager, arguments, cancel)
        except BackgroundrError as error:
            return _error_result(_advise(error))
        return answer.then(_result) if isinstance(answer, Deferred) else _result(answer)


def _result(answer: Answer) -> Message:
    structured, text = answer
    return {
        "content": [{"type": "text", "text": text}],
        "structuredContent": structured,
        "isError": False,
    }


def _error_result(text: str) -> Dict[str, Any]:
    return {"content": [{"type": "text", "text": text}], "isError": True}


def _advise(error: BackgroundrError) -> str:
    if isinstance(error, UnknownTask):
        if error.known:
            return "%s list_background_tasks shows them all." % error
        return "%s run_background_task starts one." % error
    if isinstance(error, InvalidValue):
        return "%s. Nothing was changed; correct it and call again." % error
    return str(error)


# ---------------------------------------------------------------- what a task looks like


def _started_fields(task: TaskStatus) -> Dict[str, Any]:
    return {
        "task_id": task.task_id,
        "name": task.name,
        "command": task.command,
        "cwd": task.cwd,
        "pid": task.pid,
        "status": task.status,
        "started_at": _iso_time(task.started_at),
    }


def _status_fields(task: TaskStatus) -> Dict[str, Any]:
    return {
        **_started_fields(task),
        "exit_code": task.exit_code,
        "signal": task.signal,
        "kill_requested": task.kill_requested,
        "ended_at": None if task.ended_at is None else _iso_time(task.ended_at),
        "runtime_seconds": round(task.runtime_s, 3),
        "processes_left": task.processes_left,
        "total_lines": task.total_lines,
        "total_bytes": task.total_bytes,
    }


def _row_fields(task: TaskStatus) -> Dict[str, Any]:
    fields = _status_fields(task)
    row = {key: fields[key] for key in _ROW_OUTPUT}
    row["command"] = _shorten(task.command, _ROW_COMMAND_CHARS)
    return row


def _iso_time(seconds: float) -> str:
    """Return seconds since the epoch as ISO 8601, UTC, to the millisecond."""
    milliseconds = int(seconds * 1000)
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(milliseconds // 1000))
    return "%s.%03dZ" % (whole, milliseconds % 1000)


def _shorten(text: str, chars: int) -> str:
    """Return text on one line, its newlines shown, at most `chars` characters."""
    text = " ".join(text.strip().replace("\r", "").replace("\n", " \u23ce ").split())
    return text if len(text) <= chars else text[: chars - 3] + "..."


def _label(task: TaskStatus) -> str:
    if task.name is None:
        return task.task_id
    return "%s (%s)" % (task.task_id, _shorten(task.name, _ROW_COMMAND_CHARS))


def _duration(seconds: float) -> str:
    if seconds < 1:
        return "%d ms" % (seconds * 1000)
    if seconds < 60:
        return "%.1f s" % seconds
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return "%d min %d s" % (minutes, rest)
    return "%d h %d min" % divmod(minutes, 60)


def _times(task: TaskStatus) -> str:
    started = "started %s" % _iso_time(task.started_at)
    return started if task.ended_at is None else started + ", ended " + _iso_time(task.ended_at)


def _how_it_ended(task: TaskStatus) -> str:
    """Return how a finished task ended, "exit code 0" or "killed by SIGTERM"."""
    if task.signal is not None:
        return "killed by %s" % task.signal
    code = task.exit_code or 0
    if 128 < code <= 128 + 64:  # how a shell tells that its command died of a signal
        return "exit code %d (128 + %s)" % (code, signal_name(code - 128))
    return "exit code %d" % code


def _left_note(task: TaskStatus) -> str:
    """Return the same as `_left_text`, for a row of a list."""
    if not task.processes_left:
        return ""
    return " with %s left" % _count(task.processes_left, "process", "processes")


def _left_text(task: TaskStatus) -> str:
    """Return what to know of processes that a finished command left behind, or ""."""
    if not task.processes_left:
        return ""
    return "%s that it started still %s; end_background_task ends what is left." % (
        _count(task.processes_left, "process", "processes"),
        "runs" if task.processes_left == 1 else "run",
    )


def _state_line(task: TaskStatus) -> str:
    """Return the first line of a status: what is, in one sentence."""
    command = _shorten(task.command, _ROW_COMMAND_CHARS)
    time_text = _duration(task.runtime_s)
    if task.is_final:
        return "Task %s is over: %s, %s, after %s: %s" % (
            _label(task),
            task.status,
            _how_it_ended(task),
            time_text,
            command,
        )
    return "Task %s is %s, for %s: %s" % (_label(task), task.status, time_text, command)


def _output_text(output: TaskOutput, stream: Optional[str]) -> str:
    """Return the output with a line above that says what it is and what is missing.

    It goes last, so that nothing a task prints can pass for a word of ours.
    """
    task = output.status
    which = "output" if stream is None else stream
    where = "" if stream is None else " to " + stream
    if output.total_bytes == 0:
        return "It has printed nothing%s%s." % (where, "" if task.is_final else " yet")
    total = "It printed %s, %s in all%s." % (
        _count(output.shown_lines + output.earlier_lines, "line"),
        _count(output.total_bytes, "byte"),
        where,
    )
    if output.shown_lines == 0:
        return total + " None of it is shown."
    if output.earlier_bytes == 0:
        head = "All of its %s:" % which
    elif output.earlier_lines == 0:
        head = "Its %s without the first %s:" % (which, _count(output.earlier_bytes, "byte"))
    else:
        head = "The last %s of its %s, without %s:" % (
            "line" if output.shown_lines == 1 else _count(output.shown_lines, "line"),
            which,
            _count(output.earlier_lines, "earlier line"),
        )
    return "%s %s\n%s" % (total, head, output.text)


def _count(number: int, noun: str, plural: Optional[str] = None) -> str:
    return "%s %s" % (format(number, ","), noun if number == 1 else plural or noun + "s")


# ---------------------------------------------------------------- handlers


def _run(manager: TaskManager, arguments: Arguments, cancel: CancelToken) -> Answer:
    task = manager.start(
        arguments["command"],
        name=arguments.get("name"),
        cwd=arguments.get("cwd"),
        env=arguments.get("env"),
        timeout_s=arguments.get("timeout_seconds"),
    )
    lines = [
        "Started task %s: %s" % (_label(task), _shorten(task.command, _ROW_COMMAND_CHARS)),
        "It is %s with pid %d in %s." % (task.status, task.pid, task.cwd),
    ]
    if task.timeout_s is not None:
        lines.append("It is ended when it still runs after %s." % _duration(task.timeout_s))
    lines.append(
        'Next: get_task_status with task_id "%s" shows its state and output.' % task.task_id
    )
    return _started_fields(task), "\n".join(lines)


def _status(manager: TaskManager, arguments: Arguments, cancel: CancelToken) -> Answer:
    stream = arguments.get("stream", "both")
    chosen = None if stream == "both" else stream
    output = manager.output(
        arguments["task_id"], int(arguments.get("tail_lines", TAIL_LINES)), chosen
    )
    task = output.status
    structured = {
        **_status_fields(task),
        "output": output.text,
        "output_truncated": output.earlier_bytes > 0,
        "omitted_lines": output.earlier_lines,
    }
    lines = [
        _state_line(task),
        "pid %d, in %s, %s" % (task.pid, task.cwd, _times(task)),
        _left_text(task),
        _output_text(output, chosen),
    ]
    lines = [line for line in lines if line]
    return structured, "\n".join(lines)


def _end(manager: TaskManager, arguments: Arguments, cancel: CancelToken) -> Deferred:
    signal = arguments.get("signal", "SIGTERM")
    grace_s = arguments.get("grace_seconds", GRACE_S)
    # At once, and not on the thread that waits: where no thread can be had, it is this call
    # that makes room.
    before = manager.request_end(arguments["task_id"], signal, grace_s)

    def answer(task: TaskStatus) -> Answer:
        return _status_fields(task), "\n".join(_end_lines(before, task, signal))

    return Deferred(
        # Longer than the grace only when something cannot be killed.
        lambda: answer(manager.wait(before.task_id, grace_s + _END_PATIENCE_S, cancel)),
        lambda: answer(manager.status(before.task_id)),
    )


def _end_lines(before: TaskStatus, task: TaskStatus, signal: str) -> List[str]:
    """Return what there is to say when a task that was `before` has been told to end."""
    look = 'Next: get_task_status with task_id "%s" shows %s.'
    if before.is_final:
        first = "Task %s was over already: %s, %s." % (
            _label(task),
            task.status,
            _how_it_ended(task),
        )
        if not before.processes_left:
            return [first + " Nothing was left to end."]
        return [
            first,
            "%s that it had left behind got %s."
            % (
                _count(before.processes_left, "process", "processes"),
                signal,
            ),
            _left_text(task) or "None is left.",
        ]
    if not task.is_final:
        return [
            "Task %s is %s: it was sent %s and has not ended yet."
            % (
                _label(task),
                task.status,
                signal,
            ),
            look % (task.task_id, "when it has"),
        ]
    first = "Task %s has ended: %s, %s, after %s." % (
        _label(task),
        task.status,
        _how_it_ended(task),
        _duration(task.runtime_s),
    )
    if task.signal == "SIGKILL" and signal != "SIGKILL":
        first += " It had not ended within its grace."
    lines = [first, _left_text(task)]
    if task.total_bytes:
        lines.append(look % (task.task_id, "its last output"))
    return [line for line in lines if line]


def _list(manager: TaskManager, arguments: Arguments, cancel: CancelToken) -> Answer:
    status = arguments.get("status")
    tasks = manager.list(status)
    rows = [
        "%s  %s%s, %s, since %s  %s"
        % (
            _label(task),
            task.status,
            " (%s)" % _how_it_ended(task) + _left_note(task) if task.is_final else "",
            _duration(task.runtime_s),
            _iso_time(task.started_at),
            _shorten(task.command, _ROW_COMMAND_CHARS),
        )
        for task in tasks
    ]
    of_status = (
        "" if status is None else " that %s %s" % ("is" if len(rows) == 1 else "are", status)
    )
    if rows:
        head = "%s%s, oldest first:" % (_count(len(rows), "task"), of_status)
    else:
        head = "No task%s. run_background_task starts one." % (
            " is %s" % status if status is not None else " was started yet"
        )
    return {"tasks": [_row_fields(task) for task in tasks]}, "\n".join([head] + rows)


# ---------------------------------------------------------------- schemas

_TEXT = {"type": "string"}
_TEXT_OR_NULL = {"type": ["string", "null"]}
_WHOLE = {"type": "integer"}
_STATUS = {"enum": list(STATUS_WORDS)}

_STARTED_OUTPUT = {
    "task_id": _TEXT,
    "name": _TEXT_OR_NULL,
    "command": _TEXT,
    "cwd": _TEXT,
    "pid": _WHOLE,
    "status": _STATUS,
    "started_at": _TEXT,
}
_STATUS_OUTPUT = {
    **_STARTED_OUTPUT,
    "exit_code": {"type": ["integer", "null"]},
    "signal": _TEXT_OR_NULL,
    "kill_requested": {"type": "boolean"},
    "ended_at": _TEXT_OR_NULL,
    "runtime_seconds": {"type": "number"},
    "processes_left": {"type": ["integer", "null"]},
    "total_lines": _WHOLE,
    "total_bytes": _WHOLE,
}
_TAIL_OUTPUT = {
    **_STATUS_OUTPUT,
    "output": _TEXT,
    "output_truncated": {"type": "boolean"},
    "omitted_lines": _WHOLE,
}
_ROW_KEYS = "task_id name command status exit_code signal started_at runtime_seconds processes_left"
_ROW_OUTPUT = {key: _STATUS_OUTPUT[key] for key in _ROW_KEYS.split()}


def _all_of(properties: Schema) -> Schema:
    """Return the schema of an object that has each of `properties`."""
    return {"type": "object", "properties": properties, "required": list(properties)}


_TASK_ID = {
    "type": "string",
    "description": "The id that run_background_task gave.",
}


def default_tools() -> Dict[str, Tool]:
    """Return the table of tools, by name, in the order in which they are listed."""
    rows = (
        Tool(
            "run_background_task",
            "Run a background task",
            "Start a shell command in the background and return at once with its task_id. Use it"
            " for what runs long or until it is ended: dev servers, watchers, builds, language"
            " servers. It returns before the command has done anything, so call get_task_status"
            " then, also to see whether it failed. The command and all that it starts end with"
            " end_background_task, or with this server. Its stdin is empty and it has no"
            " terminal. Do not append '&' or use nohup.",
            {
                "command": {
                    "type": "string",
                    "minLength": 1,
                    "description": "Command line for the shell (sh, unless the server was"
                    " started with another), such as 'npm run dev'.",
                },
                "name": {
                    "type": "string",
                    "maxLength": 100,
                    "description": "A label to recognise it by.",
                },
                "cwd": {
                    "type": "string",
                    "minLength": 1,
                    "description": "Directory to run in. Default: the server's own.",
                },
                "env": {
                    "type": "object",
                    "additionalProperties": {"type": "string"},
                    "description": "Environment variables to add to the server's own.",
                },
                "timeout_seconds": {
                    "type": "number",
                    "exclusiveMinimum": 0,
                    "maximum": MAX_SECONDS,
                    "description": "End it, like end_background_task does, when it still runs"
                    " after so long; it is timed_out then. Default: never.",
                },
            },
            ("command",),
            _all_of(_STARTED_OUTPUT),
            {
                "readOnlyHint": False,
                "destructiveHint": True,
                "idempotentHint": False,
                "openWorldHint": True,
            },
            _run,
        ),
        Tool(
            "get_task_status",
            "Get a task's status and output",
            "Tell whether a task is running, stopping, completed (exit code 0), failed,"
            " terminated (ended on request) or timed_out, with exit code, signal, times and the"
            " most recent lines it printed. Returns at once and changes nothing. When the status"
            " is final, all that the command printed is there.",
            {
                "task_id": _TASK_ID,
                "tail_lines": {
                    "type": "integer",
                    "minimum": 0,
                    "default": TAIL_LINES,
                    "description": "How many of the most recent lines to return.",
                },
                "stream": {
                    "type": "string",
                    "enum": ["both", "stdout", "stderr"],
                    "default": "both",
                    "description": "Which output to return. Of both, lines of the same moment"
                    " may change places; 2>&1 in the command keeps their order.",
                },
            },
            ("task_id",),
            _all_of(_TAIL_OUTPUT),
            {"readOnlyHint": True, "openWorldHint": False},
            _status,
        ),
        Tool(
            "end_background_task",
            "End a background task",
            "End a task and every process it started, and wait until that is done. They get the"
            " signal first, and SIGKILL when the grace is over. Its output stays readable with"
            " get_task_status. Of a task that is over it ends the processes that are left.",
            {
                "task_id": _TASK_ID,
                "signal": {
                    "type": "string",
                    "enum": ["SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGKILL"],
                    "default": "SIGTERM",
                    "description": "The signal to begin with; SIGINT is what ctrl-c sends.",
                },
                "grace_seconds": {
                    "type": "number",
                    "minimum": 0,
                    "maximum": 3600,
                    "default": GRACE_S,
                    "description": "Time to end by itself before SIGKILL.",
                },
            },
            ("task_id",),
            _all_of(_STATUS_OUTPUT),
            {
                "readOnlyHint": False,
                "destructiveHint": True,
                "idempotentHint": True,
                "openWorldHint": False,
            },
            _end,
        ),
        Tool(
            "list_background_tasks",
            "List background tasks",
            "List the tasks of this server, oldest first, one short row each: id, name, command,"
            " status, how it ended, since when. Use it to find a task_id again.",
            {
                "status": {
                    "type": "string",
                    "enum": list(STATUS_WORDS),
                    "description": "List only tasks with this status. Default: all.",
                },
            },
            (),
            _all_of({"tasks": {"type": "array", "items": _all_of(_ROW_OUTPUT)}}),
            {"readOnlyHint": True, "openWorldHint": False},
            _list,
        ),
    )
    return {tool.name: tool for tool in rows}
