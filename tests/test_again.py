"""Finding tasks again, by name, by a wrong name, by the list; and starting them again."""

from __future__ import annotations

import os
import sys

import pytest

from backgroundr import AmbiguousName, InvalidValue, SpawnFailed, TaskManager, UnknownTask

from .programs import (
    DEADLINE_S,
    EXIT_3,
    HELLO,
    IGNORE_TERM,
    SLEEP,
    eventually,
    posix_only,
    python,
    shared,
)

# ---------------------------------------------------------------- names


@shared
def test_a_name_stands_for_the_task_that_has_it(client):
    """While one running task has a name, it may stand wherever an id is asked for."""
    task_id = client.start(SLEEP, name="web")["task_id"]
    for tool, arguments in (
        ("get_task_status", {}),
        ("read_task_output", {}),
        ("wait_for_task", {"timeout_seconds": 0}),
        ("end_background_task", {}),
        ("get_task_status", {}),  # of what is over, the newest that had it
    ):
        assert client.call(tool, task_id="web", **arguments).structured["task_id"] == task_id
    newer = client.call("restart_background_task", task_id="web").structured
    assert newer["replaces"] == task_id
    assert client.status("web")["task_id"] == newer["task_id"]


def test_a_name_that_several_have_is_refused(manager):
    """Of several that run, nobody guesses; one that stops does not stand in the way."""
    first = manager.start(SLEEP, name="web").task_id
    second = manager.start(IGNORE_TERM, name="web").task_id
    with pytest.raises(AmbiguousName, match="2 running tasks .* %s, %s" % (second, first)):
        manager.end("web")
    assert {task.status for task in manager.list()} == {"running"}
    eventually(lambda: manager.output(second).text == "ready", "the handler")
    manager.request_end(second, grace_s=60)
    assert manager.status("web").task_id == first
    manager.end(first)
    assert manager.status("web").task_id == second
    manager.end(second, grace_s=0)
    assert manager.status("web").task_id == second


@shared
def test_an_id_goes_before_a_name(manager):
    """A task that bears the id of another as its name does not take its place."""
    first = manager.start(SLEEP).task_id
    manager.start(SLEEP, name=first)
    assert manager.status(first).task_id == first


def test_an_unknown_name_is_answered_with_the_nearest(manager):
    """A typing error finds the task that was meant, by id or by name."""
    for name in ("build", "frontend", "worker"):
        manager.start(SLEEP, name=name)
    with pytest.raises(UnknownTask, match=r"nearest first: t\w+ \('frontend'\), ") as caught:
        manager.status("fronted")
    assert caught.value.near[0] == manager.status("frontend").task_id
    task_id = manager.status("build").task_id
    wrong = task_id[:-1] + ("0" if task_id[-1] != "0" else "1")
    with pytest.raises(UnknownTask) as caught:
        manager.status(wrong)
    assert caught.value.near[0] == task_id


# ---------------------------------------------------------------- the list


@shared
def test_one_call_finds_a_task_again(client):
    """A row says since when, when it printed last, how much, and what."""
    task_id = client.start(
        python("import time; print('\\x1b[1mListening\\x1b[0m on 8000\\n\\n'); time.sleep(600)"),
        name="web",
    )["task_id"]
    eventually(lambda: client.status(task_id)["total_lines"] == 3, "the output")
    result = client.call("list_background_tasks")
    row = result.structured["tasks"][-1]
    status = client.status(task_id)
    assert (row["last_line"], row["total_bytes"]) == ("Listening on 8000", status["total_bytes"])
    assert row["last_output_at"] == status["last_output_at"] >= row["started_at"]
    assert 'ago: "Listening on 8000")' in result.text
    silent = client.start(SLEEP)["task_id"]
    result = client.call("list_background_tasks")
    row = result.structured["tasks"][-1]
    assert (row["task_id"], row["last_line"], row["last_output_at"]) == (silent, "", None)
    assert result.text.endswith("(no output)")


def test_a_long_list_is_cut_and_says_so(legacy_client):
    """Those that run are shown first, then the newest, and the rest is counted."""
    client = legacy_client
    running = client.start(SLEEP)["task_id"]
    over = [client.start(HELLO)["task_id"] for _ in range(60)]
    client.call("wait_for_task", task_ids=over, mode="all", timeout_seconds=DEADLINE_S)
    result = client.call("list_background_tasks")
    shown = [row["task_id"] for row in result.structured["tasks"]]
    assert shown == [running, *over[-49:]]
    assert result.structured["left_out"] == 11
    assert result.text.startswith("61 tasks, oldest first:\n(11 older tasks are not shown; limit ")
    everything = client.call("list_background_tasks", limit=1000).structured
    assert (len(everything["tasks"]), everything["left_out"]) == (61, 0)


