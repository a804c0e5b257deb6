"""The small parts that everything rests on: a task's life, cancellation, the errors."""

from __future__ import annotations

import threading

import pytest

from backgroundr import errors, lifecycle
from backgroundr.cancel import CancelToken
from backgroundr.errors import (
    AmbiguousName,
    BackgroundrError,
    Cancelled,
    InputRefused,
    InvalidValue,
    ManagerClosed,
    SpawnFailed,
    UnknownTask,
)
from backgroundr.lifecycle import (
    ALIVE,
    BY_REQUEST,
    BY_TIMEOUT,
    COMPLETED,
    EXITED,
    FAILED,
    FINAL,
    FINISHED,
    RUNNING,
    STATUS_WORDS,
    STOP,
    STOPPING,
    TERMINATED,
    TIMED_OUT,
    IllegalTransition,
    next_state,
    outcome,
)

from .forms import checkout_only

DEADLINE_S = 10


def in_time(function):
    """Run `function` on a thread; fail when it has not returned by the deadline."""
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    thread.join(DEADLINE_S)
    assert not thread.is_alive()


# ---------------------------------------------------------------- the life of a task


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ([], RUNNING),
        ([EXITED], FINISHED),
        ([STOP], STOPPING),
        ([STOP, STOP], STOPPING),
        ([STOP, EXITED], FINISHED),
        ([STOP, STOP, STOP, EXITED], FINISHED),
    ],
)
def test_events_lead_through_a_life(events, state):
    """A task that began running ends where its events lead."""
    reached = RUNNING
    for event in events:
        reached = next_state(reached, event)
    assert reached == state


@pytest.mark.parametrize(
    ("state", "event"),
    [
        (FINISHED, STOP),
        (FINISHED, EXITED),
        (RUNNING, "paused"),
        ("unborn", EXITED),
        (COMPLETED, EXITED),
    ],
)
def test_illegal_event_is_told(state, event):
    """next_state refuses an event that the state does not allow, and names both."""
    with pytest.raises(IllegalTransition) as caught:
        next_state(state, event)
    assert event in str(caught.value)
    assert state in str(caught.value)


def test_illegal_transition_is_no_error_of_the_caller():
    """An illegal transition is a defect, so it is not among the errors raised on purpose."""
    assert not issubclass(IllegalTransition, BackgroundrError)


def test_every_living_state_can_be_stopped_and_can_end():
    """A task can be stopped and can exit in each state in which it is alive."""
    assert set(ALIVE) == {state for state, _ in lifecycle.TRANSITIONS}
    for state in ALIVE:
        assert next_state(state, STOP) == STOPPING
        assert next_state(state, EXITED) == FINISHED


@pytest.mark.parametrize(
    ("returncode", "stopped_by", "word"),
    [
        (0, None, COMPLETED),
        (1, None, FAILED),
        (255, None, FAILED),
        (-9, None, FAILED),
        (-15, None, FAILED),
        (0, BY_REQUEST, TERMINATED),
        (1, BY_REQUEST, TERMINATED),
        (-15, BY_REQUEST, TERMINATED),
        (0, BY_TIMEOUT, TIMED_OUT),
        (-9, BY_TIMEOUT, TIMED_OUT),
        (3221225786, BY_TIMEOUT, TIMED_OUT),
    ],
)
def test_outcome_tells_who_ended_the_task(returncode, stopped_by, word):
    """outcome tells how a task ended: by itself, by request or by its time limit."""
    assert outcome(returncode, stopped_by) == word


def test_status_words_are_distinct():
    """No word stands for two states, and FINISHED itself is never shown."""
    assert len(set(STATUS_WORDS)) == len(STATUS_WORDS) == 6
    assert set(ALIVE).isdisjoint(FINAL)
    assert FINISHED not in STATUS_WORDS


# ---------------------------------------------------------------- cancellation


def test_token_begins_uncancelled():
    """A new token is not cancelled, and cancel makes it so for good."""
    token = CancelToken()
    assert not token.cancelled
    token.cancel()
    assert token.cancelled
    token.cancel()
    assert token.cancelled


def test_cancel_runs_callbacks_once_in_order():
    """cancel runs what was registered, in order, and never again."""
    token = CancelToken()
    ran = []
    token.add_callback(lambda: ran.append("first"))
    token.add_callback(lambda: ran.append("second"))
    assert ran == []
    token.cancel()
    assert ran == ["first", "second"]
    token.cancel()
    assert ran == ["first", "second"]


def test_late_callback_runs_at_once():
    """A callback added after the cancellation runs at once, and only then."""
    token = CancelToken()
    token.cancel()
    ran = []
    token.add_callback(lambda: ran.append("late"))
    assert ran == ["late"]
    token.cancel()
    assert ran == ["late"]


