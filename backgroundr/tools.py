"""The tools: one row a tool, and the one place where MCP's words and the manager's meet.

A row's texts are written for a language model. `tools/list` is this table rendered.
"""

from __future__ import annotations

import json
import time

from .arguments import MAX_SECONDS
from .errors import BackgroundrError, Cancelled, InvalidValue, SpawnFailed, UnknownTask
from .jsonrpc import Deferred
from .lifecycle import STATUS_WORDS
from .manager import GRACE_S, PAGE_BYTES, TaskManager
from .paging import MIN_BYTES
from .report import (
    PAGE_SCHEMA,
    ROW_SCHEMA,
    SHORT_CHARS,
    STARTED_SCHEMA,
    STATUS_SCHEMA,
    TAIL_SCHEMA,
    count_text,
    duration_text,
    how_it_ended,
    iso_time,
    label,
    left_text,
    log_text,
    object_of,
    outcome_text,
    page_fields,
    page_text,
    path_text,
    progress_text,
    row_fields,
    shorten,
    started_fields,
    status_fields,
    tail_fields,
    tail_text,
    unicode_text,
)
from .schema import check

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional, Tuple, Union

    from .cancel import CancelToken
    from .jsonrpc import Message
    from .status import TaskStatus

    Arguments = Dict[str, Any]
    Schema = Dict[str, Any]
    # The structured result, and the same facts written to be read.
    Answer = Tuple[Dict[str, Any], str]
    ToolHandler = Callable[[TaskManager, Arguments, "Caller"], "Answer | Deferred"]
    # Takes the seconds that a call has waited, how many it will at most, and a sentence that
    # says how things are.
    Report = Callable[[float, float, str], None]

INSTRUCTIONS = (
    "Runs shell commands in the background: dev servers, watchers, builds, language servers."
    " run_background_task starts one and returns its task_id at once. wait_for_task returns"
    " when a task is over, with its output: use it for builds and tests, and do not poll."
    " get_task_status shows state, exit code and the most recent output now;"
    " read_task_output pages through the rest or searches it."
    " end_background_task ends a task with every process it started, and waits for that."
    " list_background_tasks finds a task again whose id is forgotten. A finished task stays"
    " readable; all tasks end with this server. For a quick command whose output is wanted at"
    " once, an ordinary shell tool is simpler."
)

TAIL_LINES = 50
_MAX_ANSWER_BYTES = 16 * 1024 * 1024
# Some hosts give a tool call no more than a minute.
_WAIT_S = 30
_MAX_WAIT_S = 3600
# Hosts that give up on a silent call do so after tens of seconds.
_PROGRESS_S = 2.0
# How long after its grace an ending may take before it is answered as it stands.
_END_PATIENCE_S = 5.0


class Caller:
    """Who made a call. cancel: cancelled when nobody wants the answer any more. report: tells
    of the progress of a call that waits; None when nobody wants to hear of it."""

    def __init__(self, cancel: CancelToken, report: Optional[Report] = None) -> None:
        self.cancel = cancel
        self.report = report


