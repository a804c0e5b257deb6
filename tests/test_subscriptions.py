"""Who listens hears of what changed, gathered, in either era."""

from __future__ import annotations

import json
import queue
import threading
import time

import pytest

from backgroundr.subscriptions import RESOURCE_LIST, Subscriptions

from .client import META, RpcFailure
from .programs import (
    DEADLINE_S,
    SLEEP,
    eventually,
    python,
    shared,
)

TASKS = "backgroundr://tasks"
UPDATED = "notifications/resources/updated"
LIST_CHANGED = "notifications/resources/list_changed"
ACKNOWLEDGED = "notifications/subscriptions/acknowledged"
# Prints twenty times a second until it is ended.
TICK = python("import time\nwhile True:\n    print('tick', flush=True)\n    time.sleep(0.05)")
FLOOD = python("while True: print('x' * 79)")


def output_of(task_id):
    return "backgroundr://tasks/%s/output" % task_id


def listen(client, id, **wanted):
    """Open a subscription; return what the server agreed to."""
    client.send("subscriptions/listen", {"notifications": wanted}, id=id)
    params = client.notification(ACKNOWLEDGED)
    assert params["_meta"] == {META + "subscriptionId": id}
    return params["notifications"]


def drain(client):
    """Return the notifications that are there, as (method, params)."""
    found = []
    while not client.notifications.empty():
        message = client.notifications.get()
        found.append((message["method"], message.get("params", {})))
    return found


def await_update(client, uri, **meta):
    """Read notifications up to the next update of `uri`."""
    expected = {"uri": uri, **({"_meta": meta} if meta else {})}
    while client.notifications.get(timeout=DEADLINE_S) != {
        "jsonrpc": "2.0",
        "method": UPDATED,
        "params": expected,
    }:
        pass


# ---------------------------------------------------------------- handshake era


def test_a_subscriber_hears_of_output_and_the_end(legacy_client):
    """After resources/subscribe a task's output and end are told, and nothing else's."""
    task_id = legacy_client.start(TICK)["task_id"]
    other = legacy_client.start(TICK)["task_id"]
    assert legacy_client.request("resources/subscribe", {"uri": output_of(task_id)}) == {}
    assert legacy_client.request("resources/subscribe", {"uri": TASKS}) == {}
    await_update(legacy_client, output_of(task_id))
    await_update(legacy_client, output_of(task_id))
    drain(legacy_client)
    legacy_client.call("end_background_task", task_id=other)
    await_update(legacy_client, TASKS)
    legacy_client.call("end_background_task", task_id=task_id)
    for uri in (output_of(task_id), TASKS):
        assert legacy_client.request("resources/unsubscribe", {"uri": uri}) == {}
    told = drain(legacy_client)
    assert (UPDATED, {"uri": output_of(task_id)}) in told
    assert (UPDATED, {"uri": output_of(other)}) not in told
    legacy_client.start(TICK)
    assert legacy_client.notification(LIST_CHANGED) == {}
    assert legacy_client.notifications.empty()


def test_a_new_task_changes_the_list(legacy_client):
    """A client that made the handshake hears that there is a new resource."""
    legacy_client.start(SLEEP)
    assert legacy_client.notification(LIST_CHANGED) == {}


def test_what_is_not_there_cannot_be_subscribed_to(legacy_client):
    """A subscription to an unknown resource is refused; to end one is no error."""
    with pytest.raises(RpcFailure) as failure:
        legacy_client.request("resources/subscribe", {"uri": output_of("t00000000")})
    assert failure.value.code == -32002
    assert failure.value.data == {"uri": output_of("t00000000")}
    for uri in (TASKS, "", "no-such://x"):
        assert legacy_client.request("resources/unsubscribe", {"uri": uri}) == {}
    legacy_client.start(SLEEP)
    assert legacy_client.notification(LIST_CHANGED) == {}  # what was not asked for, stays


# ---------------------------------------------------------------- modern era


def test_nothing_comes_unasked(modern_client):
    """In the modern era a client that listens to nothing hears nothing."""
    task_id = modern_client.start(TICK)["task_id"]
    eventually(lambda: modern_client.status(task_id)["total_lines"] > 5, "some ticks")
    assert modern_client.notifications.empty()


