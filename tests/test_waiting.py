"""Calls that wait: what comes back when, progress meanwhile, and cancellation."""

from __future__ import annotations

import os
import re

import pytest

from backgroundr import CancelToken, TaskManager, TaskOutput
from backgroundr.output import STDOUT, OutputLog
from backgroundr.paging import Newest
from backgroundr.tools import Caller, _await_end, default_tools

from .client import Client, RpcFailure
from .programs import (
    DEADLINE_S,
    EXIT_3,
    HELLO,
    IGNORE_TERM,
    SLEEP,
    eventually,
    linux_only,
    posix_only,
    python,
)

PROGRESS = "notifications/progress"
COUNT = python("import time\nfor i in range(100): print('step %d' % i); time.sleep(0.3)")


def send_wait(client, task_id, token=None, **arguments):
    params = {"name": "wait_for_task", "arguments": {"task_id": task_id, **arguments}}
    if token is not None:
        params["_meta"] = {"progressToken": token}
    return client.send("tools/call", params)


def threads(client):
    """Return how many threads the server has. Linux."""
    return len(os.listdir("/proc/%d/task" % client.process.pid))


def test_a_wait_returns_with_the_end(client):
    """A wait answers when the task is over, with all that a status tells."""
    task_id = client.start(python("import time; time.sleep(0.5); print('done')"))["task_id"]
    waited = client.call("wait_for_task", task_id=task_id)
    status = client.status(task_id)
    assert waited.structured == {"reason": "exited", **status}
    assert (status["status"], status["output"]) == ("completed", "done")
    assert re.match(r"Task \w+ is over: completed, exit code 0, after ", waited.text)
    assert waited.text.endswith("All of its output:\ndone")


def test_a_wait_for_what_is_over_returns_at_once(client):
    """Waiting for a finished task is no error, however often."""
    task_id = client.start(EXIT_3)["task_id"]
    for timeout_seconds in (30, 0):
        waited = client.call(
            "wait_for_task", task_id=task_id, timeout_seconds=timeout_seconds
        ).structured
        assert (waited["reason"], waited["exit_code"]) == ("exited", 3)


def test_a_wait_that_is_too_short_is_an_answer(client):
    """When the time is up first, the answer says so, and the task runs on."""
    task_id = client.start(IGNORE_TERM)["task_id"]
    eventually(lambda: client.status(task_id)["output"] == "ready", "the start")
    for timeout_seconds, words in ((0, "0 ms"), (0.2, "200 ms")):
        waited = client.call("wait_for_task", task_id=task_id, timeout_seconds=timeout_seconds)
        assert (waited.structured["reason"], waited.structured["status"]) == ("timeout", "running")
        first, second, *_ = waited.text.split("\n")
        assert first == "Task %s has not ended within %s; it runs on. Wait again, or end it." % (
            task_id,
            words,
        )
        assert second.startswith("Task %s is running, for " % task_id)
        assert waited.text.endswith("\nready")
    assert client.status(task_id)["status"] == "running"


@posix_only
def test_a_wait_that_is_too_short_for_an_ending_says_so(client):
    """A task that is being ended already is not advised to be ended."""
    task_id = client.start(IGNORE_TERM)["task_id"]
    eventually(lambda: client.status(task_id)["output"] == "ready", "the handler")
    end = client.send_call("end_background_task", task_id=task_id, grace_seconds=1)
    waited = client.call("wait_for_task", task_id=task_id, timeout_seconds=0)
    assert (waited.structured["reason"], waited.structured["status"]) == ("timeout", "stopping")
    assert waited.text.split("\n")[0] == (
        "Task %s has not ended within 0 ms; it is being ended. Wait again." % task_id
    )
    assert client.tool_result("end_background_task", end).structured["signal"] == "SIGKILL"


def test_a_wait_is_told_of_an_end_by_request(client):
    """A wait also returns when somebody ends the task."""
    task_id = client.start(SLEEP)["task_id"]
    wait = send_wait(client, task_id)
    client.call("end_background_task", task_id=task_id)
    waited = client.tool_result("wait_for_task", wait).structured
    assert (waited["reason"], waited["status"]) == ("exited", "terminated")


