"""The table of tools: one row a tool, with its texts, its schemas and its handler.

A row's texts are written for a language model. `tools/list` is this table rendered.
"""

from __future__ import annotations

from .arguments import MAX_SECONDS
from .board import BOARD_URI
from .handlers import (
    LISTED_TASKS,
    MARKED,
    TAIL_LINES,
    WAIT_S,
    end_task,
    list_tasks,
    read_output,
    restart_task,
    run_task,
    send_input,
    show_status,
    wait_for,
)
from .lifecycle import STATUS_WORDS
from .manager import GRACE_S, PAGE_BYTES
from .paging import MIN_BYTES
from .report import (
    ENDED_SCHEMA,
    EVENT_SCHEMA,
    LISTED_SCHEMA,
    PAGE_SCHEMA,
    SENT_SCHEMA,
    STARTED_SCHEMA,
    TAIL_SCHEMA,
    object_of,
)
from .tool import TaskTool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Optional

    from .policy import StartPolicy
    from .tool import ToolBase

INSTRUCTIONS = (
    "Runs commands in the background: dev servers, watchers, builds, REPLs. Never sleep"
    " and ask again; let one call wait. run_background_task with until_port or until_output"
    " starts a server and returns when it is ready, or with its error when it fails; with"
    " wait_seconds a quick command comes back finished. wait_for_task waits for the end of a"
    " build, the next line of a watcher (give it the matched_cursor of the last), a port, or"
    " silence. For a program that asks questions use interactive, or pty if it wants a terminal,"
    " and answer with send_task_input, which waits for the reaction too. get_task_status shows a"
    " task now, read_task_output pages through or searches its output, list_background_tasks"
    " finds one again. end_background_task ends a task with every process it started. A name"
    " may stand for a task_id. All tasks end with this server."
)

_MAX_ANSWER_BYTES = 16 * 1024 * 1024
_MAX_WAIT_S = 3600

_TASK_ID = {"type": "string", "description": "Its id, or its name."}
_STREAM = {"type": "string", "enum": ["both", "stdout", "stderr"], "default": "both"}
_MAX_BYTES = {"type": "integer", "minimum": MIN_BYTES, "maximum": _MAX_ANSWER_BYTES}
_TEXTS = {"type": "array", "items": {"type": "string"}}
_PORT = {"type": "integer", "minimum": 1, "maximum": 65535}
_QUIET = {"type": "number", "exclusiveMinimum": 0, "maximum": _MAX_WAIT_S}
_SECONDS = {"type": "number", "minimum": 0, "maximum": _MAX_WAIT_S}
_UNTIL_READY = {
    "wait_seconds": {
        **_SECONDS,
        "description": "Wait so long at most for its end, or for what until_ names (default"
        " then: %d)." % WAIT_S,
    },
    "until_output": {**_TEXTS, "description": "Wait for a line that has one of these."},
    "until_port": {**_PORT, "description": "Wait until it listens on this TCP port."},
}
_ONLY_LOOKS = {"readOnlyHint": True, "openWorldHint": False}
_DOES = {"readOnlyHint": False, "destructiveHint": True, "openWorldHint": True}