def test_a_listener_hears_what_it_asked_for(modern_client):
    """A subscription is acknowledged first, and each of its messages has its id."""
    task_id = modern_client.start(TICK)["task_id"]
    for id in (7001, "a", 0, ""):
        granted = listen(modern_client, id, resourceSubscriptions=[output_of(task_id)])
        assert granted == {"resourceSubscriptions": [output_of(task_id)]}
        tag = {META + "subscriptionId": id}
        await_update(modern_client, output_of(task_id), **tag)
        await_update(modern_client, output_of(task_id), **tag)
        modern_client.start(SLEEP)
        assert not modern_client.has_answered(id)
        assert {method for method, _ in drain(modern_client)} <= {UPDATED}
        modern_client.notify("notifications/cancelled", {"requestId": id})


def test_only_what_can_be_told_is_acknowledged(modern_client):
    """The acknowledgement leaves out kinds and resources that the server does not have."""
    granted = listen(
        modern_client,
        1000,
        toolsListChanged=True,
        promptsListChanged=True,
        resourcesListChanged=True,
        resourceSubscriptions=["no-such://x", TASKS, output_of("t00000000"), TASKS, ""],
        taskIds=["x"],
    )
    assert granted == {"resourcesListChanged": True, "resourceSubscriptions": [TASKS]}
    assert listen(modern_client, 1001) == {}
    assert listen(modern_client, 1002, resourcesListChanged=False) == {}
    modern_client.start(SLEEP)
    told = [modern_client.notifications.get(timeout=DEADLINE_S) for _ in range(2)]
    assert sorted(message["method"] for message in told) == [LIST_CHANGED, UPDATED]
    for message in told:
        assert message["params"]["_meta"] == {META + "subscriptionId": 1000}


def test_several_listen_at_once_and_one_goes(modern_client):
    """Each subscription hears for itself, and a cancelled one is silent from then on."""
    task_id = modern_client.start(TICK)["task_id"]
    uri = output_of(task_id)
    for id in ("one", "two"):
        modern_client.send(
            "subscriptions/listen", {"notifications": {"resourceSubscriptions": [uri]}}, id=id
        )
    for id in ("one", "two"):
        await_update(modern_client, uri, **{META + "subscriptionId": id})
    modern_client.notify("notifications/cancelled", {"requestId": "one"})
    modern_client.request("server/discover")  # by its answer the cancellation has been read
    drain(modern_client)
    for _ in range(3):
        params = modern_client.notification(UPDATED)
        assert params["_meta"] == {META + "subscriptionId": "two"}
    assert not modern_client.has_answered("one")
    assert listen(modern_client, "one", resourceSubscriptions=[uri])


def test_the_end_of_the_server_answers_who_listens(modern_client):
    """A subscription is answered when the server ends it, after the last that there is to tell."""
    task_id = modern_client.start(SLEEP)["task_id"]
    listen(modern_client, "ends", resourceSubscriptions=[output_of(task_id)])
    modern_client.process.stdin.close()
    result = modern_client.receive("ends")
    assert result["resultType"] == "complete"
    assert result["_meta"][META + "subscriptionId"] == "ends"
    assert modern_client.notification(UPDATED)["uri"] == output_of(task_id)


@shared
@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({}, "notifications is required"),
        ({"notifications": []}, "notifications must be an object, not a list"),
        ({"notifications": {"toolsListChanged": "yes"}}, "toolsListChanged must be true or false"),
        ({"notifications": {"resourceSubscriptions": TASKS}}, "must be a list"),
        ({"notifications": {"resourceSubscriptions": [5]}}, r"\[0\] must be a string, not 5"),
    ],
)
def test_a_wrong_filter_is_refused(modern_client, params, words):
    """A subscription that makes no sense is answered at once, with an error."""
    with pytest.raises(RpcFailure, match=words) as failure:
        modern_client.request("subscriptions/listen", params)
    assert failure.value.code == -32602


def test_a_hundred_listen_and_no_more(modern_client):
    """More subscriptions than anybody needs are refused, until one is cancelled."""
    for number in range(100):
        listen(modern_client, "listen %d" % number, resourcesListChanged=True)
    with pytest.raises(RpcFailure, match="100 open subscriptions") as failure:
        modern_client.request("subscriptions/listen", {"notifications": {}})
    assert failure.value.code == -32600
    modern_client.notify("notifications/cancelled", {"requestId": "listen 7"})
    assert listen(modern_client, "one more") == {}


# ---------------------------------------------------------------- gathering


def test_a_flood_is_told_ten_times_a_second_at_most(modern_client):
    """However much a task prints, a listener hears of it a few times a second."""
    task_id = modern_client.start(FLOOD)["task_id"]
    listen(modern_client, "flood", resourceSubscriptions=[output_of(task_id)])
    modern_client.notification(UPDATED)
    began = time.monotonic()
    for _ in range(5):
        modern_client.notification(UPDATED)
    assert time.monotonic() - began > 0.4


