"""Keeper: the thread that keeps time: it enforces time limits and sees endings through.

One thread for all tasks. Like the reader it knows no tasks, and talks to a `Kept`.
"""

from __future__ import annotations

import heapq
import math
import threading
import time

from .ending import Ending
from .proctree import SIGKILL, survey

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Optional, Tuple

    from .proctree import Tree


class KeptEnding(Ending):
    """The ending of a `Kept`.

    look_at: when to survey the tree next. over: nobody is left, and only the last output is
    still to be read. The keeper's mutex owns these and what `Ending` has for its caller to set;
    the keeper alone uses the rest.
    """

    def __init__(self, kept: Kept, signal_number: int, kill_at: float) -> None:
        super().__init__(kept.tree, signal_number, kill_at)
        self.kept = kept
        self.look_at = 0.0
        self.over = False
        self.told = False


class Kept:
    """A tree with what can befall it, and who wants to hear of that. To be subclassed.

    ending: set while it is on its way out. The methods below are called on the keeper's
    thread; they must not block.
    """

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.ending: Optional[KeptEnding] = None

    @property
    def is_running(self) -> bool:
        """Whether a time limit still means it. Called with the mutex held."""
        raise NotImplementedError

    def on_time_limit(self) -> None:
        """Its time is up. Called with the mutex held."""
        raise NotImplementedError

    def on_ending(self) -> None:
        """The keeper has taken up its ending."""
        raise NotImplementedError

    def on_nobody_left(self) -> None:
        """Nobody is left of the tree, or who is left cannot be killed."""
        raise NotImplementedError


class Keeper:
    """The thread, started at once. All methods but `join` are called with `mutex` held."""

    def __init__(self, mutex: threading.Lock) -> None:
        """Raises RuntimeError without a free thread."""
        self._mutex = mutex
        # Notified when there is something to do sooner than the thread knew.
        self._wake = threading.Condition(mutex)
        # Notified when an ending is forgotten.
        self._forgotten = threading.Condition(mutex)
        self._endings: List[KeptEnding] = []
        # A heap. The number keeps equal times from comparing what is kept.
        self._limits: List[Tuple[float, int, Kept]] = []
        self._limits_set = 0
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="backgroundr-keeper", daemon=True)
        self._thread.start()

    def limit(self, kept: Kept, at: float) -> None:
        """Call `on_time_limit` at a time of the monotonic clock, if it is running then."""
        self._limits_set += 1
        heapq.heappush(self._limits, (at, self._limits_set, kept))
        self._wake.notify()

    def end(self, kept: Kept, signal_number: int, grace_s: float, again: bool = True) -> None:
        """Have a tree signalled at once, and see to it that nobody is left of it.

        Of a tree that is on its way out already, the grace can become shorter, not longer, and
        it is signalled again only if `again`. SIGKILL leaves no grace.
        """
        kill_at = time.monotonic() + (0 if signal_number == SIGKILL else grace_s)
        if kept.ending is None:
            kept.ending = KeptEnding(kept, signal_number, kill_at)
            self._endings.append(kept.ending)
        else:
            if again:
                kept.ending.signal_number = signal_number
                kept.ending.to_signal = True
            kept.ending.kill_at = min(kept.ending.kill_at, kill_at)
            kept.ending.look_at = 0.0
        self._wake.notify()

    def look_now(self, ending: KeptEnding) -> None:
        """Survey a tree that is on its way out at once: something has changed."""
        ending.look_at = 0.0
        self._wake.notify()

    def forget(self, ending: KeptEnding) -> None:
        """Have no more to do with an ending, which is over."""
        ending.kept.ending = None
        self._endings.remove(ending)
        self._forgotten.notify_all()

    def wait_for_endings(self, timeout_s: float) -> None:
        """Wait until every ending is forgotten, at most so many seconds."""
        self._forgotten.wait_for(lambda: not self._endings, timeout_s)

    def stop(self) -> None:
        """Have the thread end."""
        self._stopped = True
        self._wake.notify()

    def join(self) -> None:
        """Wait for the thread, which `stop` has told to end. The mutex must not be held."""
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._mutex:
                now = time.monotonic()
                wake_at = self._enforce_limits(now)
                due = []
                for ending in self._endings:
                    if ending.over:
                        continue
                    if ending.look_at <= now:
                        ending.look_at = math.inf  # unless somebody asks for an earlier look
                        due.append(ending)
                    else:
                        wake_at = min(wake_at, ending.look_at)
                if not due:
                    if self._stopped:
                        return
                    self._wake.wait(None if wake_at == math.inf else max(0, wake_at - now))
                    continue
            self._see_through(due)

    def _enforce_limits(self, now: float) -> float:
        """Tell those whose time is up; return when the next one's is."""
        while self._limits:
            at, _, kept = self._limits[0]
            if at > now and kept.is_running:
                return at
            heapq.heappop(self._limits)
            if kept.is_running:
                kept.on_time_limit()
        return math.inf

    def _see_through(self, due: List[KeptEnding]) -> None:
        """Survey the trees of `due` once, act on what is found, say when to look again."""
        for ending in due:
            if not ending.told:
                ending.told = True
                ending.kept.on_ending()
        now = time.monotonic()
        doomed = {ending.tree for ending in due if ending.kill_at <= now}
        try:
            found = survey([ending.tree for ending in due], doomed)
        except OSError:
            found = {}  # no descriptor free to look with; a group can be killed without
        for ending in due:
            # The mutex is not held: what changes meanwhile is seen at the next look, which
            # whoever changes it asks for.
            look_at = ending.advance(found.get(ending.tree), now)
            if look_at is None:
                # Where the system shows less than it should (no /proc), this reaches who is
                # left in the group, whose number is still taken.
                ending.tree.kill([])
            with self._mutex:
                if look_at is None:
                    ending.over = True
                else:
                    ending.look_at = min(ending.look_at, look_at)
            if look_at is None:
                ending.kept.on_nobody_left()