@posix_only
def test_progress_is_reported_to_who_gave_a_token(client):
    """Calls that wait say now and then how the task is doing, each to its own token."""
    task_id = client.start(COUNT)["task_id"]
    stubborn = client.start(IGNORE_TERM)["task_id"]
    eventually(lambda: client.status(stubborn)["output"] == "ready", "the handler")
    waits = {token: send_wait(client, task_id, token, timeout_seconds=2.5) for token in ("a", 0)}
    waits[7] = send_wait(client, task_id, timeout_seconds=2.5)
    end = client.send(
        "tools/call",
        {
            "name": "end_background_task",
            "arguments": {"task_id": stubborn, "grace_seconds": 2.5},
            "_meta": {"progressToken": "the end"},
        },
    )
    told = {}
    for _ in range(3):
        params = client.notification(PROGRESS)
        told[params["progressToken"]] = params
    for token in ("a", 0):
        assert told[token]["progress"] >= 2
        assert told[token]["total"] == 2.5
        assert re.fullmatch(
            r"Task \w+ is running, for \d\.\d s\. Last line: step \d+", told[token]["message"]
        )
    assert re.match(r"Task \w+ is stopping, for .*\. Last line: ready", told["the end"]["message"])
    assert client.tool_result("end_background_task", end).structured["signal"] == "SIGKILL"
    for wait in waits.values():
        assert client.tool_result("wait_for_task", wait).structured["reason"] == "timeout"
    assert client.notifications.empty()  # none without a token


class FakeStatus:
    """As much of a TaskStatus as a wait looks at."""

    def __init__(self, is_final, processes_left):
        self.is_final = is_final
        self.processes_left = processes_left
        self.task_id, self.name, self.status, self.runtime_s = "t1", None, "running", 1.0


class FakeManager:
    """A manager, and a clock, whose waits each take their whole time and find the next of
    `statuses`."""

    def __init__(self, statuses):
        self.statuses = iter(statuses)
        self.now = 0.0

    def monotonic(self):
        return self.now

    def wait(self, task_id, timeout_s, cancel):
        self.now += timeout_s
        self.status = next(self.statuses)
        return self.status

    def output(self, task_id, tail_lines):
        return TaskOutput(
            self.status, Newest([(STDOUT, b"a line\n")], ()), OutputLog(100).tail(1), 7, 7, "7+0"
        )


@pytest.mark.parametrize(
    ("statuses", "reports"),
    [
        ([(False, None), (False, None), (True, 0), (True, 0)], 2),
        ([(True, 0), (True, 0)], 0),
        ([(True, 3), (True, 2), (True, 0), (True, 0)], 2),
    ],
)
def test_no_progress_is_reported_of_what_is_over(monkeypatch, statuses, reports):
    """A task that ends in the moment of a report is answered, not reported: some clients take
    the two in the wrong order."""
    told = []
    caller = Caller(CancelToken(), lambda *report: told.append(report))
    manager = FakeManager([FakeStatus(*facts) for facts in statuses])
    monkeypatch.setattr("backgroundr.tools.time", manager)
    status = _await_end(manager, "t1", 2 * len(statuses), caller)
    assert status.is_final
    assert len(told) == reports
    assert [report[0] for report in told] == [2.0, 4.0][:reports]


@pytest.mark.parametrize("token", [None, True, 1.5, [], {}])
def test_a_token_that_is_none_is_refused_or_ignored(client, token):
    """A progress token is a string or an integer. The modern era checks what is in _meta; in
    the older one anything else asks for nothing."""
    task_id = client.start(HELLO)["task_id"]
    params = {
        "name": "wait_for_task",
        "arguments": {"task_id": task_id},
        "_meta": {"progressToken": token},
    }
    if client.is_modern:
        with pytest.raises(RpcFailure, match="progressToken must be a string or a whole number"):
            client.request("tools/call", params)
    else:
        result = client.request("tools/call", params)
        assert result["structuredContent"]["reason"] == "exited"


