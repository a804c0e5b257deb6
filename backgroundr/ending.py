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

    tree: has a pid, or None when the command itself is nobody's concern, `signal_strays` and
    `kill` (see `proctree.Tree`). signal_number: what was sent. kill_at: when SIGKILL follows.
    look_at: when to survey the tree next. Times are of the monotonic clock.
    """

    def __init__(self, tree: Any, signal_number: int, kill_at: float) -> None:
        self.tree = tree
        self.signal_number = signal_number
        self.kill_at = kill_at
        self.look_at = 0.0
        # How many surveys in a row found nobody; {pid: when it was first killed}.
        self._empty_surveys = 0
        self._killed: Dict[int, float] = {}

    @property
    def nobody_left(self) -> bool:
        """Whether nobody was found so often that there is nobody."""
        return self._empty_surveys >= EMPTY_SURVEYS

    def advance(self, members: Optional[List[Any]], now: float) -> Optional[float]:
        """Act on who is left of the tree; return when to look again, None when it is over.

        members: what a survey found, None when it could not be made. It is over, too, when
        those that are left do not die of SIGKILL.
        """
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
        if self.tree.signal_strays(members, self.signal_number):
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
