"""Handlers: what each tool does, and how its answer reads.

The place where MCP's arguments meet the manager. A handler gets the manager, checked
arguments and the caller; it returns an Answer without delay, or a Deferred of one, and raises
BackgroundrError for what the caller can mend.
"""

from __future__ import annotations

import time

from .arguments import check_texts
from .errors import BackgroundrError, InvalidValue, SpawnFailed
from .hints import silence_hint, start_hint
from .jsonrpc import Deferred
from .lifecycle import ALIVE
from .manager import GRACE_S, INPUT_PATIENCE_S, PAGE_BYTES
from .report import (
    SHORT_CHARS,
    count_text,
    duration_text,
    full_row_fields,
    how_it_ended,
    input_text,
    label,
    last_line,
    left_text,
    log_text,
    marked_fields,
    outcome_text,
    output_text,
    page_fields,
    page_lines,
    path_text,
    port_fields,
    port_text,
    progress_text,
    quoted,
    row_fields,
    row_text,
    shorten,
    started_fields,
    state_line,
    status_fields,
    status_lines,
    tail_fields,
)
from .waiting import ENDED, PRINTED, QUIET, SERVES, TIMEOUT, WaitEvent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional, Tuple, Union

    from .cancel import CancelToken
    from .manager import TaskManager
    from .status import TaskInputResult, TaskOutput, TaskStatus
    from .waiting import TaskWait

    Arguments = Dict[str, Any]
    # Takes the seconds that a call has waited, how many it will at most, and a sentence that
    # says how things are.
    Report = Callable[[float, float, str], None]

# The output of both streams, and of each line which it is of.
MARKED = "marked"
TAIL_LINES = 50
LISTED_TASKS = 50
# Some hosts give a tool call no more than a minute.
WAIT_S = 30
# Hosts that give up on a silent call do so after tens of seconds.
_PROGRESS_S = 2.0
# How long after its grace an ending may take before it is answered as it stands.
_END_PATIENCE_S = 5.0
# The output of several tasks shares one page; each gets so much at the least.
_LEAST_SHARE_BYTES = 1024
_QUOTED_CHARS = 300


class Caller:
    """Who made a call. cancel: cancelled when nobody wants the answer any more. report: tells
    of the progress of a call that waits; None when nobody wants to hear of it."""

    def __init__(self, cancel: CancelToken, report: Optional[Report] = None) -> None:
        self.cancel = cancel
        self.report = report


class Answer:
    """What a call is answered with.

    fields: for programs. first: what happened, in one line. details: more lines, "" for none.
    hint: what to do otherwise the next time. next: the call to make now. output: what a task
    printed, with our own words above it; it goes last, so that nothing a task prints can pass
    for a word of ours.
    """

    def __init__(
        self,
        fields: Dict[str, Any],
        first: str,
        details: List[str],
        hint: str = "",
        next: str = "",
        output: str = "",
    ) -> None:
        self.text = "\n".join(filter(None, [first, *details, hint, next, output]))
        # Some hosts show a model the fields alone.
        self.fields = {"summary": "\n".join(filter(None, [first, hint, next])), **fields}


class Conditions:
    """What a call waits for, beside the end of a task, and how long."""

    def __init__(self, arguments: Arguments, timeout_s: float) -> None:
        """Raises InvalidValue."""
        self.texts = _texts(arguments, "until_output")
        port = arguments.get("until_port")
        self.port = None if port is None else int(port)
        self.quiet_s: Optional[float] = arguments.get("until_quiet_seconds")
        self.timeout_s = timeout_s

    @staticmethod
    def of_start(arguments: Arguments) -> Optional[Conditions]:
        """Return those of a call that does something first; None when it is not to wait."""
        names = ("wait_seconds", "until_output", "until_port", "until_quiet_seconds")
        if not any(name in arguments for name in names):
            return None
        return Conditions(arguments, arguments.get("wait_seconds", WAIT_S))

    @property
    def are_more_than_the_end(self) -> bool:
        """Whether anything but the end of a task is waited for."""
        return bool(self.texts) or self.port is not None or self.quiet_s is not None

    def watch(
        self,
        manager: TaskManager,
        task_ids: List[str],
        cursor: Optional[str] = None,
        for_all: bool = False,
    ) -> TaskWait:
        """Return the wait. Raises what `TaskManager.watch` raises."""
        return manager.watch(task_ids, self.texts, cursor, self.port, self.quiet_s, for_all)

    def not_met(self, count: int = 1) -> str:
        """Return what a task, or `count` tasks, have not done when the time is up."""
        parts = ["has not ended" if count == 1 else "have not ended"]
        if self.texts:
            parts.append("nor printed %s" % " or ".join(map(quoted, self.texts)))
        if self.port is not None:
            parts.append("nor served port %d" % self.port)
        if self.quiet_s is not None:
            parts.append("nor been quiet for %s" % duration_text(self.quiet_s))
        return "%s within %s" % (", ".join(parts), duration_text(self.timeout_s))


