"""How a tree of processes is ended: a signal, a grace, SIGKILL, until nobody is left of it.

The steps and their times, for any tree that `survey` can look at; who takes the steps, and
on which thread, is the caller's business.
"""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional

# An ending is over when so many surveys in a row, so far apart, found nobody: one survey
# can miss a process that is forked while it reads the table.
EMPTY_SURVEYS = 3
SURVEY_PAUSE_S = 0.005
# Between surveys while processes have the grace to end by themselves after the command.
GRACE_PAUSE_S = 0.05
# How long after SIGKILL a process that is still there is given up, when the command itself
# is over: it is not ours to kill (another user's), or stuck in the kernel.
KILL_PATIENCE_S = 1.0


class Ending:
    """A tree on its way out.

    tree: as `proctree.Tree`; its pid may be None. signal_number: what it gets, at the next
    step while `to_signal`. kill_at: when SIGKILL follows, on the monotonic clock. The caller
    may set these three.
    """

    def __init__(self, tree: Any, signal_number: int, kill_at: float) -> None:
        self.tree = tree
        self.signal_number = signal_number
        self.to_signal = True
        self.kill_at = kill_at
        # How many surveys in a row found nobody; {pid: when it was first killed}.
        self._empty_surveys = 0
        self._killed: Dict[int, float] = {}

    @property
    def nobody_left(self) -> bool:
        """Whether nobody was found so often that there is nobody."""
        return self._empty_surveys >= EMPTY_SURVEYS

    def advance(self, members: Optional[List[Any]], now: float) -> Optional[float]:
        """Act on who is left of the tree; return when to look again, None when it is over.

        members: what a survey found, None when it could not be made. The first survey is made
        before the first signal: who loses its parent by that is known by then. It is over,
        too, when those that are left do not die of SIGKILL.
        """
        signalled = self.to_signal
        if self.to_signal:
            self.to_signal = False  # before the number is read: another thread may set both
            self.tree.signal(members or [], self.signal_number)
        if members is None:
            if now >= self.kill_at:
                self.tree.kill([])
            return now + GRACE_PAUSE_S
        if not members:
            self._empty_surveys += 1
            return None if self.nobody_left else now + SURVEY_PAUSE_S
        self._empty_surveys = 0
        command_runs = any(member.pid == self.tree.pid for member in members)
        if now >= self.kill_at:
            self.tree.kill(members)
            killed = [self._killed.setdefault(member.pid, now) for member in members]
            if not command_runs and max(killed) <= now - KILL_PATIENCE_S:
                return None
            return now + (SURVEY_PAUSE_S if now in killed else GRACE_PAUSE_S)
        if self.tree.signal_strays(members, self.signal_number) or signalled:
            return now + SURVEY_PAUSE_S
        if command_runs:
            return self.kill_at  # its exit brings the next look sooner
        return min(self.kill_at, now + GRACE_PAUSE_S)


def see_through(ending: Ending, survey: Callable[..., Dict[Any, List[Any]]]) -> None:
    """Take the steps of an ending on this thread; return when it is over.

    survey: `proctree.survey` or one like it. Where it cannot look, for want of a descriptor,
    the tree is killed as far as that goes without.
    """
    while True:
        now = time.monotonic()
        doomed = [ending.tree] if now >= ending.kill_at else []
        try:
            members = survey([ending.tree], doomed)[ending.tree]
        except OSError:
            ending.tree.kill([])
            return
        look_at = ending.advance(members, now)
        if look_at is None:
            return
        time.sleep(max(0, look_at - time.monotonic()))