def default_tools(policy: Optional[StartPolicy] = None) -> Dict[str, ToolBase]:
    """Return the table of tools, by name, in the order in which they are listed.

    policy: what may be started; the texts tell of it.
    """
    command = "Command line for sh, or the server's shell."
    env = "Environment variables to add."
    if policy is not None and policy.patterns is not None:
        command = (
            "A program and its arguments, run without a shell: no pipes, ';', variables, '$()'."
            " Allowed, word by word: %s." % policy.allowed_text()
        )
    if policy is not None and policy.deny_env:
        env = "Not allowed here."
    cwd = "Directory to run in."
    if policy is not None and policy.roots:
        cwd = "Directory to run in, under %s." % " or ".join(policy.roots)
    rows = (
        TaskTool(
            "run_background_task",
            "Run a background task",
            "Start a command in the background: a dev server, watcher, build, language"
            " server, REPL. Returns its task_id at once or, with until_ or wait_seconds, when it"
            " is ready or has ended, with its output. All that it starts ends with"
            " end_background_task, or with this server. Do not append '&' or use nohup.",
            {
                "command": {
                    "type": "string",
                    "minLength": 1,
                    "description": command,
                },
                "name": {
                    "type": "string",
                    "maxLength": 100,
                    "description": "A name to call it by.",
                },
                "cwd": {
                    "type": "string",
                    "minLength": 1,
                    "description": cwd,
                },
                "env": {
                    "type": "object",
                    "additionalProperties": {"type": "string"},
                    "description": env,
                },
                "timeout_seconds": {
                    "type": "number",
                    "exclusiveMinimum": 0,
                    "maximum": MAX_SECONDS,
                    "description": "End it when it still runs after so long.",
                },
                **_UNTIL_READY,
                "stdin": {
                    "type": "string",
                    "description": "Text for it to read, then end of input.",
                },
                "interactive": {
                    "type": "boolean",
                    "description": "Keep its input open for send_task_input.",
                },
                "pty": {
                    "type": "boolean",
                    "description": "Give it a terminal, and input: for programs that want one, or"
                    " ask for a password.",
                },
            },
            ("command",),
            object_of(STARTED_SCHEMA),
            _DOES,
            run_task,
            BOARD_URI,
        ),
        TaskTool(
            "get_task_status",
            "Get a task's status and output",
            "Tell at once whether a task is running, stopping, completed (exit code 0), failed,"
            " terminated (ended on request) or timed_out, with exit code, signal, times and the"
            " most recent lines it printed.",
            {
                "task_id": _TASK_ID,
                "tail_lines": {
                    "type": "integer",
                    "minimum": 0,
                    "default": TAIL_LINES,
                    "description": "How many lines to return.",
                },
                "max_bytes": {
                    **_MAX_BYTES,
                    "description": "Return fewer when they take more. Default: %d, or with"
                    " tail_lines no limit." % PAGE_BYTES,
                },
                "stream": {**_STREAM, "description": "Which output to return."},
            },
            ("task_id",),
            object_of(TAIL_SCHEMA),
            _ONLY_LOOKS,
            show_status,
        ),
        TaskTool(
            "read_task_output",
            "Read a task's output",
            "Read or search what a task printed, from the oldest that is kept or from a cursor"
            " on. Pages miss nothing and repeat nothing; bytes that are no longer kept are"
            " counted in skipped_bytes.",
            {
                "task_id": _TASK_ID,
                "cursor": {
                    "type": "string",
                    "description": "The next_cursor of a former answer: read on from there.",
                },
                "max_bytes": {
                    **_MAX_BYTES,
                    "default": PAGE_BYTES,
                    "description": "The size of a page.",
                },
                "before": {
                    "type": "string",
                    "description": 'Read the page before this cursor, or before the "end".',
                },
                "stream": {
                    **_STREAM,
                    "enum": [*_STREAM["enum"], MARKED],
                    "description": "Which output to read; marked: both, and whose each line is.",
                },
                "contains": {
                    **_TEXTS,
                    "description": "Return only lines that contain one of these texts (no"
                    " patterns; case matters).",
                },
                "context_lines": {
                    "type": "integer",
                    "minimum": 0,
                    "maximum": 100,
                    "default": 0,
                    "description": "Lines to return around each of these.",
                },
                "raw": {
                    "type": "boolean",
                    "description": "Keep escape sequences, redraws and long lines.",
                },
            },
            ("task_id",),
            object_of(PAGE_SCHEMA),
            _ONLY_LOOKS,
            read_output,
        ),
        TaskTool(
            "wait_for_task",
            "Wait for a task",
            "Wait until a task is over, or does what until_ names, and return the moment it"
            " happens, with its status and output. When the time is up first, that is no error:"
            " the task runs on, wait again.",
            {
                "task_id": _TASK_ID,
                "task_ids": {
                    "type": "array",
                    "items": {"type": "string"},
                    "minItems": 1,
                    "maxItems": 100,
                    "description": "More tasks; task_id may be left out then.",
                },
                "mode": {
                    "type": "string",
                    "enum": ["any", "all"],
                    "default": "any",
                    "description": "Whether one of task_ids must be done, or each.",
                },
                "until_output": {
                    **_TEXTS,
                    "description": "Wait for a line that has one of these texts. Lines that"
                    " are there already count, from cursor on.",
                },
                "cursor": {
                    "type": "string",
                    "description": "The next_cursor or matched_cursor of an answer: look at and"
                    " return only what comes after it.",
                },
                "until_port": {**_PORT, "description": "Wait until it listens on this TCP port."},
                "until_quiet_seconds": {
                    **_QUIET,
                    "description": "Wait until it has printed nothing for so long.",
                },
                "timeout_seconds": {
                    **_SECONDS,
                    "default": WAIT_S,
                    "description": "How long at most. Some clients give up after a minute.",
                },
            },
            ("task_id",),
            object_of(EVENT_SCHEMA),
            _ONLY_LOOKS,
            wait_for,
        ),
        TaskTool(
            "send_task_input",
            "Type to a task",
            "Send input to a task that was started with interactive or pty and, with until_ or"
            " wait_seconds, wait for its reaction: only output after the input counts and is"
            " returned. What it does not read within a second is given up: unwritten_bytes.",
            {
                "task_id": _TASK_ID,
                "input": {"type": "string", "description": "Text, sent as it is."},
                "enter": {
                    "type": "boolean",
                    "description": "Add a newline. Default: true, false with keys.",
                },
                "keys": {
                    "type": "array",
                    "items": {"type": "string"},
                    "maxItems": 100,
                    "description": "With pty: keys to press then, such as ctrl-c, escape, tab,"
                    " enter, up, page-down, f1.",
                },
                "close": {
                    "type": "boolean",
                    "description": "End the input then (with pty: ctrl-d).",
                },
                "until_output": {**_TEXTS, "description": "Wait for a line with one of these."},
                "until_quiet_seconds": {**_QUIET, "description": "Wait for silence of so long."},
                "wait_seconds": {**_SECONDS, "description": "How long to wait at most."},
            },
            ("task_id",),
            object_of(SENT_SCHEMA),
            _DOES,
            send_input,
        ),
        TaskTool(
            "end_background_task",
            "End a background task",
            "End a task and every process it started, and wait until that is done: the signal"
            " first, SIGKILL after the grace. Its output stays readable. Of a task that is over"
            " it ends the processes that are left.",
            {
                "task_id": _TASK_ID,
                "signal": {
                    "type": "string",
                    "enum": ["SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGKILL"],
                    "default": "SIGTERM",
                    "description": "SIGINT is what ctrl-c sends.",
                },
                "grace_seconds": {
                    "type": "number",
                    "minimum": 0,
                    "maximum": 3600,
                    "default": GRACE_S,
                    "description": "Time until SIGKILL.",
                },
            },
            ("task_id",),
            object_of(ENDED_SCHEMA),
            {**_DOES, "idempotentHint": True, "openWorldHint": False},
            end_task,
        ),
        TaskTool(
            "restart_background_task",
            "Restart a background task",
            "End a task, if it runs, and start its command anew, with the same settings and a new"
            " task_id.",
            {"task_id": _TASK_ID, **_UNTIL_READY},
            ("task_id",),
            object_of({**STARTED_SCHEMA, "replaces": {"type": "string"}}),
            _DOES,
            restart_task,
        ),
        TaskTool(
            "list_background_tasks",
            "List background tasks",
            "List tasks, oldest first, one row each: id, name, command, status, since when, how"
            " much output, its last line.",
            {
                "status": {
                    "type": "string",
                    "enum": list(STATUS_WORDS),
                    "description": "Only tasks with this status.",
                },
                "limit": {
                    "type": "integer",
                    "minimum": 1,
                    "maximum": 10000,
                    "default": LISTED_TASKS,
                    "description": "At most so many: those that run, then the newest.",
                },
                "full": {"type": "boolean", "description": "Rows with all fields."},
            },
            (),
            object_of(LISTED_SCHEMA),
            _ONLY_LOOKS,
            list_tasks,
            BOARD_URI,
        ),
    )
    return {tool.name: tool for tool in rows}