# ---------------------------------------------------------------- to start and to look


def run_task(manager: TaskManager, arguments: Arguments, caller: Caller) -> Union[Answer, Deferred]:
    """Answer run_background_task: start a command, and wait for it if that is asked for.

    Raises what `TaskManager.start` raises.
    """
    conditions = Conditions.of_start(arguments)
    task = manager.start(
        arguments["command"],
        name=arguments.get("name"),
        cwd=arguments.get("cwd"),
        env=arguments.get("env"),
        timeout_s=arguments.get("timeout_seconds"),
        stdin=arguments.get("stdin"),
        interactive=arguments.get("interactive", False),
        pty=arguments.get("pty", False),
    )
    return _started(manager, task, conditions, caller)


def restart_task(manager: TaskManager, arguments: Arguments, caller: Caller) -> Deferred:
    """Answer restart_background_task: end a task, start it anew, and wait if asked to.

    The work raises what `TaskManager.restart` raises, this UnknownTask and AmbiguousName.
    """
    conditions = Conditions.of_start(arguments)
    before = manager.status(arguments["task_id"])

    def work() -> Answer:
        task = manager.restart(before.task_id, cancel=caller.cancel)
        answer = _started(manager, task, conditions, caller, before)
        return answer if isinstance(answer, Answer) else answer.work()

    return Deferred(work, _cannot_wait)


def _started(
    manager: TaskManager,
    task: TaskStatus,
    conditions: Optional[Conditions],
    caller: Caller,
    replaced: Optional[TaskStatus] = None,
) -> Union[Answer, Deferred]:
    """Answer for a task that was started just now, or wait first. replaced: the one in whose
    place it was started."""
    before = "" if replaced is None else "Task %s is replaced." % label(replaced)
    fields = {} if replaced is None else {"replaces": replaced.task_id}
    first = "Started task %s: %s" % (label(task), shorten(task.command, SHORT_CHARS))
    hint = start_hint(task.settings)

    def at_once(next: str) -> Answer:
        details = [
            "It is %s with pid %d in %s." % (task.status, task.pid, path_text(task.cwd)),
            log_text(task),
            ""
            if task.timeout_s is None
            else "It is ended when it still runs after %s." % duration_text(task.timeout_s),
            input_text(task),
        ]
        happened = " ".join(filter(None, [before, first]))
        return Answer({**started_fields(task), **fields}, happened, details, hint, next)

    if conditions is None:
        return at_once(
            'Next: get_task_status with task_id "%s" shows its state and output; wait_for_task'
            " waits for its end, its output or its port." % task.task_id
        )
    wait = conditions.watch(manager, [task.task_id])
    return Deferred(
        lambda: _waited(manager, wait, conditions, caller, before=before, fields=fields, hint=hint),
        lambda: at_once("No thread is free to wait with. Next: get_task_status shows its state."),
    )


def show_status(manager: TaskManager, arguments: Arguments, caller: Caller) -> Answer:
    """Answer get_task_status. Raises what `TaskManager.output` raises."""
    stream = _stream(arguments)
    # Who says how many lines gets them, however long they are.
    max_bytes = arguments.get("max_bytes", None if "tail_lines" in arguments else PAGE_BYTES)
    output = manager.output(
        arguments["task_id"],
        int(arguments.get("tail_lines", TAIL_LINES)),
        stream,
        None if max_bytes is None else int(max_bytes),
    )
    return Answer(
        tail_fields(output),
        state_line(output.status),
        status_lines(output.status),
        silence_hint(output.status),
        output=output_text(output, stream),
    )