class Tool:
    """One tool.

    handler: gets the manager, checked arguments, and the caller; returns (structured content,
    text) without delay, or a Deferred of that, and raises BackgroundrError for what the
    caller can mend. annotations: MCP's hints.
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
        self, manager: TaskManager, arguments: Arguments, caller: Caller
    ) -> Union[Message, Deferred]:
        """Return an MCP CallToolResult, or the work that will.

        One with isError says what the caller can mend. The work raises Cancelled.
        """
        cursor = arguments.get("cursor")
        if isinstance(cursor, (int, float)) and not isinstance(cursor, bool) and cursor % 1 == 0:
            # Models write digits as a number. Not in the schema: some clients hand it to models
            # that take no choice of types.
            arguments = {**arguments, "cursor": "%d" % cursor}
        problems = check(arguments, self.input_schema, "")
        if problems:
            return _error_result("%s was not called: %s." % (self.name, "; ".join(problems)))
        try:
            answer = self.handler(manager, arguments, caller)
        except BackgroundrError as error:
            return _error_result(_advise(error))
        if not isinstance(answer, Deferred):
            return _result(answer)
        work, otherwise = answer.work, answer.otherwise
        return Deferred(lambda: _later_result(work), lambda: _later_result(otherwise))


def _later_result(work: Callable[[], Answer]) -> Message:
    try:
        return _result(work())
    except Cancelled:
        raise
    except BackgroundrError as error:
        return _error_result(_advise(error))


def _result(answer: Answer) -> Message:
    structured, text = answer
    return {
        "content": [
            {"type": "text", "text": unicode_text(text)},
            # MCP, server/tools, "Structured Content": the same once more, for programs that
            # know nothing of structuredContent. A model has read it above.
            {
                "type": "text",
                "text": _TEXT_ENCODER.encode(structured),
                "annotations": {"audience": ["user"], "priority": 0},
            },
        ],
        "structuredContent": structured,
        "isError": False,
    }


# json.dumps makes a new one for each call that has options.
_TEXT_ENCODER = json.JSONEncoder(ensure_ascii=False)


def _error_result(text: str) -> Dict[str, Any]:
    return {"content": [{"type": "text", "text": unicode_text(text)}], "isError": True}


def _advise(error: BackgroundrError) -> str:
    if isinstance(error, UnknownTask):
        if error.known:
            return "%s list_background_tasks shows them all." % error
        return "%s run_background_task starts one." % error
    if isinstance(error, InvalidValue):
        return "%s. Nothing was changed; correct it and call again." % error
    return str(error)


# ---------------------------------------------------------------- handlers


def _run(manager: TaskManager, arguments: Arguments, caller: Caller) -> Answer:
    task = manager.start(
        arguments["command"],
        name=arguments.get("name"),
        cwd=arguments.get("cwd"),
        env=arguments.get("env"),
        timeout_s=arguments.get("timeout_seconds"),
    )
    lines = [
        "Started task %s: %s" % (label(task), shorten(task.command, SHORT_CHARS)),
        "It is %s with pid %d in %s." % (task.status, task.pid, path_text(task.cwd)),
    ]
    if log_text(task):
        lines.append(log_text(task))
    if task.timeout_s is not None:
        lines.append("It is ended when it still runs after %s." % duration_text(task.timeout_s))
    lines.append(
        'Next: get_task_status with task_id "%s" shows its state and output; wait_for_task'
        " waits for its end." % task.task_id
    )
    return started_fields(task), "\n".join(lines)


def _status(manager: TaskManager, arguments: Arguments, caller: Caller) -> Answer:
    stream = _stream(arguments)
    # Who says how many lines gets them, however long they are.
    max_bytes = arguments.get("max_bytes", None if "tail_lines" in arguments else PAGE_BYTES)
    output = manager.output(
        arguments["task_id"],
        int(arguments.get("tail_lines", TAIL_LINES)),
        stream,
        None if max_bytes is None else int(max_bytes),
    )
    return tail_fields(output), tail_text(output, stream)


def _read(manager: TaskManager, arguments: Arguments, caller: Caller) -> Answer:
    stream = _stream(arguments)
    page = manager.read_output(
        arguments["task_id"],
        cursor=arguments.get("cursor"),
        max_bytes=int(arguments.get("max_bytes", PAGE_BYTES)),
        stream=stream,
        contains=arguments.get("contains", ()),
        context_lines=int(arguments.get("context_lines", 0)),
        raw=arguments.get("raw", False),
    )
    return page_fields(page), page_text(page, stream)


def _stream(arguments: Arguments) -> Optional[str]:
    stream = arguments.get("stream", "both")
    return None if stream == "both" else stream


def _wait(manager: TaskManager, arguments: Arguments, caller: Caller) -> Union[Answer, Deferred]:
    timeout_s = arguments.get("timeout_seconds", _WAIT_S)
    task_id = arguments["task_id"]

    def answer() -> Answer:
        output = manager.output(task_id, TAIL_LINES, max_bytes=PAGE_BYTES)
        text = tail_text(output, None)
        if output.status.is_final:
            return {"reason": "exited", **tail_fields(output)}, text
        first = "Task %s has not ended within %s; %s" % (
            label(output.status),
            duration_text(timeout_s),
            "it is being ended. Wait again."
            if output.status.kill_requested
            else "it runs on. Wait again, or end it.",
        )
        return {"reason": "timeout", **tail_fields(output)}, first + "\n" + text

    if manager.status(task_id).is_final or timeout_s == 0:
        return answer()

    def wait() -> Answer:
        _await_end(manager, task_id, timeout_s, caller)
        return answer()

    def cannot_wait() -> Answer:
        raise BackgroundrError("No thread is free to wait with. %s" % SpawnFailed.MAKE_ROOM)

    return Deferred(wait, cannot_wait)


def _await_end(manager: TaskManager, task_id: str, timeout_s: float, caller: Caller) -> TaskStatus:
    """Wait as `TaskManager.wait` does, and report meanwhile."""
    began = time.monotonic()
    while True:
        waited_s = time.monotonic() - began
        left_s = max(0.0, timeout_s - waited_s)
        if caller.report is None or left_s <= _PROGRESS_S:
            return manager.wait(task_id, left_s, caller.cancel)
        status = manager.wait(task_id, _PROGRESS_S, caller.cancel)
        if time.monotonic() < began + waited_s + _PROGRESS_S:
            return status  # it was over before the time was
        if status.is_final and not status.processes_left:
            continue  # over in the same moment: the answer follows at once, and says it
        caller.report(
            round(time.monotonic() - began, 3), timeout_s, progress_text(manager.output(task_id, 1))
        )


def _end(manager: TaskManager, arguments: Arguments, caller: Caller) -> Deferred:
    signal = arguments.get("signal", "SIGTERM")
    grace_s = arguments.get("grace_seconds", GRACE_S)
    # At once, and not on the thread that waits: where no thread can be had, it is this call
    # that makes room.
    before = manager.request_end(arguments["task_id"], signal, grace_s)

    def answer(task: TaskStatus) -> Answer:
        return status_fields(task), "\n".join(_end_lines(before, task, signal))

    return Deferred(
        # Longer than the grace only when something cannot be killed.
        lambda: answer(_await_end(manager, before.task_id, grace_s + _END_PATIENCE_S, caller)),
        lambda: answer(manager.status(before.task_id)),
    )


def _end_lines(before: TaskStatus, task: TaskStatus, signal: str) -> List[str]:
    """Return what there is to say when a task that was `before` has been told to end."""
    look = 'Next: get_task_status with task_id "%s" shows %s.'
    if before.is_final:
        first = "Task %s was over already: %s, %s." % (
            label(task),
            task.status,
            how_it_ended(task),
        )
        if not before.processes_left:
            return [first + " Nothing was left to end."]
        return [
            first,
            "%s that it had left behind got %s."
            % (
                count_text(before.processes_left, "process", "processes"),
                signal,
            ),
            left_text(task) or "None is left.",
        ]
    if not task.is_final:
        return [
            "Task %s is %s: it was sent %s and has not ended yet."
            % (
                label(task),
                task.status,
                signal,
            ),
            look % (task.task_id, "when it has"),
        ]
    first = "Task %s has ended: %s, %s, after %s." % (
        label(task),
        task.status,
        how_it_ended(task),
        duration_text(task.runtime_s),
    )
    if task.signal == "SIGKILL" and signal != "SIGKILL":
        first += " It had not ended within its grace."
    lines = [first, left_text(task)]
    if task.total_bytes:
        lines.append(look % (task.task_id, "its last output"))
    return [line for line in lines if line]


def _list(manager: TaskManager, arguments: Arguments, caller: Caller) -> Answer:
    status = arguments.get("status")
    tasks = manager.list(status)
    rows = [
        "%s  %s, %s, since %s  %s"
        % (
            label(task),
            outcome_text(task),
            duration_text(task.runtime_s),
            iso_time(task.started_at),
            shorten(task.command, SHORT_CHARS),
        )
        for task in tasks
    ]
    of_status = (
        "" if status is None else " that %s %s" % ("is" if len(rows) == 1 else "are", status)
    )
    if rows:
        head = "%s%s, oldest first:" % (count_text(len(rows), "task"), of_status)
    else:
        head = "No task%s. run_background_task starts one." % (
            " is %s" % status if status is not None else " was started yet"
        )
    return {"tasks": [row_fields(task) for task in tasks]}, "\n".join([head] + rows)


# ---------------------------------------------------------------- the rows

_TASK_ID = {
    "type": "string",
    "description": "The id that run_background_task gave.",
}
_STREAM = {"type": "string", "enum": ["both", "stdout", "stderr"], "default": "both"}
_MAX_BYTES = {"type": "integer", "minimum": MIN_BYTES, "maximum": _MAX_ANSWER_BYTES}


def default_tools() -> Dict[str, Tool]:
    """Return the table of tools, by name, in the order in which they are listed."""
    rows = (
        Tool(
            "run_background_task",
            "Run a background task",
            "Start a shell command in the background and return at once with its task_id. Use it"
            " for what runs long or until it is ended: dev servers, watchers, builds, language"
            " servers. It returns before the command has done anything, so call wait_for_task or"
            " get_task_status then, also to see whether it failed. The command and all that it"
            " starts end with end_background_task, or with this server. Its stdin is empty and it"
            " has no terminal. Do not append '&' or use nohup.",
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
            object_of(STARTED_SCHEMA),
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
                "max_bytes": {
                    **_MAX_BYTES,
                    "description": "Return fewer lines when these take more. Default: %d, and"
                    " no limit when tail_lines is given." % PAGE_BYTES,
                },
                "stream": {
                    **_STREAM,
                    "description": "Which output to return. Of both, lines of the same moment"
                    " may change places; 2>&1 in the command keeps their order.",
                },
            },
            ("task_id",),
            object_of(TAIL_SCHEMA),
            {"readOnlyHint": True, "openWorldHint": False},
            _status,
        ),
        Tool(
            "read_task_output",
            "Read a task's output page by page",
            "Read or search what a task printed, from the oldest that is kept or from a cursor"
            " on, a page a call. Pages miss nothing and repeat nothing, also while the task runs:"
            " bytes that are no longer kept are counted in skipped_bytes. Changes nothing. For"
            " the most recent lines, get_task_status is simpler.",
            {
                "task_id": _TASK_ID,
                "cursor": {
                    "type": "string",
                    "description": "The next_cursor of a former answer about this task: read"
                    " on from there. Digits alone: so many bytes after its start.",
                },
                "max_bytes": {
                    **_MAX_BYTES,
                    "default": PAGE_BYTES,
                    "description": "The size of a page.",
                },
                "stream": {**_STREAM, "description": "Which output to read."},
                "contains": {
                    "type": "array",
                    "items": {"type": "string", "minLength": 1, "maxLength": 500},
                    "minItems": 1,
                    "maxItems": 50,
                    "description": "Return only lines that contain one of these texts, which"
                    " are no patterns; case matters.",
                },
                "context_lines": {
                    "type": "integer",
                    "minimum": 0,
                    "maximum": 100,
                    "default": 0,
                    "description": "With contains: lines to return around each.",
                },
                "raw": {
                    "type": "boolean",
                    "default": False,
                    "description": "Return escape sequences, redraws and lines of any length"
                    " as they were printed, not as a terminal shows them.",
                },
            },
            ("task_id",),
            object_of(PAGE_SCHEMA),
            {"readOnlyHint": True, "openWorldHint": False},
            _read,
        ),
        Tool(
            "wait_for_task",
            "Wait for a task",
            "Wait until a task is over and return what get_task_status does, the moment it is."
            " Use it for builds, tests and whatever else ends by itself, in place of asking"
            " again and again. When the time is up first, that is no error: the task runs on,"
            " and can be waited for again.",
            {
                "task_id": _TASK_ID,
                "timeout_seconds": {
                    "type": "number",
                    "minimum": 0,
                    "maximum": _MAX_WAIT_S,
                    "default": _WAIT_S,
                    "description": "How long to wait at most. Some clients give up on a call"
                    " after a minute.",
                },
            },
            ("task_id",),
            object_of({"reason": {"enum": ["exited", "timeout"]}, **TAIL_SCHEMA}),
            {"readOnlyHint": True, "openWorldHint": False},
            _wait,
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
            object_of(STATUS_SCHEMA),
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
            object_of({"tasks": {"type": "array", "items": object_of(ROW_SCHEMA)}}),
            {"readOnlyHint": True, "openWorldHint": False},
            _list,
        ),
    )
    return {tool.name: tool for tool in rows}