def test_removed_callback_does_not_run():
    """cancel runs nothing that was removed, and still runs the rest."""
    token = CancelToken()
    ran = []

    def removed():
        ran.append("removed")

    token.add_callback(removed)
    token.add_callback(lambda: ran.append("kept"))
    token.remove_callback(removed)
    token.cancel()
    assert ran == ["kept"]


@pytest.mark.parametrize("cancelled", [False, True])
def test_removing_what_is_not_there_does_nothing(cancelled):
    """remove_callback ignores what is not registered, or was already run."""
    token = CancelToken()
    ran = []

    def callback():
        ran.append("ran")

    if cancelled:
        token.add_callback(callback)
        token.cancel()
    token.remove_callback(callback)
    token.remove_callback(callback)
    assert ran == ["ran"] * cancelled


def test_callbacks_see_the_cancellation_and_may_use_the_token():
    """A callback may use the token that runs it: no lock is held meanwhile."""
    token = CancelToken()
    seen = []

    def callback():
        seen.append(token.cancelled)
        token.cancel()
        token.remove_callback(callback)
        token.add_callback(lambda: seen.append("added inside"))

    token.add_callback(callback)
    in_time(token.cancel)
    assert seen == [True, "added inside"]


def test_cancel_wakes_a_waiting_thread():
    """cancel ends a wait on another thread, through a callback."""
    token = CancelToken()
    wake = threading.Event()
    token.add_callback(wake.set)
    threading.Thread(target=token.cancel, daemon=True).start()
    assert wake.wait(DEADLINE_S)
    assert token.cancelled


@pytest.mark.parametrize("attempt", range(20))
def test_every_callback_runs_exactly_once_in_a_race(attempt):
    """Each callback runs once, however adding and cancelling threads meet."""
    token = CancelToken()
    start = threading.Barrier(6)
    ran = []

    def add(number):
        start.wait(DEADLINE_S)
        for index in range(50):
            token.add_callback(lambda key=(number, index): ran.append(key))

    def cancel():
        start.wait(DEADLINE_S)
        token.cancel()

    threads = [threading.Thread(target=add, args=(n,), daemon=True) for n in range(4)]
    threads += [threading.Thread(target=cancel, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
        assert not thread.is_alive()
    assert sorted(ran) == [(number, index) for number in range(4) for index in range(50)]


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("error", "text", "attributes"),
    [
        (
            InvalidValue("cwd", "must not be empty"),
            "cwd must not be empty",
            {"argument": "cwd", "problem": "must not be empty"},
        ),
        (
            UnknownTask("t9", {}),
            "No task has the id or name 't9'. No task was started since this server began.",
            {"task_id": "t9", "known": {}, "near": []},
        ),
        (
            UnknownTask("webb", {"t2": None, "t1": "web"}),
            "No task has the id or name 'webb'. There are, nearest first: t1 ('web'), t2.",
            {"task_id": "webb", "near": ["t1", "t2"]},
        ),
        (
            AmbiguousName("web", ["t2", "t1"]),
            "2 running tasks have the name 'web'; say which one by its id: t2, t1",
            {"name": "web", "task_ids": ["t2", "t1"]},
        ),
        (
            InputRefused("t1", "it is over."),
            "Task t1 takes no input: it is over.",
            {"task_id": "t1", "reason": "it is over."},
        ),
        (
            SpawnFailed("make", "No such file", "Check the shell."),
            "The command was not started: No such file. Check the shell.",
            {"command": "make", "reason": "No such file", "advice": "Check the shell."},
        ),
        (
            ManagerClosed(),
            "The task manager is closed; no more commands can be started.",
            {},
        ),
        (Cancelled(), "The call was cancelled.", {}),
    ],
)
def test_error_carries_its_facts(error, text, attributes):
    """Each error says in sentences what its attributes say in facts."""
    assert isinstance(error, BackgroundrError)
    assert str(error) == text
    for name, value in attributes.items():
        assert getattr(error, name) == value


@pytest.mark.parametrize(
    ("count", "ending"),
    [
        (1, "nearest first: t0."),
        (5, "nearest first: t0, t1, t2, t3, t4."),
        (6, "nearest first: t0, t1, t2, t3, t4 and 1 more."),
        (40, "nearest first: t0, t1, t2, t3, t4 and 35 more."),
    ],
)
def test_unknown_task_names_a_few_known_ones(count, ending):
    """UnknownTask names up to five ids, counts the rest, and carries them all."""
    known = {"t%d" % number: None for number in range(count)}
    error = UnknownTask("x", known)
    assert str(error).endswith(ending)
    assert error.known == known


@checkout_only
def test_error_tree_in_the_docstring_is_complete():
    """The tree that opens errors.py names every error there is."""
    for name, value in vars(errors).items():
        if isinstance(value, type) and issubclass(value, Exception):
            assert issubclass(value, BackgroundrError)
            assert name in errors.__doc__