def test_a_wait_without_a_thread_says_so():
    """Where no thread can be had, a wait fails with what to do, and pretends nothing."""
    with TaskManager() as manager:
        task_id = manager.start(SLEEP).task_id
        waits = default_tools()["wait_for_task"]
        deferred = waits.call(manager, {"task_id": task_id}, Caller(CancelToken()))
        result = deferred.otherwise()
        assert result["isError"]
        assert result["content"][0]["text"] == (
            "No thread is free to wait with. End tasks that are not needed any more, then try"
            " again."
        )
        now = waits.call(manager, {"task_id": task_id, "timeout_seconds": 0}, Caller(CancelToken()))
        assert now["structuredContent"]["reason"] == "timeout"


@linux_only
def test_a_cancelled_wait_leaves_nothing(client):
    """A wait that is cancelled is silent, its thread is gone, and its task runs on."""
    task_id = client.start(SLEEP)["task_id"]
    before = threads(client)
    waits = [send_wait(client, task_id, token) for token in range(20)]
    eventually(lambda: threads(client) == before + 20, "twenty waits")
    for wait in waits[:19]:
        client.notify("notifications/cancelled", {"requestId": wait, "reason": "a test"})
    eventually(lambda: threads(client) == before + 1, "one wait")
    assert client.status(task_id)["status"] == "running"
    client.call("end_background_task", task_id=task_id)
    assert client.tool_result("wait_for_task", waits[19]).structured["reason"] == "exited"
    client.status(task_id)
    assert not any(client.has_answered(wait) for wait in waits[:19])


@pytest.mark.parametrize("id", [12345, "no-such", None, 1.5, True, [], {}])
def test_a_cancellation_of_nothing_is_ignored(client, id):
    """A cancellation that names no call in flight changes nothing and is not answered."""
    task_id = client.start(SLEEP)["task_id"]
    wait = send_wait(client, task_id)
    client.notify("notifications/cancelled", {"requestId": id})
    client.notify("notifications/cancelled")
    client.call("end_background_task", task_id=task_id)
    assert client.tool_result("wait_for_task", wait).structured["status"] == "terminated"
    assert client.unasked.empty()


def test_waits_in_any_number_block_nothing(client):
    """In the middle of sixty waits other calls are answered, and then each wait, once."""
    task_id = client.start(SLEEP)["task_id"]
    waits = [send_wait(client, task_id) for _ in range(60)]
    assert client.status(task_id)["status"] == "running"
    other = client.start(HELLO)["task_id"]
    assert client.call("wait_for_task", task_id=other).structured["output"] == "hello"
    assert not any(client.has_answered(wait) for wait in waits)
    client.call("end_background_task", task_id=task_id)
    for wait in waits:
        assert client.tool_result("wait_for_task", wait).structured["status"] == "terminated"


@posix_only
def test_a_client_that_does_not_read_loses_nothing(tmp_path):
    """While a client reads nothing for seconds, its tasks run on and every answer waits."""
    with Client() as client:
        client.open()
        client.reads.clear()
        flag = tmp_path / "done"
        command = "yes | head -c 50000000; touch %s; exec sleep 600" % flag
        starts = [
            client.send_call("run_background_task", command="echo %d" % number)
            for number in range(100)
        ]
        flood = client.send_call("run_background_task", command=command)
        client.send("resources/subscribe", {"uri": "backgroundr://tasks"})
        lists = [client.send("tools/list") for _ in range(300)]  # some 3 MB of answers
        eventually(flag.exists, "the end of the flood")
        client.reads.set()
        tasks = [client.tool_result("run_background_task", start) for start in starts]
        for number, task in enumerate(tasks):
            assert client.status(task.structured["task_id"])["output"] == str(number)
        assert all(client.receive(one)["tools"] for one in lists)
        task_id = client.tool_result("run_background_task", flood).structured["task_id"]
        assert client.status(task_id)["total_bytes"] == 50000000
        updates = 0
        while not client.notifications.empty():
            client.notifications.get(timeout=DEADLINE_S)
            updates += 1
        assert 0 < updates < 50
