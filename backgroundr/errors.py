"""What can go wrong, as types that carry the facts.

    BackgroundrError
    ├── InvalidValue     an argument cannot be used as given
    ├── UnknownTask      no task has this id
    ├── SpawnFailed      the operating system did not start the command
    ├── ManagerClosed    the manager takes no more tasks
    └── Cancelled        the caller no longer wants the answer

`str(error)` is one or two sentences for whoever made the call: what happened,
and what to do next.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterable, List


class BackgroundrError(Exception):
    """Base of every error that this package raises on purpose."""


class InvalidValue(BackgroundrError):
    """An argument has a value that cannot be used.

    argument: its name. problem: what is wrong with it, a clause without a subject
    ("must not be empty").
    """

    def __init__(self, argument: str, problem: str) -> None:
        super().__init__("%s %s" % (argument, problem))
        self.argument = argument
        self.problem = problem


class UnknownTask(BackgroundrError):
    """No task has this id.

    task_id: what was asked for. known: the ids there are, newest first.
    """

    # So many ids help a reader to find a typing error; more would only be noise.
    SHOWN = 5
    SHOWN_CHARS = 100

    def __init__(self, task_id: str, known: Iterable[str]) -> None:
        self.task_id = task_id
        self.known: List[str] = list(known)
        if not self.known:
            there_are = "No task was started since this server began"
        else:
            there_are = "Known tasks, newest first: " + ", ".join(self.known[: self.SHOWN])
            if len(self.known) > self.SHOWN:
                there_are += " and %d more" % (len(self.known) - self.SHOWN)
        super().__init__(
            "No task has the id %r. %s." % (str(task_id)[: self.SHOWN_CHARS], there_are)
        )


class SpawnFailed(BackgroundrError):
    """The command was not started; nothing of it runs.

    command: the command line. reason: why, mostly in the system's words. advice: what to do
    next.
    """

    # Advice for want of processes, threads or descriptors.
    MAKE_ROOM = "End tasks that are not needed any more, then try again."

    def __init__(self, command: str, reason: str, advice: str) -> None:
        super().__init__("The command was not started: %s. %s" % (reason, advice))
        self.command = command
        self.reason = reason
        self.advice = advice


class ManagerClosed(BackgroundrError):
    """The manager is closing or closed and starts nothing any more."""

    def __init__(self) -> None:
        super().__init__("The task manager is closed; no more commands can be started.")


class Cancelled(BackgroundrError):
    """The caller gave up on the answer; what it asked about goes on unchanged."""

    def __init__(self) -> None:
        super().__init__("The call was cancelled.")
