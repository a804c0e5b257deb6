"""The life of a task as data: states, events, transitions, and the word the client sees.

Every transition stands in TRANSITIONS; nothing else in the package changes a state. This
file knows neither processes nor threads.

A command that could not be started never becomes a task, so there is no state before
RUNNING. Output has a life of its own (see `manager`): a grandchild may hold the pipe long
after the command itself is over.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional

# States.
RUNNING = "running"
STOPPING = "stopping"
FINISHED = "finished"

# Events.
STOP = "stop"  # somebody asked for the end, or the time limit came
EXITED = "exited"  # the command is over (of a stopping task: and all that came of it)

TRANSITIONS = {
    (RUNNING, STOP): STOPPING,
    (RUNNING, EXITED): FINISHED,
    (STOPPING, STOP): STOPPING,
    (STOPPING, EXITED): FINISHED,
}

# Outcomes, once FINISHED.
COMPLETED = "completed"
FAILED = "failed"
TERMINATED = "terminated"
TIMED_OUT = "timed_out"

# Why a task was told to stop.
BY_REQUEST = "request"
BY_TIMEOUT = "timeout"

# The client sees one word: the state while the task is alive, the outcome after it.
ALIVE = (RUNNING, STOPPING)
FINAL = (COMPLETED, FAILED, TERMINATED, TIMED_OUT)
STATUS_WORDS = ALIVE + FINAL


class IllegalTransition(Exception):
    """An event that the state does not allow; a defect in this package, not in its use."""


def next_state(state: str, event: str) -> str:
    """Return the state after `event`. Raises IllegalTransition and changes nothing."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise IllegalTransition("%s in state %s" % (event, state)) from None


def outcome(returncode: int, stopped_by: Optional[str]) -> str:
    """Return the outcome of a finished task.

    returncode: as `subprocess` tells it, -N for a death by signal N.
    stopped_by: BY_REQUEST, BY_TIMEOUT, or None when the task ended by itself.
    """
    if stopped_by == BY_TIMEOUT:
        return TIMED_OUT
    if stopped_by == BY_REQUEST:
        return TERMINATED
    return COMPLETED if returncode == 0 else FAILED