# ---------------------------------------------------------------- again


@shared
def test_a_restart_ends_a_task_and_starts_it_anew(client, tmp_path):
    """The new one has the same settings and a new id; the old one says so, with its output."""
    code = "import os, time; print(os.getcwd(), os.environ['MARK']); time.sleep(600)"
    old = client.start(
        python(code), name="web", cwd=str(tmp_path), env={"MARK": "here"}, timeout_seconds=90
    )["task_id"]
    shown = "%s here" % tmp_path
    eventually(lambda: client.status(old)["output"] == shown, "the output")
    result = client.call("restart_background_task", task_id=old, until_output=["here"])
    new = result.structured
    assert (new["replaces"], new["reason"], new["matched_line"]) == (old, "output", shown)
    assert new["task_id"] != old
    assert new["name"] == "web"
    assert result.text.startswith("Task %s (web) is replaced. Task %s" % (old, new["task_id"]))
    before = client.status(old)
    assert (before["status"], before["replaced_by"]) == ("terminated", new["task_id"])
    assert before["output"] == shown
    text = client.call("get_task_status", task_id=old).text
    assert "It was restarted as task %s." % new["task_id"] in text


@shared
def test_what_is_over_is_started_again(manager):
    """Also a second time, and with all that it had: its input, its end of time."""
    first = manager.start(
        python("print(input()); raise SystemExit(4)"), stdin="text\n", timeout_s=60
    ).task_id
    manager.wait(first, timeout_s=DEADLINE_S)
    for _ in range(2):
        new = manager.wait(manager.restart(first).task_id, timeout_s=DEADLINE_S)
        assert (new.exit_code, new.timeout_s) == (4, 60)
        assert manager.output(new.task_id).text == "text"
        assert manager.status(first).replaced_by == new.task_id


def test_text_for_stdin_is_not_kept_for_ever():
    """It counts with what finished tasks may keep; without it a task is not started again."""
    with TaskManager(finished_buffer_bytes=1_000_000) as manager:
        ids = [manager.start(HELLO, stdin="x" * 600_000).task_id for _ in range(3)]
        for task_id in ids:
            manager.wait(task_id, timeout_s=DEADLINE_S)
        kept = [task_id for task_id in ids if manager.output(task_id).text]
        assert len(kept) == 1
        assert manager.restart(kept[0])
        for task_id in set(ids) - set(kept):
            with pytest.raises(InvalidValue, match="whose stdin is still kept"):
                manager.restart(task_id)


@posix_only
@shared
def test_a_restarted_terminal_is_one_again(manager):
    """A task with a terminal gets a new one."""
    first = manager.start("tty; exec cat", pty=True).task_id
    eventually(lambda: manager.status(first).total_lines, "the name")
    new = manager.restart(first).task_id
    eventually(lambda: manager.output(new).text.startswith("/dev/"), "the name")
    assert manager.send_input(new, "x", enter=True).unwritten_bytes == 0


@posix_only
@shared
def test_a_restart_waits_for_a_task_that_takes_its_time(manager):
    """The new one starts when nothing is left of the old one, however stubborn."""
    first = manager.start(IGNORE_TERM).task_id
    eventually(lambda: manager.output(first).text == "ready", "the handler")
    new = manager.restart(first, grace_s=0.2)
    assert manager.status(first).signal == "SIGKILL"
    assert new.started_at >= manager.status(first).ended_at


@posix_only
@shared
def test_a_restart_does_not_wait_out_a_long_grace(manager):
    """A task that is being ended already, with more time than a restart gives, gets less."""
    first = manager.start(IGNORE_TERM).task_id
    eventually(lambda: manager.output(first).text == "ready", "the handler")
    manager.request_end(first, grace_s=600)
    assert manager.restart(first, grace_s=0.2).status == "running"


def test_a_restart_at_the_limit_makes_its_own_room():
    """The place of the old one is free for the new one."""
    with TaskManager(max_tasks=1) as manager:
        first = manager.start(SLEEP).task_id
        new = manager.restart(first).task_id
        with pytest.raises(SpawnFailed, match="as many as may run at once"):
            manager.start(SLEEP)
        assert manager.status(new).status == "running"