class FakeWriter:
    """A LineWriter whose client reads or does not. sent: the messages, as objects."""

    def __init__(self):
        self.sent = queue.Queue()
        self.reads = threading.Event()
        self.reads.set()
        self.flushes = 0
        self.late_bytes = 0

    def send(self, line):
        self.sent.put(json.loads(line.decode()))

    def flush(self, timeout_s):
        self.flushes += 1
        return self.reads.wait(timeout_s)

    def throttle(self, timeout_s):
        return True

    def next(self):
        return self.sent.get(timeout=DEADLINE_S)


@pytest.fixture
def writer():
    return FakeWriter()


@pytest.fixture
def subscriptions(writer):
    subscriptions = Subscriptions(writer)
    yield subscriptions
    subscriptions.close()


def test_changes_are_gathered_while_the_client_does_not_read(writer, subscriptions):
    """A client that does not read is told once, later, however often something changed."""
    subscriptions.subscribe("a:1")
    subscriptions.subscribe("a:2")
    writer.reads.clear()
    for _ in range(10000):
        subscriptions.changed(("a:1",))
        subscriptions.changed(("a:2", "a:3"))
    eventually(lambda: writer.flushes, "the notifier at work")
    assert writer.sent.empty()
    writer.reads.set()
    assert {writer.next()["params"]["uri"], writer.next()["params"]["uri"]} == {"a:1", "a:2"}
    subscriptions.changed(("a:3",))
    subscriptions.changed(("a:2",))
    assert writer.next()["params"] == {"uri": "a:2"}
    assert writer.sent.empty()


def test_a_client_that_is_only_behind_is_told(writer, subscriptions):
    """Answers that are always still to be written do not keep a reading client from hearing."""
    subscriptions.subscribe("a:1")
    writer.reads.clear()
    subscriptions.changed(("a:1",))
    eventually(lambda: writer.flushes, "the notifier at work")
    assert writer.sent.empty()
    writer.late_bytes += 1000
    assert writer.next()["params"] == {"uri": "a:1"}


def test_a_change_during_the_telling_is_told_too(writer, subscriptions):
    """No change is lost between two rounds."""
    subscriptions.subscribe("a:1")
    for _ in range(3):
        subscriptions.changed(("a:1",))
        assert writer.next()["params"] == {"uri": "a:1"}


def test_the_notifier_starts_with_the_first_change_that_matters(writer, subscriptions):
    """Nobody listens, no thread; and what is no change for a listener starts none either."""

    def notifiers():
        return [one for one in threading.enumerate() if one.name == "backgroundr-notifier"]

    subscriptions.changed(("a:1",))
    subscriptions.subscribe("a:2")
    subscriptions.changed(("a:1",))
    assert notifiers() == []
    subscriptions.changed(("a:2",))
    assert writer.next()["params"] == {"uri": "a:2"}
    assert len(notifiers()) == 1
    subscriptions.close()
    assert notifiers() == []


def test_a_change_is_told_when_a_thread_is_free_again(writer, subscriptions, monkeypatch):
    """Where no thread can be had the change is kept, and the next one tells it."""
    subscriptions.subscribe("a:1")
    subscriptions.subscribe("a:2")

    def no_thread(thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        subscriptions.changed(("a:1",))
    assert writer.sent.empty()
    subscriptions.changed(("a:2",))
    assert [writer.next()["params"]["uri"] for _ in range(2)] == ["a:1", "a:2"]


def test_closing_tells_the_last_and_finishes_each_once(writer, subscriptions):
    """What changed before the end is told before the listening calls are finished."""
    finished = []
    for id in (1, "1"):
        subscriptions.listen(
            id,
            ["a:1", RESOURCE_LIST],
            {"x": True},
            lambda id=id: finished.append((id, writer.sent.qsize())),
        )
    subscriptions.listen(3, ["a:1"], {}, lambda: finished.append(3))
    subscriptions.stop(3)
    writer.reads.clear()  # so that the notifier cannot be quicker
    subscriptions.changed(("a:1", RESOURCE_LIST))
    subscriptions.close()
    told = [writer.next() for _ in range(writer.sent.qsize())]
    assert finished == [(1, len(told)), ("1", len(told))]
    assert [message["method"] for message in told] == [ACKNOWLEDGED] * 3 + [
        LIST_CHANGED,
        UPDATED,
        LIST_CHANGED,
        UPDATED,
    ]
    ids = [message["params"]["_meta"][META + "subscriptionId"] for message in told]
    assert ids == [1, "1", 3, 1, 1, "1", "1"]
    subscriptions.close()
    assert len(finished) == 2
