"""Input and terminals: what is sent to a task, what becomes of it, and what comes back."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import threading
import time

import pytest

from backgroundr import InputRefused, InvalidValue, TaskManager
from backgroundr.taskinput import TaskInput

from .client import Client
from .programs import (
    DEADLINE_S,
    EXIT_0,
    SLEEP,
    eventually,
    is_alive,
    linux_only,
    new_mark,
    open_descriptors,
    posix_only,
    processes_with,
    python,
    shared,
)

ECHO_LINES = python("import sys\nfor line in sys.stdin: print('got', line, end='')\nprint('end')")
COUNT_AND_HASH = python(
    "import hashlib, sys; data = sys.stdin.buffer.read();"
    " print(len(data), hashlib.sha256(data).hexdigest())"
)


def run(manager, command, **settings):
    """Run a command to its end; return its status and its output."""
    task_id = manager.start(command, **settings).task_id
    status = manager.wait(task_id, timeout_s=DEADLINE_S)
    assert status.is_final
    return status, manager.output(task_id, 1000).text


# ---------------------------------------------------------------- stdin


@shared
def test_a_command_without_input_reads_nothing(manager):
    """Its stdin is at its end from the beginning."""
    assert run(manager, COUNT_AND_HASH)[1].startswith("0 ")


@shared
@pytest.mark.parametrize(
    "text",
    ["", "one\ntwo", "\0 and \u2713", "x" * 3_000_000],
    ids=["nothing", "lines", "odd characters", "much"],
)
def test_text_is_given_and_ends(manager, text):
    """All of the text arrives, whatever is in it and however much it is, and then the end."""
    data = text.encode()
    told = "%d %s" % (len(data), hashlib.sha256(data).hexdigest())
    assert run(manager, COUNT_AND_HASH, stdin=text)[1] == told


def test_text_that_nobody_reads_holds_up_nothing(manager):
    """A command that reads none of it runs and ends as ever, and what was meant for it is gone."""
    text = "x" * 1_000_000
    before = manager.start(SLEEP, stdin=text).task_id
    assert run(manager, EXIT_0, stdin=text)[0].exit_code == 0
    assert manager.end(before).status == "terminated"
    if sys.platform == "linux":
        descriptors = open_descriptors()
        for _ in range(5):
            run(manager, EXIT_0, stdin=text)
        assert open_descriptors() <= descriptors


# ---------------------------------------------------------------- what is sent


@shared
def test_lines_are_sent_and_the_input_ends(manager):
    """A program reads what is sent, in order; behind close it finds the end."""
    task_id = manager.start(ECHO_LINES, stdin="first\n", interactive=True).task_id
    result = manager.send_input(task_id, "second", enter=True)
    assert (result.written_bytes, result.unwritten_bytes) == (7, 0)
    assert result.status.input_open
    result = manager.send_input(task_id, "third", close=True)
    assert not manager.status(task_id).input_open
    status = manager.wait(task_id, timeout_s=DEADLINE_S)
    assert (status.exit_code, status.input_open) == (0, False)
    assert manager.output(task_id).text == "got first\ngot second\ngot thirdend"


@shared
def test_input_that_cannot_be_taken_is_refused(manager):
    """Of a task without input, with closed input, or over, the answer says why it takes none."""
    plain = manager.start(SLEEP).task_id
    with pytest.raises(InputRefused, match="without interactive or pty"):
        manager.send_input(plain, "x")
    reading = manager.start(SLEEP, stdin="x" * 300_000).task_id
    with pytest.raises(InputRefused, match="without interactive or pty"):
        manager.send_input(reading, "x")
    with pytest.raises(InvalidValue, match="keys are for a task with a terminal"):
        manager.send_input(plain, keys=["up"])
    closed = manager.start(python("import time; time.sleep(600)"), interactive=True).task_id
    manager.send_input(closed, close=True)
    eventually(lambda: not manager.status(closed).input_open, "the end of the input")
    with pytest.raises(InputRefused, match="its input has ended"):
        manager.send_input(closed, "x")
    over = manager.start(EXIT_0, interactive=True).task_id
    manager.wait(over, timeout_s=DEADLINE_S)
    with pytest.raises(InputRefused, match="it is over"):
        manager.send_input(over, "x")


@posix_only
@shared
def test_what_is_not_read_within_its_time_is_given_up(manager):
    """What a program does not take is counted, and does not arrive later."""
    code = (
        "import os, sys, time\nprint('up')\n"
        "while not os.path.exists(sys.argv[1]): time.sleep(0.01)\n"
        "print(len(sys.stdin.read()))"
    )
    flag = "/tmp/%s" % new_mark()
    task_id = manager.start(python(code) + " " + flag, interactive=True).task_id
    try:
        before = time.monotonic()
        result = manager.send_input(task_id, "x" * 1_000_000, timeout_s=0.2)
        assert 0.2 <= time.monotonic() - before < 5
        assert result.written_bytes + result.unwritten_bytes == 1_000_000
        assert result.unwritten_bytes > 0
        more = manager.send_input(task_id, "y", timeout_s=0.1)
        assert (more.written_bytes, more.unwritten_bytes) == (0, 1)
    finally:
        with open(flag, "w"):
            pass
    manager.send_input(task_id, close=True)
    manager.wait(task_id, timeout_s=DEADLINE_S)
    os.unlink(flag)
    assert manager.output(task_id).text == "up\n%d" % result.written_bytes


@posix_only
@shared
@pytest.mark.parametrize("text", ["", "y" * 200_000], ids=["nothing", "much"])
def test_the_end_of_the_input_is_never_given_up(manager, text):
    """A program that reads late finds what was written, and the end behind it."""
    flag = "/tmp/%s" % new_mark()
    command = "until [ -e %s ]; do sleep 0.01; done; wc -c" % flag
    task_id = manager.start(command, stdin="x" * 200_000, interactive=True).task_id
    try:
        result = manager.send_input(task_id, text, close=True, timeout_s=0.1)
        assert result.unwritten_bytes == len(text)
        assert not result.status.input_open
    finally:
        with open(flag, "w"):
            pass
    assert manager.wait(task_id, timeout_s=DEADLINE_S).is_final
    os.unlink(flag)
    assert manager.output(task_id).text.strip() == "200000"


@posix_only
@shared
def test_a_program_that_closes_its_input_is_told_of(manager):
    """The first write fails and the next is refused; the task runs on."""
    task_id = manager.start("exec <&-; echo closed; exec sleep 600", interactive=True).task_id
    eventually(lambda: manager.output(task_id).text == "closed", "the closing")
    result = manager.send_input(task_id, "x")
    assert (result.written_bytes, result.unwritten_bytes) == (0, 1)
    assert not result.status.input_open
    with pytest.raises(InputRefused, match="its input has ended"):
        manager.send_input(task_id, "x")
    assert manager.status(task_id).status == "running"


def test_a_thread_writes_where_pipes_cannot_be_watched():
    """The way of Windows: a thread writes, waits, and ends with its work."""
    reading, writing = os.pipe()
    task_input = TaskInput(writing)
    data = b"x" * 300_000
    sent = task_input.send(data)
    assert task_input.needs_thread()
    assert not task_input.needs_thread()
    thread = threading.Thread(target=task_input.run)
    thread.start()
    got = b""
    while len(got) < len(data):
        got += os.read(reading, 65536)
    thread.join(DEADLINE_S)
    assert got == data
    assert task_input.withdraw(sent) == 0
    last = task_input.send(b"the end", ends=True)
    assert task_input.needs_thread()
    task_input.run()
    assert (task_input.fd, task_input.withdraw(last)) == (None, 0)
    assert os.read(reading, 100) + os.read(reading, 100) == b"the end"
    assert task_input.send(b"more") is None
    os.close(reading)


# ---------------------------------------------------------------- terminals


@posix_only
@shared
def test_a_terminal_is_a_real_one(manager):
    """All three descriptors and /dev/tty are one terminal, with a size and a name."""
    code = (
        "import os, sys\n"
        "print([os.isatty(fd) for fd in (0, 1, 2)], os.get_terminal_size(), os.environ['TERM'])\n"
        "print(os.ttyname(0) == os.ttyname(1), os.tcgetpgrp(0) == os.getpgrp())\n"
        "print(os.isatty(os.open('/dev/tty', os.O_RDWR)), 'LINES' in os.environ)"
    )
    status, output = run(manager, python(code), pty=True)
    assert output.split("\n") == [
        "[True, True, True] os.terminal_size(columns=120, lines=40) xterm-256color",
        "True True",
        "True False",
    ]
    assert (status.exit_code, status.output_open, status.input_open) == (0, False, False)
    assert run(manager, "echo $TERM; exit 3", pty=True, env={"TERM": "dumb"})[1] == "dumb"


@posix_only
def test_no_output_of_a_terminal_is_lost(manager):
    """What a program prints before it exits is there, of many short ones and of a long one."""
    for number in range(30):
        assert run(manager, "echo line %d" % number, pty=True)[1] == "line %d" % number
    status, _ = run(manager, "yes 'a line of some length' | head -n 100000", pty=True)
    assert (status.total_lines, status.total_bytes) == (100000, 100000 * 23)


@posix_only
@shared
def test_control_keys_reach_the_program(manager):
    """ctrl-c interrupts it, ctrl-d ends its input, and neither touches anything else."""
    task_id = manager.start(
        python(
            # It waits for the signal. A handler could be told of it just before input() waits
            # for a line, and would then run only when there is one.
            "import signal\n"
            "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}); print('ready')\n"
            "signal.sigwait({signal.SIGINT}); print('interrupted')\n"
            "while True:\n"
            "    try: print('got', input())\n"
            "    except EOFError: break\n"
            "print('end')"
        ),
        pty=True,
    ).task_id

    def printed(text):
        wait = manager.watch([task_id], [text])
        assert wait.run(DEADLINE_S)
        return wait.events[task_id].reason == "output"

    assert printed("ready")
    manager.send_input(task_id, keys=["ctrl-c"])
    assert printed("interrupted")
    manager.send_input(task_id, "hello", enter=True)
    assert printed("got hello")
    manager.send_input(task_id, keys=["ctrl-d"])
    assert printed("end")
    assert manager.wait(task_id, timeout_s=DEADLINE_S).exit_code == 0


@posix_only
@shared
def test_a_program_that_asks_for_the_cursor_gets_an_answer(manager):
    """ESC[6n is answered as a terminal answers it, without a newline or anybody's help."""
    code = (
        "import os, sys, tty\n"
        "tty.setraw(0)\n"
        "os.write(1, b'one\\r\\ntwo\\x1b[6n')\n"
        "answer = b''\n"
        "while not answer.endswith(b'R'): answer += os.read(0, 1)\n"
        "os.write(1, repr(answer).encode())"
    )
    assert run(manager, python(code), pty=True)[1] == "one\ntwob'\\x1b[2;4R'"


@posix_only
def test_a_flood_of_questions_stalls_nobody(manager):
    """A program that asks without end, and never reads, is read all the same."""
    flood = manager.start("yes $(printf '\\033[6n\\033[c')", pty=True).task_id
    eventually(lambda: manager.status(flood).total_bytes > 1_000_000, "a million bytes")
    assert run(manager, "echo fine", pty=True)[1] == "fine"
    status, _ = run(manager, "yes | head -c 10000000")
    assert (status.total_bytes, status.exit_code) == (10_000_000, 0)
    assert manager.end(flood, grace_s=0).is_final


@linux_only
def test_terminals_leave_nothing_open(manager):
    """Many of them later no descriptor more is open."""
    run(manager, "true", pty=True)
    before = open_descriptors()
    for _ in range(5):
        ids = [manager.start("echo x; exec cat", pty=True).task_id for _ in range(5)]
        for task_id in ids:
            manager.end(task_id, grace_s=0)
    eventually(lambda: open_descriptors() <= before, "the closing of all")


@linux_only
def test_what_is_left_on_a_terminal_ends_with_its_task():
    """A server that is killed leaves nobody behind, on terminals neither."""
    mark = new_mark()
    with Client() as client:
        client.open()
        client.start("setsid sleep %s & sleep %s" % (mark, mark), pty=True)
        eventually(lambda: len(processes_with("sleep\0" + mark)) == 2, "both")
        client.process.kill()
        eventually(lambda: not processes_with("sleep\0" + mark), "the end of both")


@pytest.mark.skipif(sys.platform != "win32", reason="there are terminals here")
def test_without_terminals_a_pty_is_refused():
    """Where the platform has none, the answer says so."""
    with TaskManager() as manager, pytest.raises(InvalidValue, match="no terminals on this system"):
        manager.start("echo x", pty=True)


# ---------------------------------------------------------------- as an agent does it


REPL_LINES = [
    ("6 * 7", "42"),
    ("for i in range(2):\n    print('step', i)\n", "step 0\nstep 1"),
    ("import time; time.sleep(0.2); print('slept')", "slept"),
    ("no_such_name", "NameError: name 'no_such_name' is not defined"),
    ("'\u00fc' * 3", "'\u00fc\u00fc\u00fc'"),
]


@posix_only
@shared
@pytest.mark.parametrize("pty", [True, False])
def test_a_repl_is_driven_one_call_a_line(legacy_client, pty):
    """Each call sends a line and returns with the next prompt, and what was printed before it."""
    client = legacy_client
    task = client.call(
        "run_background_task",
        command="exec %s -u -i -q" % sys.executable,
        env={"PYTHONIOENCODING": "utf-8"},
        name="repl",
        until_output=[">>> "],
        wait_seconds=DEADLINE_S,
        **({"pty": True} if pty else {"interactive": True}),
    ).structured
    assert (task["reason"], task["matched_line"]) == ("output", ">>> ")
    for line, shown in REPL_LINES:
        result = client.call(
            "send_task_input",
            task_id="repl",
            input=line,
            until_output=[">>> "],
            wait_seconds=DEADLINE_S,
        )
        answer = result.structured
        assert answer["reason"] == "output", answer
        assert shown in answer["output"]
        assert re.search(r"(^|\n)(\.\.\. )*>>> $", answer["output"]), answer["output"]
        assert answer["written_bytes"] == len(line.encode()) + 1
        assert result.text.startswith("Sent %d bytes to task " % answer["written_bytes"])
    last = client.call("send_task_input", task_id="repl", close=True, wait_seconds=DEADLINE_S)
    assert (last.structured["reason"], last.structured["exit_code"]) == ("exited", 0)


@posix_only
@shared
def test_a_password_is_asked_for_and_not_shown(legacy_client):
    """A prompt without a newline is seen, and what is typed at it is not in the output."""
    client = legacy_client
    code = "import getpass; print(len(getpass.getpass('Password: ')), 'letters')"
    task = client.call(
        "run_background_task", command=python(code), pty=True, until_output=["Password:"]
    ).structured
    assert (task["reason"], task["matched_line"]) == ("output", "Password: ")
    answer = client.call(
        "send_task_input", task_id=task["task_id"], input="secret", wait_seconds=DEADLINE_S
    ).structured
    assert (answer["reason"], answer["output"]) == ("exited", "\n6 letters")
    assert "secret" not in client.status(task["task_id"])["output"]


@posix_only
@shared
@pytest.mark.parametrize("modes", ["-echo", "raw -echo"])
def test_an_answer_that_ends_in_what_was_typed_is_one(legacy_client, modes):
    """Where a terminal does not show what is typed, nothing of it is taken for that."""
    client = legacy_client
    command = "stty %s; echo go; head -c 1 >/dev/null; echo ready; exec sleep 600" % modes
    task = client.call(
        "run_background_task", command=command, pty=True, until_output=["go"]
    ).structured
    answer = client.call(
        "send_task_input", task_id=task["task_id"], input="y", until_output=["ready"]
    ).structured
    assert (answer["reason"], answer["matched_line"]) == ("output", "ready")


@posix_only
@shared
def test_what_was_typed_is_no_answer_to_a_later_wait_either(legacy_client):
    """A wait with the cursor of an input knows what the terminal shows of it."""
    client = legacy_client
    task_id = client.start("PS1='$ ' exec sh -i", pty=True)["task_id"]
    client.call("wait_for_task", task_id=task_id, until_output=["$ "])
    sent = client.call("send_task_input", task_id=task_id, input="sleep 0.2; echo DO''NE DONE")
    facts = client.call(
        "wait_for_task",
        task_id=task_id,
        cursor=sent.structured["next_cursor"],
        until_output=["DONE"],
    ).structured
    assert (facts["reason"], facts["matched_line"]) == ("output", "DONE DONE")


@posix_only
@shared
def test_typing_at_a_terminal_is_as_at_a_keyboard(legacy_client):
    """Backspace takes a whole character, and the end of the input ends it behind part of a line
    too; a line that is too long for a terminal is refused, for it would drop the rest."""
    client = legacy_client
    task_id = client.start("exec cat", pty=True)["task_id"]
    client.call("send_task_input", task_id=task_id, input="h\u00e9", keys=["backspace", "enter"])
    eventually(lambda: client.status(task_id)["output"].split("\n")[1:] == ["h"], "the line")
    refused = client.call("send_task_input", task_id=task_id, input="x" * 5000)
    assert refused.is_error
    assert "must have no line of more than" in refused.text
    facts = client.call(
        "send_task_input",
        task_id=task_id,
        input="part",
        enter=False,
        close=True,
        wait_seconds=DEADLINE_S,
    ).structured
    assert (facts["reason"], facts["input_open"]) == ("exited", False)
    assert facts["output"].endswith("partpart")


@posix_only
@shared
def test_a_send_says_what_to_do_next(legacy_client):
    """Without a wait it answers at once, with the cursor from which the reaction is read."""
    client = legacy_client
    task_id = client.start("cat", interactive=True)["task_id"]
    result = client.call("send_task_input", task_id=task_id, input="hello")
    assert (result.structured["written_bytes"], result.structured["input_open"]) == (6, True)
    assert result.structured["next_cursor"] == "0+0"
    assert 'cursor "0+0"' in result.text
    waited = client.call(
        "wait_for_task", task_id=task_id, cursor="0+0", until_output=["hello"]
    ).structured
    assert (waited["reason"], waited["output"]) == ("output", "hello")
    assert "takes input by send_task_input" in client.call("get_task_status", task_id=task_id).text
    result = client.call("send_task_input", task_id=task_id, input="", until_quiet_seconds=0.2)
    assert (result.structured["written_bytes"], result.structured["reason"]) == (1, "quiet")


@posix_only
@shared
def test_a_program_that_does_not_read_keeps_nobody_waiting(legacy_client):
    """The answer comes after a second, counts what was not read, and other calls go on."""
    client = legacy_client
    task_id = client.start("exec sleep 600", interactive=True)["task_id"]
    before = time.monotonic()
    send = client.send_call("send_task_input", task_id=task_id, input="x" * 500_000)
    assert client.status(task_id)["status"] == "running"
    result = client.tool_result("send_task_input", send)
    assert time.monotonic() - before < 10
    facts = result.structured
    assert facts["written_bytes"] + facts["unwritten_bytes"] == 500_001
    assert facts["unwritten_bytes"] > 100_000
    assert "more could not be written, and will not be: the program does not read" in result.text


@posix_only
@shared
def test_a_wrong_input_is_explained(legacy_client):
    """What cannot be sent is named, and nothing is sent."""
    task_id = legacy_client.start("exec cat", pty=True)["task_id"]
    for arguments, complaint in (
        ({}, "there is nothing to send"),
        ({"input": "", "enter": False}, "there is nothing to send"),
        ({"keys": ["ctl-c"]}, "keys has the unknown name 'ctl-c'; there are"),
        ({"keys": ["up"], "enter": "yes"}, "enter must be true or false"),
        ({"input": 5}, "input must be a string"),
    ):
        result = legacy_client.call("send_task_input", task_id=task_id, **arguments)
        assert result.is_error, arguments
        assert complaint in result.text
    assert legacy_client.status(task_id)["total_bytes"] == 0


@linux_only
@shared
def test_a_terminal_belongs_to_its_task_alone(manager):
    """An end by signal ends all that is on the terminal."""
    task_id = manager.start("sleep 600 & echo $!; exec cat", pty=True).task_id
    eventually(lambda: manager.status(task_id).total_lines == 1, "the pid")
    pid = int(manager.output(task_id).text)
    assert is_alive(pid)
    assert manager.end(task_id).status == "terminated"
    assert not is_alive(pid)
