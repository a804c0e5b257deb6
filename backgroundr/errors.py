"""What can go wrong, as types that carry the facts.

    BackgroundrError
    ├── InvalidValue     an argument cannot be used as given
    ├── UnknownTask      no task has this id or name
    ├── AmbiguousName    several running tasks have this name
    ├── InputRefused     the task takes no input
    ├── SpawnFailed      the command was not started, mostly by the operating system
    │   └── NotAllowed   it is not among those that may be started
    ├── ManagerClosed    the manager takes no more tasks
    └── Cancelled        the caller no longer wants the answer

`str(error)` is one or two sentences for whoever made the call: what happened,
and what to do next.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Mapping, Optional, Sequence


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
    """No task has this id or name.

    task_id: what was asked for. known: {id: name or None} of the tasks there are, newest first.
    """

    # So many help a reader to find a typing error; more would only be noise.
    SHOWN = 5
    SHOWN_CHARS = 100
    # The newest so many are compared with what was asked for.
    COMPARED = 200

    def __init__(self, task_id: str, known: Mapping[str, Optional[str]]) -> None:
        super().__init__(task_id)
        self.task_id = task_id
        self.known = dict(known)

    def __str__(self) -> str:
        near = self.near
        if not self.known:
            there_are = "No task was started since this server began"
        else:
            there_are = "There are, nearest first: " + ", ".join(
                one if self.known[one] is None else "%s (%r)" % (one, self.known[one])
                for one in near
            )
            if len(self.known) > len(near):
                there_are += " and %d more" % (len(self.known) - len(near))
        asked = str(self.task_id)[: self.SHOWN_CHARS]
        return "No task has the id or name %r. %s." % (asked, there_are)

    @property
    def near(self) -> List[str]:
        """The ids of those that are meant most likely, at most SHOWN of them.

        Looked for when somebody asks: it takes milliseconds, and errors are raised with locks
        held.
        """
        asked = str(self.task_id)[: self.SHOWN_CHARS]
        try:
            import difflib  # only a mistaken call pays for it
        except ImportError:  # a server may have lost the access to its own Python
            return list(self.known)[: self.SHOWN]
        words: Dict[str, str] = {}  # what a task may be called: its id
        for task_id in list(self.known)[: self.COMPARED]:
            words.setdefault(self.known[task_id] or task_id, task_id)
            words[task_id] = task_id
        near = [words[one] for one in difflib.get_close_matches(asked, words, self.SHOWN)]
        return list(dict.fromkeys([*near, *self.known]))[: self.SHOWN]


class AmbiguousName(BackgroundrError):
    """Several running tasks have this name. task_ids: theirs, newest first."""

    def __init__(self, name: str, task_ids: Sequence[str]) -> None:
        super().__init__(
            "%d running tasks have the name %r; say which one by its id: %s"
            % (len(task_ids), name, ", ".join(task_ids[: UnknownTask.SHOWN]))
        )
        self.name = name
        self.task_ids = list(task_ids)


class InputRefused(BackgroundrError):
    """Nothing can be sent to the task. reason: why, a sentence that says what to do."""

    def __init__(self, task_id: str, reason: str) -> None:
        super().__init__("Task %s takes no input: %s" % (task_id, reason))
        self.task_id = task_id
        self.reason = reason


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


class NotAllowed(SpawnFailed):
    """What may be started is restricted, and this may not. See `TaskManager`."""


class ManagerClosed(BackgroundrError):
    """The manager is closing or closed and starts nothing any more."""

    def __init__(self) -> None:
        super().__init__("The task manager is closed; no more commands can be started.")


class Cancelled(BackgroundrError):
    """The caller gave up on the answer; what it asked about goes on unchanged."""

    def __init__(self) -> None:
        super().__init__("The call was cancelled.")