def read_output(manager: TaskManager, arguments: Arguments, caller: Caller) -> Answer:
    """Answer read_task_output. Raises what `TaskManager.read_output` raises."""
    is_marked = arguments.get("stream") == MARKED
    is_before = "before" in arguments
    stream = None if is_marked else _stream(arguments)
    page = manager.read_output(
        arguments["task_id"],
        cursor=arguments.get("cursor"),
        max_bytes=int(arguments.get("max_bytes", PAGE_BYTES)),
        stream=stream,
        contains=_texts(arguments, "contains"),
        context_lines=int(arguments.get("context_lines", 0)),
        raw=arguments.get("raw", False),
        before=arguments.get("before"),
        whole_lines=is_marked,
    )
    return Answer(
        {**page_fields(page, is_before), **(marked_fields(page) if is_marked else {})},
        state_line(page.status),
        page_lines(page, stream, is_before),
        output=page.text,
    )


def _texts(arguments: Arguments, name: str) -> Tuple[str, ...]:
    """Return the texts to look for, none where the argument was not given."""
    if arguments.get(name) == []:
        raise InvalidValue(name, "must not be empty")
    return check_texts(name, arguments.get(name, ()))


def _stream(arguments: Arguments) -> Optional[str]:
    stream = arguments.get("stream", "both")
    return None if stream == "both" else stream


def list_tasks(manager: TaskManager, arguments: Arguments, caller: Caller) -> Answer:
    """Answer list_background_tasks: those that are alive, then the newest, oldest first."""
    wanted = arguments.get("status")
    limit = int(arguments.get("limit", LISTED_TASKS))
    fields_of = full_row_fields if arguments.get("full") else row_fields
    tasks = manager.list(wanted)
    # Those that are alive first, then the newest; shown oldest first.
    by_need = sorted(tasks, key=lambda task: (task.status not in ALIVE, -task.started_at))
    chosen = {task.task_id for task in by_need[:limit]}
    rows = [(task, last_line(manager, task)) for task in tasks if task.task_id in chosen]
    of_status = (
        "" if wanted is None else " that %s %s" % ("is" if len(tasks) == 1 else "are", wanted)
    )
    if tasks:
        first = "%s%s, oldest first:" % (count_text(len(tasks), "task"), of_status)
    else:
        first = "No task%s. run_background_task starts one." % (
            " is %s" % wanted if wanted is not None else " was started yet"
        )
    left_out = len(tasks) - len(rows)
    return Answer(
        {
            "tasks": [fields_of(*row) for row in rows],
            "left_out": left_out,
        },
        first,
        [
            ""
            if not left_out
            else "(%s not shown; limit shows more.)"
            % (count_text(left_out, "older task is", "older tasks are")),
            *(row_text(*row) for row in rows),
        ],
    )


# ---------------------------------------------------------------- to wait


def wait_for(manager: TaskManager, arguments: Arguments, caller: Caller) -> Union[Answer, Deferred]:
    """Answer wait_for_task, for one task or, with `task_ids`, for several.

    Raises what `TaskManager.watch` raises, and InvalidValue for a cursor beside several.
    """
    is_list = "task_ids" in arguments
    conditions = Conditions(arguments, arguments.get("timeout_seconds", WAIT_S))
    cursor = arguments.get("cursor")
    if is_list and cursor is not None:
        raise InvalidValue("cursor", "is of one task, and cannot stand beside task_ids")
    task_ids = [arguments["task_id"], *arguments.get("task_ids", ())]
    one = conditions.watch(manager, task_ids, cursor, arguments.get("mode") == "all")

    def work() -> Answer:
        if is_list:
            return _waited_for_several(manager, one, conditions, caller)
        return _waited(manager, one, conditions, caller, cursor)

    if not conditions.are_more_than_the_end and (conditions.timeout_s == 0 or one.run(0)):
        return work()
    return Deferred(work, _cannot_wait)


