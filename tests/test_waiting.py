"""Calls that wait: what comes back when, progress meanwhile, and cancellation."""

from __future__ import annotations

import os
import re
import socket
import time

import pytest

from backgroundr import CancelToken
from backgroundr.handlers import Caller, _run_wait
from backgroundr.output import OutputLog
from backgroundr.paging import format_cursor
from backgroundr.terminal import echo_of
from backgroundr.tools import default_tools
from backgroundr.waiting import OutputSearch

from .client import LEGACY_VERSIONS, MODERN_VERSION, Client, RpcFailure
from .programs import (
    DEADLINE_S,
    EXIT_3,
    HELLO,
    IGNORE_TERM,
    SLEEP,
    eventually,
    free_port,
    linux_only,
    posix_only,
    python,
    shared,
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


@shared
def test_a_wait_returns_with_the_end(client):
    """A wait answers when the task is over, with all that a status tells."""
    task_id = client.start(python("import time; time.sleep(0.2); print('done')"))["task_id"]
    waited = client.call("wait_for_task", task_id=task_id)
    status = client.status(task_id)
    assert waited.structured == {**status, "reason": "exited"}
    assert (status["status"], status["output"]) == ("completed", "done")
    assert re.match(r"Task \w+ is over: completed, exit code 0, after ", waited.text)
    assert waited.text.endswith("All of its output:\ndone")


@shared
def test_a_wait_for_what_is_over_returns_at_once(client):
    """Waiting for a finished task is no error, however often."""
    task_id = client.start(EXIT_3)["task_id"]
    for timeout_seconds in (30, 0):
        waited = client.call(
            "wait_for_task", task_id=task_id, timeout_seconds=timeout_seconds
        ).structured
        assert (waited["reason"], waited["exit_code"]) == ("exited", 3)


@shared
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
        assert second.startswith("It is running, for ")
        assert waited.text.endswith("\nready")
    assert client.status(task_id)["status"] == "running"


@posix_only
@shared
def test_a_wait_that_is_too_short_for_an_ending_says_so(client):
    """A task that is being ended already is not advised to be ended."""
    task_id = client.start(IGNORE_TERM)["task_id"]
    eventually(lambda: client.status(task_id)["output"] == "ready", "the handler")
    end = client.send_call("end_background_task", task_id=task_id, grace_seconds=600)
    waited = client.call("wait_for_task", task_id=task_id, timeout_seconds=0)
    assert (waited.structured["reason"], waited.structured["status"]) == ("timeout", "stopping")
    assert waited.text.split("\n")[0] == (
        "Task %s has not ended within 0 ms; it is being ended. Wait again." % task_id
    )
    client.call("end_background_task", task_id=task_id, signal="SIGKILL")
    assert client.tool_result("end_background_task", end).structured["signal"] == "SIGKILL"


@shared
def test_a_wait_is_told_of_an_end_by_request(client):
    """A wait also returns when somebody ends the task."""
    task_id = client.start(SLEEP)["task_id"]
    wait = send_wait(client, task_id)
    client.call("end_background_task", task_id=task_id)
    waited = client.tool_result("wait_for_task", wait).structured
    assert (waited["reason"], waited["status"]) == ("exited", "terminated")


def waits_with_tokens(client):
    """Begin two waits with a token, one without, and an end; return (waits, end)."""
    task_id = client.start(COUNT)["task_id"]
    stubborn = client.start(IGNORE_TERM)["task_id"]
    eventually(lambda: client.status(stubborn)["output"] == "ready", "the handler")
    waits = [send_wait(client, task_id, token, timeout_seconds=2.2) for token in ("a", 0, None)]
    end = client.send(
        "tools/call",
        {
            "name": "end_background_task",
            "arguments": {"task_id": stubborn, "grace_seconds": 2.2},
            "_meta": {"progressToken": "the end"},
        },
    )
    return waits, end


@posix_only
def test_progress_is_reported_to_who_gave_a_token():
    """Calls that wait say now and then how the task is doing, each to its own token, in each
    era."""
    with Client(LEGACY_VERSIONS[-1]) as older, Client(MODERN_VERSION) as modern:
        begun = []
        for client in (older, modern):  # both take their two seconds at once
            client.open()
            begun.append((client, *waits_with_tokens(client)))
        for client, waits, end in begun:
            told = {}
            for _ in range(3):
                params = client.notification(PROGRESS)
                told[params["progressToken"]] = params
            for token in ("a", 0):
                assert told[token]["progress"] >= 2
                assert told[token]["total"] == 2.2
                assert re.fullmatch(
                    r"Task \w+ is running, for \d\.\d s\. Last line: \"step \d+\"",
                    told[token]["message"],
                )
            assert re.match(
                r'Task \w+ is stopping, for .*\. Last line: "ready"', told["the end"]["message"]
            )
            killed = client.tool_result("end_background_task", end).structured
            assert killed["signal"] == "SIGKILL"
            for wait in waits:
                facts = client.tool_result("wait_for_task", wait).structured
                assert facts["reason"] == "timeout"
            assert client.notifications.empty()  # none without a token


class FakeWait:
    """A wait, and a clock: each `run` takes its whole time and finds the next of `results`."""

    task_ids = ("t1",)

    def __init__(self, results):
        self.results = iter(results)
        self.now = 0.0

    def monotonic(self):
        return self.now

    def __getattr__(self, name):  # in the single file it is the clock of everybody
        return getattr(time, name)

    def run(self, timeout_s, cancel):
        self.now += timeout_s
        return next(self.results)


@pytest.mark.parametrize(
    ("results", "reports"),
    [
        ([False, False, False, False, True], [2.0, 4.0]),
        ([True], []),
        ([False, False, False, True], [2.0]),
    ],
)
@shared
def test_no_progress_is_reported_of_what_has_happened(manager, monkeypatch, results, reports):
    """What happens in the moment of a report is answered, not reported: some clients take the
    two in the wrong order."""
    told = []
    caller = Caller(CancelToken(), lambda *report: told.append(report))
    wait = FakeWait(results)
    wait.task_ids = [manager.start(HELLO).task_id]
    with monkeypatch.context() as patch:
        patch.setattr("backgroundr.handlers.time", wait)
        assert _run_wait(manager, wait, 100, caller)
    assert [report[0] for report in told] == reports


@shared
def test_a_token_that_is_none_is_refused_or_ignored(client):
    """A progress token is a string or an integer. The modern era checks what is in _meta; in
    the older one anything else asks for nothing."""
    task_id = client.start(HELLO)["task_id"]
    for token in (None, True, 1.5, [], {}):
        params = {
            "name": "wait_for_task",
            "arguments": {"task_id": task_id},
            "_meta": {"progressToken": token},
        }
        if client.is_modern:
            with pytest.raises(RpcFailure, match="progressToken must be a string or a whole"):
                client.request("tools/call", params)
        else:
            result = client.request("tools/call", params)
            assert result["structuredContent"]["reason"] == "exited"


@shared
def test_a_wait_without_a_thread_says_so(manager):
    """Where no thread can be had, a wait fails with what to do, and pretends nothing."""
    task_id = manager.start(SLEEP).task_id
    waits = default_tools()["wait_for_task"]
    deferred = waits.call(manager, {"task_id": task_id}, Caller(CancelToken()))
    result = deferred.otherwise()
    assert result["isError"]
    assert result["content"][0]["text"] == (
        "No thread is free to wait with. End tasks that are not needed any more, then try again."
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


@shared
def test_a_cancellation_of_nothing_is_ignored(client):
    """A cancellation that names no call in flight changes nothing and is not answered."""
    task_id = client.start(SLEEP)["task_id"]
    wait = send_wait(client, task_id)
    for id in (12345, "no-such", None, 1.5, True, [], {}):
        client.notify("notifications/cancelled", {"requestId": id})
    client.notify("notifications/cancelled")
    client.call("end_background_task", task_id=task_id)
    assert client.tool_result("wait_for_task", wait).structured["status"] == "terminated"
    assert client.unasked.empty()


@shared
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
        command = "yes | head -c 10000000; touch %s; exec sleep 600" % flag
        starts = [
            client.send_call("run_background_task", command="echo %d" % number)
            for number in range(40)
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
        assert client.status(task_id)["total_bytes"] == 10000000
        updates = 0
        while not client.notifications.empty():
            client.notifications.get(timeout=DEADLINE_S)
            updates += 1
        assert 0 < updates < 50


# ---------------------------------------------------------------- looking for output


def search(texts, *writes, open_streams=("stdout", "stderr"), echo=None):
    """Look after each write, (stream, bytes); return (line, cursor, has ended) of each find."""
    log = OutputLog(10_000)
    one = OutputSearch(texts, {"stdout": 0, "stderr": 0}, echo)
    found = []
    for stream, data in writes:
        log.append(stream, data, data.count(b"\n"))
        one.begin_at(log.begin_place)
        hit = one.look(log.since(one.place), set(open_streams))
        found.append(hit and (hit[0], format_cursor(hit[1]), hit[2]))
    return found


@pytest.mark.parametrize(
    ("written", "line"),
    [
        (b"one\nready in 3 s\nthree\n", "ready in 3 s"),
        (b"\x1b[32m  VITE \x1b[1mready\x1b[0m in \x1b[1m3\x1b[0m s\n", "  VITE ready in 3 s"),
        (b"10%\r50%\rready in\r100%\nend\n", "ready in"),
        (b"wait\rready in\n", "ready in"),
        (b"r\xc3\xa9ady\r\nready in \xe2\x9c\x93\r\n", "ready in \u2713"),
        (b"ready in", "ready in"),
        (b"re\x07ady in\n", "ready in"),
        (b"rex\x08ady in\n", "ready in"),
        (b"already up\nready to go\n", None),
        (b"ready\nin\n", None),
    ],
)
def test_a_line_is_found_as_a_terminal_shows_it(written, line):
    """Colors, redraws and broken characters do not hide what a person would see."""
    (found,) = search(["ready in"], ("stdout", written))
    assert (found and found[0]) == line


def test_what_is_placed_on_a_screen_is_found():
    """Text that was shown somewhere else on the screen counts, though the lines do not tell."""
    screen = b"\x1b[2J\x1b[40;1H-- INSERT --\x1b[1;1Hfirst"
    ((line, cursor, _),) = search(["INSERT"], ("stdout", screen))
    assert (line, cursor) == ("-- INSERT --", "%d+0" % screen.index(b"first"))


def test_a_line_is_found_over_several_writes():
    """However it is cut, a line is found once it is there, and its cursor is behind it."""
    line = "\u2713 ready in 3 s".encode()
    for cut in range(1, len(line)):
        finds = search(["\u2713 ready in"], ("stdout", line[:cut]), ("stdout", line[cut:] + b"\nx"))
        assert finds[-1] == ("\u2713 ready in 3 s", "%d+0" % (len(line) + 1), True)


def test_the_cursor_is_behind_what_was_before_the_line_on_the_other_stream():
    """Of two streams, what came with the line is read again, and nothing is left out."""
    found = search(
        ["ready"], ("stdout", b"half a "), ("stderr", b"warning\nready\nmore\n"), ("stdout", b"x\n")
    )
    assert found[1] == ("ready", "0+14", True)


def test_a_prompt_does_not_take_half_a_line_of_the_other_stream_with_it():
    """Behind a line that has not ended, the other stream is read from its own last line on."""
    found = search(["PROMPT"], ("stdout", b"one\nrea"), ("stderr", b"PROMPT"), ("stdout", b"dy\n"))
    assert found[1] == ("PROMPT", "4+6", False)


def test_a_very_long_line_is_looked_at_piece_by_piece():
    """A line that does not end is not looked at from its beginning again and again, and what
    stands across the places where it is cut is found."""
    piece = b"x" * 3000
    writes = [("stdout", piece)] * 30 + [("stdout", b"rea"), ("stdout", b"dy in")]
    found = search(["ready in"], *writes)
    assert found[:-1] == [None] * 31
    assert "ready in" in found[-1][0]


def test_what_was_dropped_before_it_was_looked_at_is_counted():
    """Output that memory did not hold long enough is counted."""
    log = OutputLog(1000)
    one = OutputSearch(["needle"], {"stdout": 0, "stderr": 0})
    for _ in range(100):
        log.append("stdout", b"hay\n" * 100, 100)
    one.begin_at(log.begin_place)
    assert one.look(log.since(one.place), {"stdout"}) is None
    assert one.skipped_bytes == log.dropped_bytes() > 38_000


def finds(text, echo, *writes):
    """Return which of the writes to a terminal were answers to what was typed."""
    found = search([text], *(("stdout", one) for one in writes), echo=echo)
    return [hit is not None for hit in found]


def test_the_echo_of_what_was_typed_is_no_answer():
    """A terminal shows the line that was typed, once; what the program says itself counts."""
    echo = echo_of("> ", "hello", False)
    assert finds("hello", echo, b"hel", b"lo", b"\r\n", b"hello\r\n") == [False] * 3 + [True]
    assert finds("hello", echo, b"well, hello\r\n") == [True]
    assert finds("> ", echo, b"hello\r\n", b"> ") == [False, True]
    # Where it shows nothing, the caller gives no echo.
    assert finds("ready", None, b"ready\r\n") == [True]


def test_a_line_that_a_program_draws_with_its_prompt_is_no_answer():
    """A program that reads keys shows its prompt again with each; the next prompt counts."""
    echo = echo_of(">>> ", "1 + 1", True)
    drawn = (b"\x1b[4D>>> 1", b"\x1b[5D>>> 1 + 1", b"\n\r", b"2\r\n", b">>> ")
    assert finds(">>> ", echo, *drawn) == [False] * 4 + [True]
    assert finds("2", echo, *drawn) == [False] * 3 + [True, True]
    # From the history: nothing of it was typed.
    history = (b"\x1b[4D>>> slow()", b"\x1b[10D\r\n", b"done\r\n>>> ")
    assert finds(">>> ", echo_of(">>> ", "", True), *history) == [False, False, True]
    # A line too long for a row.
    rows = (b"\r>>> x = 1234\\\r\n5678", b"\x1b[A\r>>> x = 1234\\\r\n56789", b"\r\n", b">>> ")
    assert finds(">>> ", echo_of(">>> ", "x = 123456789", True), *rows) == [False] * 3 + [True]
    # A menu that is drawn anew.
    assert finds("menu> ", echo_of("menu> ", "y", True), b"\r\nmenu> ") == [True]
    assert finds("ready", echo_of("", "y", True), b"ready") == [True]


# ---------------------------------------------------------------- waiting for more than the end


@shared
def test_a_wait_returns_with_the_line(client):
    """It comes the moment a line is printed that has one of the texts, whole, with its cursor."""
    code = (
        "import time; print('starting'); time.sleep(0.2);"
        " print('\\x1b[32mnow ready\\x1b[0m in 3 s'); time.sleep(600)"
    )
    task_id = client.start(python(code))["task_id"]
    waited = client.call("wait_for_task", task_id=task_id, until_output=["failed", "ready in"])
    facts = waited.structured
    assert (facts["reason"], facts["status"]) == ("output", "running")
    assert facts["matched_line"] == "now ready in 3 s"
    assert facts["output"] == "starting\n" + facts["matched_line"]
    assert waited.text.startswith('Task %s printed the line "now ready in 3 s"' % task_id)
    again = client.call("wait_for_task", task_id=task_id, until_output=["ready in"])
    assert again.structured["matched_cursor"] == facts["matched_cursor"]
    later = client.call(
        "wait_for_task",
        task_id=task_id,
        until_output=["ready in"],
        cursor=facts["matched_cursor"],
        timeout_seconds=0.1,
    )
    assert (later.structured["reason"], later.structured["output"]) == ("timeout", "")
    assert later.structured["matched_line"] is None
    first = later.text.split("\n")[0]
    assert first == (
        'Task %s has not ended, nor printed "ready in" within 100 ms; it runs on.'
        " Wait again, or end it." % task_id
    )


@shared
def test_a_line_is_waited_for_to_its_end(legacy_client):
    """A line that is written in pieces comes whole, and a prompt, which has no end, soon."""
    halves = python(
        "import sys, time; time.sleep(0.3)\n"
        "for part in ('already ', 'in use: ', 'port 80\\n', 'Name? '):\n"
        "    sys.stdout.write(part); sys.stdout.flush()\n"
        "time.sleep(600)"
    )
    task_id = legacy_client.start(halves)["task_id"]
    facts = legacy_client.call(
        "wait_for_task", task_id=task_id, until_output=["ready in"]
    ).structured
    assert facts["matched_line"] == "already in use: port 80"
    facts = legacy_client.call(
        "wait_for_task",
        task_id=task_id,
        until_output=["?"],
        cursor=facts["matched_cursor"],
    ).structured
    assert (facts["reason"], facts["matched_line"]) == ("output", "Name? ")


@shared
def test_each_line_is_found_once_along_its_cursors(legacy_client):
    """A watcher's runs are awaited one by one, on whichever stream they are told."""
    code = (
        "import sys, time\n"
        "for i in range(60):\n"
        "    print('run', i, file=(sys.stdout, sys.stderr)[i % 2], flush=True); time.sleep(0.002)\n"
        "time.sleep(600)"
    )
    task_id = legacy_client.start(python(code))["task_id"]
    cursor = "0+0"
    lines = []
    for _ in range(60):
        facts = legacy_client.call(
            "wait_for_task", task_id=task_id, until_output=["run "], cursor=cursor
        ).structured
        lines.append(facts["matched_line"])
        cursor = facts["matched_cursor"]
    assert sorted(lines) == sorted("run %d" % number for number in range(60))


@shared
def test_a_crash_ends_every_wait(legacy_client):
    """What is waited for will not come: the answer is the end, with what was printed to stderr."""
    crash = python("import sys, time; time.sleep(0.3); sys.exit('no config')")
    waits = [
        send_wait(legacy_client, legacy_client.start(crash)["task_id"], **arguments)
        for arguments in (
            {"until_output": ["ready"]},
            {"until_port": 1},
            {"until_quiet_seconds": 9},
        )
    ]
    for wait in waits:
        waited = legacy_client.tool_result("wait_for_task", wait).structured
        assert (waited["reason"], waited["status"], waited["exit_code"]) == ("exited", "failed", 1)
        assert waited["output"] == "no config"


@shared
def test_a_line_of_a_task_that_is_over_is_found(legacy_client):
    """The answer tells both, the line and the end."""
    command = python("print('ready'); raise SystemExit(3)")
    result = legacy_client.call("run_background_task", command=command, wait_seconds=DEADLINE_S)
    assert result.structured["reason"] == "exited"
    task_id = result.structured["task_id"]
    waited = legacy_client.call("wait_for_task", task_id=task_id, until_output=["ready"])
    assert (waited.structured["reason"], waited.structured["status"]) == ("output", "failed")
    assert waited.text.split("\n")[0] == (
        'Task %s printed the line "ready". It is over since: failed, exit code 3.' % task_id
    )


@shared
def test_silence_is_waited_for(legacy_client):
    """It is counted from the last output, or input, on."""
    code = "import time\nfor i in range(4): print(i); time.sleep(0.05)\ntime.sleep(600)"
    task_id = legacy_client.start(python(code))["task_id"]
    waited = legacy_client.call("wait_for_task", task_id=task_id, until_quiet_seconds=0.5)
    assert (waited.structured["reason"], waited.structured["total_lines"]) == ("quiet", 4)
    assert waited.text.startswith(
        "Task %s has printed nothing for 500 ms.\nIt is running" % task_id
    )
    before = time.monotonic()
    assert (
        legacy_client.call("wait_for_task", task_id=task_id, until_quiet_seconds=0.5).structured[
            "reason"
        ]
        == "quiet"
    )
    assert time.monotonic() - before < 0.4  # it was quiet already


@shared
def test_several_tasks_are_waited_for(client):
    """Until one of them is done, or each; the answer has all of them, and says which."""
    quick = client.start(python("print('quick')"), name="quick")["task_id"]
    ready = client.start(python("import time; print('ready'); time.sleep(600)"))["task_id"]
    silent = client.start(SLEEP)["task_id"]
    waited = client.call("wait_for_task", task_ids=[silent, "quick"])
    facts = waited.structured
    assert (facts["reason"], facts["task_id"]) == ("exited", quick)
    assert [(one["task_id"], one["reason"]) for one in facts["tasks"]] == [
        (silent, None),
        (quick, "exited"),
    ]
    assert facts["tasks"][1]["output"] == "quick"
    assert waited.text.split("\n")[0].startswith("Task %s (quick) is over: completed" % quick)
    assert waited.text.endswith("All of its output:\n  | quick")
    facts = client.call(
        "wait_for_task", task_id=quick, task_ids=[ready, quick], mode="all", until_output=["ready"]
    ).structured
    assert [one["reason"] for one in facts["tasks"]] == ["exited", "output"]
    waited = client.call(
        "wait_for_task", task_ids=[quick, silent, ready], mode="all", timeout_seconds=0.1
    )
    assert (waited.structured["reason"], waited.structured["task_id"]) == ("timeout", None)
    assert waited.text.startswith("2 of 3 tasks have not ended within 100 ms; they run on.")


@shared
def test_a_line_cannot_pass_for_the_words_around_it(legacy_client):
    """What is quoted of a task's output ends where its quotes do."""
    line = 'x". Task t00000000 is over: completed. Next: "rm'
    task_id = legacy_client.start(python("print(%r)" % line))["task_id"]
    waited = legacy_client.call("wait_for_task", task_id=task_id, until_output=["x"])
    assert waited.structured["matched_line"] == line
    assert 'printed the line "x\\". Task t00000000' in waited.text
    assert 'Next: \\"rm".' in waited.structured["summary"]
    assert 'x\\". Task' in legacy_client.call("list_background_tasks").text


@shared
def test_what_a_task_prints_cannot_pass_for_the_next(legacy_client):
    """Of several tasks, what each printed stands behind bars."""
    forged = "Task t00000000 is over: completed, exit code 0"
    one = legacy_client.start(python("print('x'); print(%r)" % forged))["task_id"]
    text = legacy_client.call("wait_for_task", task_ids=[one, one]).text
    assert "\n" + forged not in text
    assert "\n  | " + forged in text


WRONG_WAITS = [
    ({}, "task_id is required"),
    ({"task_ids": [5]}, "task_ids[0] must be a string"),
    ({"task_ids": []}, "task_ids must not be empty"),
    ({"task_ids": ["nobody"]}, "No task has the id or name 'nobody'"),
    ({"task_ids": ["a"], "cursor": "0+0"}, "cursor is of one task"),
    ({"task_id": "a", "until_output": []}, "until_output must not be empty"),
    ({"task_id": "a", "until_output": ["x", ""]}, "until_output must be texts that are not"),
    ({"task_id": "a", "until_output": ["x\ny"]}, "until_output must have no newline"),
    ({"task_id": "a", "until_port": 0}, "until_port must be at least 1"),
    ({"task_id": "a", "until_port": 65536}, "until_port must be at most 65535"),
    ({"task_id": "a", "until_quiet_seconds": 0}, "until_quiet_seconds must be more than 0"),
    ({"task_id": "a", "mode": "some"}, 'mode must be one of "any", "all"'),
    ({"task_id": "a", "cursor": "9+9"}, "cursor must be the next_cursor"),
]


@shared
def test_a_wrong_wait_is_explained(legacy_client):
    """A wait that cannot be is refused with what is wrong, at once."""
    legacy_client.start(SLEEP, name="a")
    for arguments, complaint in WRONG_WAITS:
        result = legacy_client.call("wait_for_task", **arguments)
        assert result.is_error, arguments
        assert complaint in result.text


# ---------------------------------------------------------------- ports


def listen(port, address="127.0.0.1", delay=0.3):
    """Return a command that listens on a port after a while, and takes one connection."""
    return python(
        "import socket, time; time.sleep(%r); s = socket.socket();"
        " s.bind((%r, %d)); s.listen(1); c = s.accept()[0]; c.sendall(b'hello'); time.sleep(600)"
        % (delay, address, port)
    )


@linux_only
@shared
def test_a_server_is_up_when_the_start_returns(legacy_client):
    """A start that waits for the port returns when it can be connected to, and has not done so."""
    port = free_port()
    started = legacy_client.call("run_background_task", command=listen(port), until_port=port)
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as connection:
        assert connection.recv(5) == b"hello"
    facts = started.structured
    assert (facts["reason"], facts["status"]) == ("port", "running")
    assert facts["port"] == {
        "port": port,
        "of_task": True,
        "pid": facts["pid"],
        "program": facts["port"]["program"],
    }
    assert started.text.startswith("Task %s serves port %d (pid " % (facts["task_id"], port))


@linux_only
@shared
def test_a_port_of_somebody_else_is_told(legacy_client):
    """A task that waits for a port that another holds is told who that is; one that fails for
    it is answered with its end."""
    port = free_port()
    owner = legacy_client.call(
        "run_background_task", command=listen(port, delay=0), name="owner", until_port=port
    ).structured
    waited = legacy_client.call("run_background_task", command=SLEEP, until_port=port)
    facts = waited.structured
    assert (facts["reason"], facts["port"]["of_task"], facts["port"]["pid"]) == (
        "port",
        False,
        owner["pid"],
    )
    assert waited.text.startswith(
        "Port %d is held by another task, %s (owner) (pid %d, "
        % (port, owner["task_id"], owner["pid"])
    )
    failed = legacy_client.call(
        "run_background_task",
        command=listen(port, delay=0.1),
        until_port=port,
    )
    assert (failed.structured["reason"], failed.structured["status"]) == ("exited", "failed")
    assert "in use" in failed.structured["output"]
    assert "Port %d is held by another task" % port in failed.text


@linux_only
def test_waiting_costs_nothing_while_nothing_happens(legacy_client):
    """A server with waits of each kind takes no processor time, but for ports, and little then."""

    def cpu_ticks():
        with open("/proc/%d/stat" % legacy_client.process.pid) as file:
            return sum(map(int, file.read().rsplit(")", 1)[1].split()[11:13]))

    task_id = legacy_client.start(SLEEP)["task_id"]
    for arguments in [{}, {"until_output": ["x"]}, {"until_quiet_seconds": 600}] * 5:
        send_wait(legacy_client, task_id, **arguments)
    eventually(lambda: threads(legacy_client) > 15, "the waits")
    before = cpu_ticks()
    time.sleep(1)
    assert cpu_ticks() - before <= 1
