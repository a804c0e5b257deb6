"""Waiting: until tasks are over, print something, fall silent, or serve a port.

Who waits registers a condition with the tasks that it waits for; a change of a task wakes
only those. All that is looked for in output is looked for here, on the thread that waits.
"""

from __future__ import annotations

import re
import threading
import time

from .errors import Cancelled
from .output import STREAMS
from .paging import format_cursor, lines_with
from .ports import PortWatch
from .proctree import survey
from .screen import Lines, clip
from .status import TaskRecord
from .terminal import Echo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Dict, FrozenSet, List, Match, Optional, Sequence, Set, Tuple

    from .cancel import CancelToken
    from .ports import PortHolder
    from .proctree import Tree

    Fragments = List[Tuple[str, bytes]]

# Why a wait is over.
ENDED = "exited"
PRINTED = "output"
SERVES = "port"
QUIET = "quiet"
TIMEOUT = "timeout"
WAIT_REASONS = (ENDED, PRINTED, SERVES, QUIET, TIMEOUT)

# How long a line that was looked for, and has not ended, is given to end: programs write
# lines in pieces, and prompts without an end.
_LINE_GRACE_S = 0.03
# How long a task is given to end, or to take the port, when somebody else holds it: a server
# that finds its port taken says so, and that is the better answer.
_PORT_GRACE_S = 1.0
# To look whose it is takes longer, some 10 ms for 300 processes.
_FOREIGN_INTERVAL_S = 0.1
# Of a line that does not end, so much is looked at again when more of it comes.
_LOOKED_AT_AGAIN_BYTES = 65536

# What makes text other than its bytes.
_ACTS = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]")
# What goes back to be printed over: carriage returns, and moves about the screen.
_REDRAW = re.compile(rb"\r(?!\n)|\x1b\[[0-9;]*[ABEFGHdf]")


class WatchedTask(TaskRecord):
    """A task that can be waited for. The manager's mutex owns it; see TaskRecord."""

    tree: Tree

    @property
    def is_over(self) -> bool:
        """Whether it has ended and nothing that it left is being ended any more."""
        raise NotImplementedError


class WaitEvent:
    """What happened to a task that was waited for.

    reason: one of WAIT_REASONS but TIMEOUT. line, cursor: of PRINTED, the line as a terminal
    shows it and the place behind it. holder: of SERVES.
    """

    __slots__ = ("reason", "line", "cursor", "holder")

    def __init__(
        self,
        reason: str,
        line: Optional[str] = None,
        cursor: Optional[str] = None,
        holder: Optional[PortHolder] = None,
    ) -> None:
        self.reason = reason
        self.line = line
        self.cursor = cursor
        self.holder = holder


class OutputSearch:
    """Looks for texts in output as it comes, from a place in a log on.

    place: {stream: bytes before what is still to be looked at}. skipped_bytes: no longer
    retained when their turn came. echo: what is shown of this does not count.
    """

    def __init__(
        self, texts: Sequence[str], place: Dict[str, int], echo: Optional[Echo] = None
    ) -> None:
        self._echo = echo
        self._texts = texts
        self._bytes = [text.encode("utf-8", "surrogatepass") for text in texts]
        self._overlap = 4096 + 4 * max(map(len, self._bytes))
        self.place = place
        self.skipped_bytes = 0

    def begin_at(self, oldest: Dict[str, int]) -> None:
        """Note that what came before `oldest` is not retained any more."""
        for stream, begin in oldest.items():
            self.skipped_bytes += max(0, begin - self.place[stream])
            self.place[stream] = max(begin, self.place[stream])

    def look(
        self, pieces: Fragments, open_streams: Set[str]
    ) -> Optional[Tuple[str, Dict[str, int], bool]]:
        """Look at what there is from the place on, and go on behind it the next time.

        Returns the first line that contains one of the texts, the place behind it, and
        whether it has ended; or None.
        """
        streams = {stream: b"".join([d for s, d in pieces if s == stream]) for stream in STREAMS}
        if self._echo is not None or any(map(self._may_contain, streams.values())):
            echo = None
            echoes: Set[int] = set()
            lines = Lines(pieces, open_streams)
            if self._echo is not None:
                echoes, echo = self._echo.find(lines.texts, lines.unfinished)
            found = self._find(lines, echoes)
            if found is None and any(_REDRAW.search(data) for data in streams.values()):
                # A state of a line that was printed over since. It was there to see. (As many
                # bytes, so that places stay right.)
                pieces = [(stream, _REDRAW.sub(_newline, data)) for stream, data in pieces]
                lines = Lines(pieces, open_streams)
                if self._echo is not None:
                    echoes, _ = self._echo.find(lines.texts, lines.unfinished, are_states=True)
                found = self._find(lines, echoes)
            if found is not None:
                return found
            self._echo = echo
        for stream, data in streams.items():
            passed = data.rfind(b"\n") + 1
            if len(data) - passed > _LOOKED_AT_AGAIN_BYTES:
                passed = max(0, len(data) - self._overlap)
                while passed < len(data) and data[passed] & 0xC0 == 0x80:
                    passed += 1  # not into the middle of a character
            self.place[stream] += passed
        return None

    def _may_contain(self, data: bytes) -> bool:
        return any(one in data for one in self._bytes) or (
            _ACTS.search(data.replace(b"\r\n", b"\n")) is not None
        )

    def _find(self, lines: Lines, echoes: Set[int]) -> Optional[Tuple[str, Dict[str, int], bool]]:
        found = [index for index in lines_with(lines.texts, self._texts) if index not in echoes]
        if not found:
            return None
        index = found[0]
        text = lines.texts[index]
        first = min(place for place in map(text.find, self._texts) if place >= 0)
        sizes = lines.sizes_behind(index)
        behind = {stream: place + sizes.get(stream, 0) for stream, place in self.place.items()}
        return clip(text, around=first), behind, index < lines.unfinished