def _cannot_wait() -> Answer:
    raise BackgroundrError("No thread is free to wait with. %s" % SpawnFailed.MAKE_ROOM)


def _run_wait(manager: TaskManager, wait: TaskWait, timeout_s: float, caller: Caller) -> bool:
    """Wait as `TaskWait.run` does, and report meanwhile."""
    began = time.monotonic()
    while True:
        left_s = max(0.0, timeout_s - (time.monotonic() - began))
        if caller.report is None or left_s <= _PROGRESS_S:
            return wait.run(left_s, caller.cancel)
        if wait.run(_PROGRESS_S, caller.cancel):
            return True
        waited_s = round(time.monotonic() - began, 3)
        output = manager.output(wait.task_ids[0], 1)
        if wait.run(0, caller.cancel):
            # In the same moment. Some clients take a report and an answer in the wrong order.
            return True
        caller.report(waited_s, timeout_s, progress_text(output, len(wait.task_ids)))


def _waited(
    manager: TaskManager,
    wait: TaskWait,
    conditions: Conditions,
    caller: Caller,
    cursor: Optional[str] = None,
    before: str = "",
    fields: Optional[Dict[str, Any]] = None,
    hint: str = "",
    is_reaction: bool = False,
) -> Answer:
    """Wait for one task, and answer. cursor: show only what was printed behind it. before: a
    sentence to begin with. fields, hint: more to tell. is_reaction: to input, which is sent on
    and not waited on."""
    _run_wait(manager, wait, conditions.timeout_s, caller)
    task_id = wait.task_ids[0]
    output = manager.output(task_id, TAIL_LINES, max_bytes=PAGE_BYTES, cursor=cursor)
    task = output.status
    event = _event_of(task, wait)
    first, next = _what_happened(manager, task, event, wait, conditions)
    if is_reaction:
        if event is None and not conditions.are_more_than_the_end:
            first = "What it printed within %s follows." % duration_text(conditions.timeout_s)
        next = ""
    is_told = first == state_line(task)
    return Answer(
        {
            "reason": TIMEOUT if event is None else event.reason,
            **tail_fields(output),
            **_event_fields(event, wait, conditions),
            **(fields or {}),
        },
        " ".join(filter(None, [before, first])),
        ["" if is_told else state_line(task, "It"), *status_lines(task)],
        " ".join(filter(None, [_unseen_text(wait), hint, silence_hint(task)])),
        next,
        output_text(output, None, says_how_to_go_on=not (next or is_reaction)),
    )


def _event_of(task: TaskStatus, wait: TaskWait) -> Optional[WaitEvent]:
    """Return what happened to a task that was waited for; also what has since the wait."""
    return wait.events.get(task.task_id) or (WaitEvent(ENDED) if task.is_final else None)


def _event_fields(
    event: Optional[WaitEvent], wait: TaskWait, conditions: Conditions
) -> Dict[str, Any]:
    fields: Dict[str, Any] = {}
    if conditions.texts:
        fields["matched_line"] = None if event is None else event.line
        fields["matched_cursor"] = None if event is None else event.cursor
    if conditions.port is not None:
        holder = wait.foreign_holder if event is None else event.holder or wait.foreign_holder
        fields["port"] = None if holder is None else port_fields(holder)
    return fields


def _what_happened(
    manager: TaskManager,
    task: TaskStatus,
    event: Optional[WaitEvent],
    wait: TaskWait,
    conditions: Conditions,
) -> Tuple[str, str]:
    """Return how a wait for a task ended, in a line, and what to do next, or ""."""
    holder = wait.foreign_holder
    foreign = ""
    if holder is not None:
        other = None if holder.pid is None else manager.task_of(holder.pid)
        foreign = port_text(holder, task, other)
    if event is None:
        sentence = "Task %s %s; " % (label(task), conditions.not_met())
        if task.kill_requested:
            return sentence + "it is being ended. Wait again.", ""
        return sentence + "it runs on. Wait again, or end it.", foreign
    over = " It is over since: %s, %s." % (task.status, how_it_ended(task)) if task.is_final else ""
    if event.reason == PRINTED:
        assert event.line is not None
        return (
            "Task %s printed the line %s.%s"
            % (label(task), quoted(event.line, _QUOTED_CHARS), over),
            ""
            if over
            else 'Next: what it prints later can be waited for with cursor "%s".' % event.cursor,
        )
    if event.reason == SERVES:
        assert event.holder is not None
        if event.holder.is_of_task:
            return port_text(event.holder, task) + over, ""
        return foreign + over, "Next: end what holds the port, or have the task use another one."
    if event.reason == QUIET:
        assert conditions.quiet_s is not None
        return (
            "Task %s has printed nothing for %s.%s"
            % (label(task), duration_text(conditions.quiet_s), over),
            "",
        )
    return state_line(task), foreign