@shared
def test_a_restart_that_cannot_be_changes_nothing(manager, tmp_path):
    """Where the directory is gone, the old task is left as it is."""
    directory = tmp_path / "gone"
    directory.mkdir()
    command = python("import os, time; os.chdir('/'); print('up'); time.sleep(600)")
    task_id = manager.start(command, cwd=str(directory)).task_id
    eventually(lambda: manager.output(task_id).text == "up", "the start")
    directory.rmdir()
    with pytest.raises(InvalidValue, match="cwd must be an existing directory"):
        manager.restart(task_id)
    assert manager.status(task_id).status == "running"


@shared
def test_what_was_restarted_is_not_restarted_beside_it(manager):
    """While the new one runs, a restart of the old one would make two of them."""
    first = manager.start(SLEEP).task_id
    new = manager.restart(first).task_id
    with pytest.raises(InvalidValue, match="in its place runs %s" % new):
        manager.restart(first)
    manager.end(new)
    third = manager.restart(new).task_id
    with pytest.raises(InvalidValue, match="in its place runs %s" % third):
        manager.restart(first)
    manager.end(third)
    assert manager.restart(first).status == "running"


@shared
def test_two_restarts_of_one_task_are_one(legacy_client):
    """A second restart, while the first is at work or after it, is refused; one new task runs."""
    task_id = legacy_client.start(SLEEP, name="web")["task_id"]
    calls = [legacy_client.send_call("restart_background_task", task_id=task_id) for _ in range(2)]
    results = [legacy_client.tool_result("restart_background_task", call) for call in calls]
    (refused,) = [result.text for result in results if result.is_error]
    assert "restarted already" in refused
    running = legacy_client.call("list_background_tasks", status="running").structured["tasks"]
    assert len(running) == 1


# ---------------------------------------------------------------- starts that wait


@shared
def test_a_quick_command_comes_back_finished(client):
    """A short wait makes one call of start and result."""
    result = client.call("run_background_task", command=EXIT_3, wait_seconds=DEADLINE_S)
    facts = result.structured
    assert (facts["reason"], facts["status"], facts["exit_code"]) == ("exited", "failed", 3)
    assert result.text.startswith("Task %s is over: failed, exit code 3" % facts["task_id"])


@shared
def test_a_start_that_waits_too_short_says_that_it_runs_on(client):
    """The task is there, with its id, whatever came of the wait."""
    result = client.call("run_background_task", command=SLEEP, wait_seconds=0.1)
    facts = result.structured
    assert (facts["reason"], facts["status"]) == ("timeout", "running")
    assert "has not ended within 100 ms; it runs on" in result.text
    assert client.status(facts["task_id"])["status"] == "running"


@shared
def test_a_start_with_a_wrong_wait_starts_nothing(legacy_client):
    """What is wrong with the wait is told before anything runs."""
    before = legacy_client.call("list_background_tasks").structured["tasks"]
    for arguments in ({"until_output": ["a\nb"]}, {"until_port": 0}, {"wait_seconds": -1}):
        result = legacy_client.call("run_background_task", command=SLEEP, **arguments)
        assert result.is_error
    assert legacy_client.call("list_background_tasks").structured["tasks"] == before


@shared
def test_a_hint_comes_with_the_start(legacy_client):
    """What the server can tell of a mistake stands in the answer, for whoever reads fields too."""
    result = legacy_client.call("run_background_task", command="cd %s" % os.sep)
    hint = "Each task has a shell of its own"
    assert hint in result.text
    assert hint in result.structured["summary"]


@pytest.mark.skipif(sys.platform == "win32", reason="uses the shell of POSIX")
@shared
def test_a_silent_python_is_told_of_its_buffer(legacy_client):
    """Python that has printed into its buffer for a while is told how not to."""
    result = legacy_client.call(
        "run_background_task",
        command="exec %s -c 'print(1); import time; time.sleep(600)'" % sys.executable,
        env={"PYTHONUNBUFFERED": ""},
        wait_seconds=1.2,
    )
    assert "Python holds back what it prints to a pipe" in result.text


@shared
def test_a_text_in_place_of_a_list_is_one_text(legacy_client):
    """Models write one text where a list is asked for; what was meant is plain."""
    result = legacy_client.call("run_background_task", command=HELLO, until_output="hell")
    assert result.structured["matched_line"] == "hello"