def _newline(match: Match[bytes]) -> bytes:
    return b"\n".rjust(len(match[0]), b"\0")  # which leaves nothing to see


class _Waited:
    """One task of a wait, and how far it was looked at."""

    def __init__(self, task: WatchedTask, search: Optional[OutputSearch]) -> None:
        self.task = task
        self.search = search
        self.seen_end = -1
        self.event: Optional[WaitEvent] = None
        # A line that was looked for and has not ended: it counts from then on.
        self.unfinished: Optional[Tuple[str, Dict[str, int], bool]] = None
        self.unfinished_until = 0.0


class TaskWait:
    """A wait for tasks, which can be interrupted and gone on with. One thread at a time.

    events: {task_id: what happened to it}, of those to which something has.
    """

    def __init__(
        self,
        mutex: threading.Lock,
        is_given_up: Callable[[], bool],
        tasks: Sequence[WatchedTask],
        texts: Sequence[str] = (),
        places: Sequence[Dict[str, int]] = (),
        port: Optional[int] = None,
        quiet_s: Optional[float] = None,
        for_all: bool = False,
        echo: Optional[Echo] = None,
    ) -> None:
        """texts: lines that contain one of them are waited for, in each task from its place on.
        is_given_up: called with the mutex held: no task will change any more. echo: see
        OutputSearch."""
        self._mutex = mutex
        self._is_given_up = is_given_up
        self._changed = threading.Condition(mutex)
        self._waited = [
            _Waited(task, OutputSearch(texts, place, echo) if texts else None)
            for task, place in zip(tasks, places)
        ]
        self._quiet_s = quiet_s
        self._for_all = for_all
        self._port = None if port is None else PortWatch(port)
        self._port_look_at = 0.0
        self._foreign: Optional[PortHolder] = None
        self._foreign_since = 0.0

    @property
    def task_ids(self) -> List[str]:
        """The tasks, in the order in which they were given."""
        return [one.task.task_id for one in self._waited]

    @property
    def events(self) -> Dict[str, WaitEvent]:
        """What has happened, by task."""
        return {one.task.task_id: one.event for one in self._waited if one.event is not None}

    @property
    def skipped_bytes(self) -> int:
        """How much of the output was dropped before it could be looked at."""
        return sum(one.search.skipped_bytes for one in self._waited if one.search is not None)

    @property
    def foreign_holder(self) -> Optional[PortHolder]:
        """Who has the port that is waited for and is not of these tasks, or None."""
        return self._foreign

    @property
    def is_met(self) -> bool:
        """Whether what was waited for has happened."""
        events = [one.event is not None for one in self._waited]
        return all(events) if self._for_all else any(events)

    def run(self, timeout_s: Optional[float], cancel: Optional[CancelToken] = None) -> bool:
        """Block until what is waited for has happened, at most so many seconds; return whether
        it has. Raises Cancelled when `cancel` was cancelled."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s

        def wake() -> None:
            with self._mutex:
                self._changed.notify_all()

        if cancel is not None:
            cancel.add_callback(wake)
        self._register()
        try:
            while not self._look():
                with self._mutex:
                    if cancel is not None and cancel.cancelled:
                        raise Cancelled()
                    if self._is_given_up():
                        return False
                    now = time.monotonic()
                    if deadline is not None and now >= deadline:
                        return False
                    if not self._has_changed():
                        until = self._next_look(now)
                        if deadline is not None:
                            until = deadline if until is None else min(until, deadline)
                        self._changed.wait(None if until is None else max(0.0, until - now))
            return True
        finally:
            self._unregister()
            if cancel is not None:
                cancel.remove_callback(wake)

    def _register(self) -> None:
        with self._mutex:
            for one in self._waited:
                one.task.waiters.append(self._changed)
                if one.search is not None:
                    one.task.output_waiters.append(self._changed)

    def _unregister(self) -> None:
        with self._mutex:
            for one in self._waited:
                one.task.waiters.remove(self._changed)
                if one.search is not None:
                    one.task.output_waiters.remove(self._changed)

    def _look(self) -> bool:
        """Look at everything that may have happened; return whether the wait is over."""
        for one in self._waited:
            if one.event is None:
                one.event = self._event_of(one)
        if self._port is not None and not self.is_met:
            self._look_at_port(self._port)
        return self.is_met

    def _event_of(self, one: _Waited) -> Optional[WaitEvent]:
        task = one.task
        with self._mutex:
            is_over = task.is_over
            active = task.active_monotonic
            grown = task.log.end != one.seen_end
            one.seen_end = task.log.end
            if one.search is not None and grown:
                one.search.begin_at(task.log.begin_place)
                pieces = task.log.since(one.search.place)
                open_streams = set(task.open_streams)
        now = time.monotonic()
        if one.search is not None:
            found = one.unfinished
            if grown:
                found = one.search.look(pieces, open_streams)
            if found is not None:
                line, place, has_ended = found
                had_time = one.unfinished is not None and now >= one.unfinished_until
                if has_ended or is_over or had_time:
                    return WaitEvent(PRINTED, line, format_cursor(place))
                if one.unfinished is None:
                    one.unfinished_until = now + _LINE_GRACE_S
            one.unfinished = found
        if is_over:
            return WaitEvent(ENDED)
        if self._quiet_s is not None and now - active >= self._quiet_s:
            return WaitEvent(QUIET)
        return None

    def _look_at_port(self, port: PortWatch) -> None:
        now = time.monotonic()
        if now < self._port_look_at:
            return
        listeners = port.listeners()
        foreign = self._foreign_of(port, listeners) if listeners else None
        if self._foreign is None:
            self._foreign_since = now
        self._foreign = foreign
        if foreign is not None and now - self._foreign_since >= _PORT_GRACE_S:
            for one in self._waited:
                one.event = one.event or WaitEvent(SERVES, holder=foreign)
        pause_s = port.interval_s if foreign is None else _FOREIGN_INTERVAL_S
        self._port_look_at = time.monotonic() + pause_s

    def _foreign_of(self, port: PortWatch, listeners: FrozenSet[int]) -> Optional[PortHolder]:
        """Return who listens on the port, unless that is a task: then it has its event."""
        waiting = [one for one in self._waited if one.event is None]
        try:
            found = survey([one.task.tree for one in waiting])
            holder = None
            for one in waiting:
                holder = port.holder(listeners, {member.pid for member in found[one.task.tree]})
                if holder.is_of_task:
                    one.event = WaitEvent(SERVES, holder=holder)
                    return None
            return holder
        except OSError:
            return None  # no descriptor free to look with; the next look may have one

    # With the mutex held.

    def _has_changed(self) -> bool:
        """Whether something that is waited for may have happened since the last look."""
        return any(
            one.task.is_over or (one.search is not None and one.task.log.end != one.seen_end)
            for one in self._waited
            if one.event is None
        )

    def _next_look(self, now: float) -> Optional[float]:
        """Return when to look again though nobody has told of a change."""
        times = []
        for one in self._waited:
            if one.event is None:
                if one.unfinished is not None:
                    times.append(one.unfinished_until)
                if self._quiet_s is not None:
                    times.append(one.task.active_monotonic + self._quiet_s)
        if self._port is not None:
            times.append(self._port_look_at)
        return min(times) if times else None