def _unseen_text(wait: TaskWait) -> str:
    """Return what to say of output that was gone before it could be searched, or ""."""
    if not wait.skipped_bytes:
        return ""
    return (
        "%s of the output could not be searched: no longer kept when their turn came."
        % count_text(wait.skipped_bytes, "byte")
    )


def _waited_for_several(
    manager: TaskManager, wait: TaskWait, conditions: Conditions, caller: Caller
) -> Answer:
    _run_wait(manager, wait, conditions.timeout_s, caller)
    share = max(_LEAST_SHARE_BYTES, PAGE_BYTES // len(wait.task_ids))
    outputs = [manager.output(one, TAIL_LINES, max_bytes=share) for one in wait.task_ids]
    is_met = wait.run(0)  # now too: one may have ended since
    tasks = {output.status.task_id: output.status for output in outputs}
    events = {task_id: _event_of(task, wait) for task_id, task in tasks.items()}
    blocks = [
        _block(manager, output, events[task_id], wait, conditions)
        for task_id, output in zip(tasks, outputs)
    ]
    # In the order of the tasks.
    met = next(iter(wait.events.items()), None) if is_met else None
    left = [task_id for task_id, event in events.items() if event is None]
    if met is None:
        first = "%d of %s %s; %s. Wait again, or end what is not needed." % (
            len(left),
            count_text(len(tasks), "task"),
            conditions.not_met(len(left)),
            "it runs on" if len(left) == 1 else "they run on",
        )
    elif left:
        first = _what_happened(manager, tasks[met[0]], met[1], wait, conditions)[0]
    else:
        first = "All %d tasks are over, or have done what was waited for." % len(tasks)
    return Answer(
        {
            "reason": TIMEOUT if met is None else met[1].reason,
            "task_id": None if met is None else met[0],
            "tasks": [
                {
                    "reason": None if event is None else event.reason,
                    **tail_fields(output),
                    **_event_fields(event, wait, conditions),
                }
                for event, output in zip(events.values(), outputs)
            ],
        },
        first,
        [],
        _unseen_text(wait),
        output="\n".join(blocks),
    )


def _block(
    manager: TaskManager,
    output: TaskOutput,
    event: Optional[WaitEvent],
    wait: TaskWait,
    conditions: Conditions,
) -> str:
    """Return what to read of one task of several. What it printed stands behind bars, so that
    it cannot pass for the next one."""
    task = output.status
    lines = [state_line(task)]
    if event is not None and event.reason != ENDED:
        lines.append(_what_happened(manager, task, event, wait, conditions)[0])
    own, _, printed = output_text(output, None, says_how_to_go_on=False).partition("\n")
    lines.append(own)
    return "\n".join(lines + ["  | " + line for line in printed.split("\n") if printed])


# ---------------------------------------------------------------- to send and to end


def send_input(
    manager: TaskManager, arguments: Arguments, caller: Caller
) -> Union[Answer, Deferred]:
    """Answer send_task_input: send, at once, and wait for the reaction if asked to.

    Raises what `TaskManager.begin_input` raises, and InvalidValue when there is nothing to send.
    """
    keys = arguments.get("keys", [])
    close = arguments.get("close", False)
    enter = arguments.get("enter", "input" in arguments and not keys)
    if not (arguments.get("input") or enter or keys or close):
        raise InvalidValue("input", "must be given, or keys, or close: there is nothing to send")
    conditions = Conditions.of_start(arguments)
    pending = manager.begin_input(
        arguments["task_id"],
        arguments.get("input", ""),
        enter,
        keys,
        close,
    )
    if conditions is None:
        if pending.is_written:
            return _sent(pending.finish(0))
        return Deferred(
            lambda: _sent(pending.finish(INPUT_PATIENCE_S)), lambda: _sent(pending.finish(0))
        )
    reaction = conditions.watch(manager, [pending.task_id], pending.cursor)
    asked = conditions

    def work() -> Answer:
        result = pending.finish(INPUT_PATIENCE_S)
        if result.unwritten_bytes:
            return _sent(result)
        return _waited(
            manager,
            reaction,
            asked,
            caller,
            pending.cursor,
            _sent_text(result),
            _sent_bytes(result),
            is_reaction=True,
        )

    return Deferred(work, lambda: _sent(pending.finish(0)))


def _sent_bytes(result: TaskInputResult) -> Dict[str, Any]:
    return {"written_bytes": result.written_bytes, "unwritten_bytes": result.unwritten_bytes}


def _sent_text(result: TaskInputResult) -> str:
    text = "Sent %s to task %s." % (
        count_text(result.written_bytes, "byte"),
        label(result.status),
    )
    if result.unwritten_bytes:
        text += " %s more could not be written, and will not be: %s." % (
            count_text(result.unwritten_bytes, "byte"),
            "the program does not read them"
            if result.status.input_open or result.ends
            else "the program has closed its input",
        )
    if result.ends:
        text += " Its input ends there."
    return text


def _sent(result: TaskInputResult) -> Answer:
    task = result.status
    return Answer(
        {
            "task_id": task.task_id,
            "status": task.status,
            **_sent_bytes(result),
            "input_open": task.input_open,
            "next_cursor": result.cursor,
        },
        _sent_text(result),
        ["It is %s." % outcome_text(task)],
        next='Next: wait_for_task with task_id "%s", cursor "%s" and until_output or'
        " until_quiet_seconds shows what it prints from here on." % (task.task_id, result.cursor),
    )


def end_task(manager: TaskManager, arguments: Arguments, caller: Caller) -> Deferred:
    """Answer end_background_task: signal a task at once, and wait for its end.

    Raises what `TaskManager.request_end` raises.
    """
    signal = arguments.get("signal", "SIGTERM")
    grace_s = arguments.get("grace_seconds", GRACE_S)
    # At once, and not on the thread that waits: where no thread can be had, it is this call
    # that makes room.
    before = manager.request_end(arguments["task_id"], signal, grace_s)
    wait = manager.watch([before.task_id])

    def work() -> Answer:
        # Longer than the grace only when something cannot be killed.
        _run_wait(manager, wait, grace_s + _END_PATIENCE_S, caller)
        return _ended(before, manager.status(before.task_id), signal)

    return Deferred(work, lambda: _ended(before, manager.status(before.task_id), signal))


def _ended(before: TaskStatus, task: TaskStatus, signal: str) -> Answer:
    """Answer for a task that was `before` and has been told to end."""
    fields = status_fields(task)
    look = 'Next: get_task_status with task_id "%s" shows %s.'
    if before.is_final:
        first = "Task %s was over already: %s, %s." % (
            label(task),
            task.status,
            how_it_ended(task),
        )
        if not before.processes_left:
            return Answer(fields, first + " Nothing was left to end.", [])
        got = "%s that it had left behind got %s." % (
            count_text(before.processes_left, "process", "processes"),
            signal,
        )
        return Answer(fields, first, [got, left_text(task) or "None is left."])
    if not task.is_final:
        return Answer(
            fields,
            "Task %s is %s: it was sent %s and has not ended yet."
            % (label(task), task.status, signal),
            [],
            next=look % (task.task_id, "when it has"),
        )
    first = "Task %s has ended: %s, %s, after %s." % (
        label(task),
        task.status,
        how_it_ended(task),
        duration_text(task.runtime_s),
    )
    if task.signal == "SIGKILL" and signal != "SIGKILL":
        first += " It had not ended within its grace."
    last_output = look % (task.task_id, "its last output") if task.total_bytes else ""
    return Answer(fields, first, [left_text(task)], next=last_output)
