"""The library: TaskManager with real commands, without MCP."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from backgroundr import (
    Cancelled,
    CancelToken,
    InvalidValue,
    ManagerClosed,
    SpawnFailed,
    TaskManager,
    UnknownTask,
)
from backgroundr.proctree import survey

if sys.platform != "win32":
    from backgroundr import proctable

from .forms import PACKAGE
from .programs import (
    CLEAN_UP_ON_TERM,
    DEADLINE_S,
    EXIT_0,
    EXIT_3,
    HELLO,
    IGNORE_TERM,
    OUT_AND_ERR,
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


def run(manager, command, **settings):
    """Start a command and return its status once it is over."""
    task = manager.start(command, **settings)
    return manager.wait(task.task_id, timeout_s=DEADLINE_S)


def start_and_see(manager, command, text):
    """Start a command; return its id once it has printed the line `text`."""
    task_id = manager.start(command).task_id

    def seen():
        # With the end of its line, which a program may write a moment later.
        output = manager.output(task_id)
        return text in output.text and output.total_bytes > len(text)

    eventually(seen, "%r in the output" % text)
    return task_id


# ---------------------------------------------------------------- a life


def test_a_command_completes():
    """A manager runs a command to its end and keeps what it printed."""
    with TaskManager() as manager:
        started = manager.start(HELLO, name="greeting")
        assert (started.status, started.name, started.exit_code) == ("running", "greeting", None)
        ended = manager.wait(started.task_id, timeout_s=DEADLINE_S)
        assert (ended.status, ended.exit_code, ended.signal) == ("completed", 0, None)
        assert ended.started_at <= ended.ended_at
        assert manager.output(started.task_id).text == "hello"
    assert manager.output(started.task_id).text == "hello"


@posix_only
@shared
@pytest.mark.parametrize("code", [0, 1, 2, 42, 126, 127, 143, 255])
def test_the_exit_code_is_the_commands_own(manager, code):
    """A status tells the code that the command exited with."""
    task = run(manager, "exit %d" % code)
    assert (task.exit_code, task.signal) == (code, None)
    assert task.status == ("completed" if code == 0 else "failed")


@posix_only
@shared
def test_a_command_that_does_not_exist_fails_with_the_shells_word(manager):
    """A shell's 127 comes with what the shell said."""
    task = run(manager, "no-such-command-here")
    assert (task.status, task.exit_code) == ("failed", 127)
    assert "not found" in manager.output(task.task_id, stream="stderr").text


@posix_only
@shared
@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL", "SIGSEGV"])
def test_a_death_by_signal_names_the_signal(manager, name):
    """A command that dies of a signal nobody here sent has failed, of that signal."""
    task = run(manager, "kill -%s $$" % name[3:])
    assert (task.status, task.exit_code, task.signal) == ("failed", None, name)
    assert not task.kill_requested


@shared
def test_the_last_line_is_there_when_the_status_is_final(manager):
    """Nothing that is printed just before the exit is missing, however often one tries."""
    code = "import os; os.write(1, b'x' * 60000 + b' last out'); os.write(2, b'last err')"
    for _ in range(10):
        task = run(manager, python(code))
        assert manager.output(task.task_id, stream="stdout").text.endswith("last out")
        assert manager.output(task.task_id, stream="stderr").text == "last err"


@posix_only
@shared
def test_a_command_that_fails_at_once_shows_its_error(manager):
    """A failure within the first millisecond is seen, with its stderr."""
    tasks = [manager.start("echo cannot start >&2; exit 5") for _ in range(10)]
    for task in tasks:
        assert manager.wait(task.task_id, timeout_s=DEADLINE_S).exit_code == 5
        assert manager.output(task.task_id).text == "cannot start"


@posix_only
@shared
def test_a_child_that_holds_the_pipe_does_not_delay_the_end(manager):
    """A command is over when its shell is, and what its child prints later is kept."""
    task = run(manager, "(sleep 0.5; echo late; exec sleep 600) & echo done")
    assert (task.status, task.output_open) == ("completed", True)
    assert task.runtime_s < 0.4
    assert manager.output(task.task_id).text == "done"
    eventually(lambda: manager.output(task.task_id).text == "done\nlate", "the late line")


@shared
def test_output_is_told_apart_and_in_order(manager):
    """Output can be read for both streams in order of arrival, or for one."""
    task = run(manager, OUT_AND_ERR)
    assert manager.output(task.task_id).text == "to stdout\nto stderr"
    assert manager.output(task.task_id, stream="stdout").text == "to stdout"
    assert manager.output(task.task_id, stream="stderr").text == "to stderr"


@shared
def test_the_tail_says_what_it_leaves_out(manager):
    """Asked for some lines, a manager gives the last ones and counts the others."""
    task = run(manager, python("for i in range(100): print(i)"))
    output = manager.output(task.task_id, tail_lines=3)
    assert output.text == "97\n98\n99"
    assert (output.shown_lines, output.earlier_lines, output.status.total_lines) == (3, 97, 100)
    nothing = manager.output(task.task_id, tail_lines=0)
    assert (nothing.text, nothing.shown_lines, nothing.earlier_lines) == ("", 0, 100)
    everything = manager.output(task.task_id, tail_lines=1000)
    assert (everything.shown_lines, everything.earlier_bytes) == (100, 0)


@pytest.mark.parametrize(
    "options",
    [
        {"buffer_bytes": 1e4},
        {"buffer_bytes": 0},
        {"max_tasks": 0},
        {"finished_buffer_bytes": -1},
        {"log_bytes": 1e9},
        {"log_dir": b"logs"},
    ],
)
def test_options_that_are_none_are_refused(options):
    """A manager is not made with a number or a path that would fail it later, on its threads."""
    with pytest.raises(InvalidValue) as refused:
        TaskManager(**options)
    assert refused.value.argument == next(iter(options))


@shared
@pytest.mark.parametrize("contains", [[""], ["a\nb"], [1], ""])
def test_what_cannot_be_looked_for_is_refused(manager, contains):
    """A search is for texts of one line."""
    task_id = manager.start(EXIT_0).task_id
    with pytest.raises(InvalidValue):
        manager.read_output(task_id, contains=contains)


@shared
def test_lines_are_looked_for_in_the_library(manager):
    """What is looked for may come from any iterable, or be one text."""
    task_id = manager.start(python("print('one'); print('two')")).task_id
    manager.wait(task_id)
    assert manager.read_output(task_id, contains=(one for one in ["two"])).text == "two\n"
    assert manager.read_output(task_id, contains="two").text == "two\n"


def test_a_flood_is_bounded_and_counted():
    """Of more output than the buffer holds the end is kept, and all of it is counted."""
    with TaskManager(buffer_bytes=100000) as manager:
        task = run(manager, python("print(''.join('%09d\\n' % i for i in range(200000)), end='')"))
        output = manager.output(task.task_id, tail_lines=10**6)
        assert (task.total_lines, task.total_bytes) == (200000, 2000000)
        assert output.text.endswith("000199999")
        assert 90000 < len(output.text) < 100000
        assert output.earlier_bytes + len(output.text) + 1 == task.total_bytes


# ---------------------------------------------------------------- what a command gets


@shared
def test_stdin_is_empty(manager):
    """A command that reads its stdin meets the end at once."""
    task = run(manager, python("import sys; print(repr(sys.stdin.read()))"))
    assert manager.output(task.task_id).text == "''"


@posix_only
@shared
def test_there_is_no_terminal_to_ask_on(manager):
    """A command has no controlling terminal, so nothing can stop to ask for a password."""
    task = run(manager, python("open('/dev/tty')"))
    assert task.exit_code == 1
    assert "OSError" in manager.output(task.task_id).text


@linux_only
def test_no_descriptor_is_inherited(manager):
    """A command sees its three streams and no other descriptor of the process."""
    read_fd, write_fd = os.pipe()
    os.set_inheritable(write_fd, True)
    try:
        task = run(manager, "ls /proc/self/fd")
    finally:
        os.close(read_fd)
        os.close(write_fd)
    # 3 is the directory that ls itself reads.
    assert manager.output(task.task_id).text == "0\n1\n2\n3"


@shared
def test_directory_and_environment_are_as_asked(manager, tmp_path):
    """A command runs in the directory given, with the entries given beside the inherited."""
    code = "import os; print(os.getcwd()); print(os.environ['GREETING'], 'PATH' in os.environ)"
    task = run(manager, python(code), cwd=str(tmp_path), env={"GREETING": "grüß dich"})
    lines = manager.output(task.task_id).text.split("\n")
    assert os.path.realpath(lines[0]) == os.path.realpath(str(tmp_path))
    assert lines[1] == "grüß dich True"
    assert task.cwd == str(tmp_path)


@shared
def test_a_home_directory_may_be_written_short(manager, monkeypatch, tmp_path):
    """The directory may begin with ~."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "project").mkdir()
    assert run(manager, EXIT_0, cwd="~/project").cwd == str(tmp_path / "project")


@posix_only
def test_a_command_in_any_script_arrives_whole_in_a_c_locale(tmp_path):
    """Command, directory and environment are not bound to the locale's characters."""
    directory = tmp_path / "día"
    directory.mkdir()
    program = (
        f"from {PACKAGE} import TaskManager\n"
        "with TaskManager() as m:\n"
        "    t = m.start('echo né 日本 $X; pwd', cwd=%r, env={'X': '✓'})\n"
        "    m.wait(t.task_id, 10)\n"
        "    print(ascii(m.output(t.task_id).text))\n" % str(directory)
    )
    for settings in (
        {"LC_ALL": "C"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ):
        shown = subprocess.run(
            [sys.executable, "-c", program.encode("ascii", "backslashreplace").decode()],
            env={**os.environ, "PYTHONIOENCODING": "utf-8", **settings},
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
        assert eval(shown) == "né 日本 ✓\n%s" % directory


@posix_only
def test_another_shell_can_be_chosen(tmp_path):
    """The shell is the one that the manager was given."""
    shell = tmp_path / "shell"
    shell.write_text('#!/bin/sh\necho "chosen: $1 $2"\n')
    shell.chmod(0o755)
    with TaskManager(shell=str(shell)) as manager:
        task = run(manager, "ls -l")
        assert manager.output(task.task_id).text == "chosen: -c ls -l"


# ---------------------------------------------------------------- waiting


@shared
def test_a_wait_ends_with_its_time(manager):
    """A wait that runs out tells a status that is not final, and the task runs on."""
    task = manager.start(SLEEP)
    assert manager.wait(task.task_id, timeout_s=0.05).status == "running"
    assert manager.wait(task.task_id, timeout_s=0).status == "running"


@shared
def test_a_wait_can_be_cancelled(manager):
    """A cancelled wait raises Cancelled at once, whenever the cancellation came."""
    task = manager.start(SLEEP)
    cancel = CancelToken()
    raised = []

    def wait():
        try:
            manager.wait(task.task_id, cancel=cancel)
        except Cancelled as error:
            raised.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    cancel.cancel()
    thread.join(DEADLINE_S)
    assert len(raised) == 1
    with pytest.raises(Cancelled):
        manager.wait(task.task_id, cancel=cancel)
    assert manager.status(task.task_id).status == "running"


@shared
def test_many_wait_for_the_same_end(manager):
    """Every wait for a task returns when it ends."""
    task = manager.start(SLEEP)
    seen = []
    threads = [
        threading.Thread(target=lambda: seen.append(manager.wait(task.task_id).status))
        for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    manager.end(task.task_id)
    for thread in threads:
        thread.join(DEADLINE_S)
    assert seen == ["terminated"] * 20


@posix_only
def test_many_who_ask_share_a_look_at_the_system(manager, monkeypatch):
    """What a finished task left is counted once for all who ask meanwhile, and never earlier
    than they asked."""
    mark = new_mark()
    task_id = run(manager, "sleep %s & echo started" % mark).task_id
    looks = []
    gate = threading.Event()

    def slow_survey(trees):
        looks.append(trees)
        assert gate.wait(DEADLINE_S)
        return survey(trees)

    monkeypatch.setattr("backgroundr.manager.survey", slow_survey)
    seen = []

    def ask():
        seen.append(manager.status(task_id).processes_left)

    first = threading.Thread(target=ask)
    first.start()
    eventually(lambda: looks, "the first look")
    others = [threading.Thread(target=ask) for _ in range(20)]
    for thread in others:
        thread.start()
    eventually(lambda: sum(one.is_alive() for one in others) == 20, "all of them")
    gate.set()
    for thread in [first, *others]:
        thread.join(DEADLINE_S)
    assert seen == [1] * 21
    assert 2 <= len(looks) < 10


# ---------------------------------------------------------------- ending


@shared
def test_end_terminates(manager):
    """A task that is ended is terminated, whatever it would have done."""
    task = manager.start(SLEEP)
    ended = manager.end(task.task_id)
    assert (ended.status, ended.kill_requested) == ("terminated", True)
    if sys.platform != "win32":
        assert (ended.exit_code, ended.signal) == (None, "SIGTERM")


@posix_only
@shared
def test_end_gives_time_to_clean_up(manager):
    """A command that cleans up on SIGTERM gets to, and its own exit code is told."""
    task_id = start_and_see(manager, CLEAN_UP_ON_TERM, "ready")
    ended = manager.end(task_id)
    assert (ended.status, ended.exit_code, ended.signal) == ("terminated", 7, None)
    assert manager.output(task_id).text == "ready\ncleaned up"


@posix_only
@shared
def test_a_shell_that_cleans_up_may_start_programs_for_it(manager):
    """What a trap runs after SIGTERM is not itself told to end."""
    command = "trap 'sleep 0.3 && echo swept; exit 0' TERM; echo ready; while :; do sleep 0.1; done"
    task_id = start_and_see(manager, command, "ready")
    assert manager.end(task_id).exit_code == 0
    assert manager.output(task_id, stream="stdout").text == "ready\nswept"


@posix_only
@shared
def test_end_kills_what_ignores_the_signal(manager):
    """A task that does not end within the grace is killed, and stopping until then."""
    task_id = start_and_see(manager, IGNORE_TERM, "ready")
    before = manager.request_end(task_id, grace_s=0.3)
    assert (before.status, before.kill_requested) == ("running", False)
    meanwhile = manager.status(task_id)
    assert (meanwhile.status, meanwhile.kill_requested) == ("stopping", True)
    ended = manager.wait(task_id, timeout_s=DEADLINE_S)
    assert (ended.status, ended.signal) == ("terminated", "SIGKILL")
    assert ended.runtime_s >= 0.3


@posix_only
@shared
def test_a_second_end_can_be_harder(manager):
    """Ending again with SIGKILL does not wait for the grace of the first."""
    task_id = start_and_see(manager, IGNORE_TERM, "ready")
    manager.request_end(task_id, grace_s=600)
    assert manager.end(task_id, signal="SIGKILL").signal == "SIGKILL"


@posix_only
def test_a_close_does_not_signal_who_is_ending_already(tmp_path):
    """A program that takes a second SIGTERM for haste gets one, and only less time."""
    script = (
        "import signal, sys, time\n"
        "def stop(*_):\n"
        "    open('terms', 'a').write('TERM ')\n"
        "    time.sleep(0.5)\n"
        "    open('terms', 'a').write('done')\n"
        "    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "print('ready')\n"
        "time.sleep(600)\n"
    )
    terms = tmp_path / "terms"
    with TaskManager() as manager:
        task_id = manager.start(python(script), cwd=str(tmp_path)).task_id
        eventually(lambda: manager.output(task_id).total_bytes, "the handler")
        manager.request_end(task_id)
        eventually(terms.exists, "the signal")
        manager.close(5)
    assert terms.read_text() == "TERM done"


@posix_only
@shared
@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP", "SIGQUIT", "term", "KILL"])
def test_end_sends_the_signal_asked_for(manager, name):
    """A task gets the signal that was named, in either spelling."""
    task = manager.start("exec sleep 600")
    number = getattr(signal, "SIG" + name.upper().replace("SIG", ""))
    assert manager.end(task.task_id, signal=name).signal == number.name


@shared
def test_ending_what_is_over_changes_nothing(manager):
    """A finished task stays as it was when it is ended."""
    task = run(manager, EXIT_3)
    again = manager.end(task.task_id)
    assert (again.status, again.exit_code, again.kill_requested) == ("failed", 3, False)
    assert manager.request_end(task.task_id).is_final


@posix_only
@shared
def test_twenty_ends_at_once_get_one_answer(manager):
    """All who end a task at the same time are told the same end."""
    task_id = start_and_see(manager, CLEAN_UP_ON_TERM, "ready")
    seen = []
    threads = [
        threading.Thread(target=lambda: seen.append(manager.end(task_id))) for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert {(task.status, task.ended_at) for task in seen} == {
        ("terminated", manager.status(task_id).ended_at)
    }


@linux_only
@shared
@pytest.mark.parametrize(
    "command",
    [
        "sh -c 'sleep {0} & sleep {0}' & wait",
        "sleep {0} | sleep {0}",
        "nohup sleep {0} & wait",
        "set -m; sleep {0} & wait",
        "setsid sleep {0} & wait",
        "(setsid sh -c 'sleep {0} & sleep {0} &' &) ; sleep {0}",
        "trap '' TERM INT HUP; sleep {0} & sleep {0}",
        "setsid sleep {0} & sleep {0} & kill -STOP $!; wait",
    ],
    ids=["nested", "pipeline", "nohup", "job control", "setsid", "daemon", "ignoring", "stopped"],
)
def test_end_reaches_the_whole_tree(manager, command):
    """Ending a task ends every process that came of it, also one in a session of its own."""
    mark = new_mark()
    task = manager.start(command.format(mark))
    eventually(lambda: len(processes_with("sleep\0" + mark)) >= 1, "the tree to stand")
    manager.end(task.task_id, grace_s=0.3)
    assert processes_with(mark) == []


@linux_only
def test_what_a_finished_command_left_is_counted_and_ended(manager):
    """A finished task tells who is left of it, and ending it ends them and waits for that."""
    task = run(manager, "setsid sleep 600 & sh -c \"trap '' TERM; sleep 600\" & sleep 0.2")
    assert (task.status, task.processes_left) == ("completed", 3)
    ended = manager.end(task.task_id, grace_s=0.2)
    assert (ended.status, ended.processes_left, ended.kill_requested) == ("completed", 0, False)
    assert manager.list()[0].processes_left == 0


@linux_only
def test_what_cannot_be_killed_does_not_hold_the_answer(monkeypatch):
    """An ending is given up when a process does not go, and tells that it is left."""
    with TaskManager() as manager:
        mark = new_mark()
        task = manager.start("setsid sleep %s & wait" % mark)
        # Not before it has left the group, which can be killed without a look.
        eventually(lambda: processes_with("sleep\0" + mark), "the process")
        with monkeypatch.context() as patch:
            patch.setattr("backgroundr.ending.KILL_PATIENCE_S", 0.2)
            # As it is for a process of another user.
            patch.setattr(proctable, "signal_member", lambda member, number: None)
            ended = manager.end(task.task_id, grace_s=0)
            assert (ended.status, ended.processes_left) == ("terminated", 1)
            manager.close(grace_s=0)
            began = time.monotonic()
            manager.close()
            assert time.monotonic() - began < 0.5
        assert manager.wait(task.task_id).status == "terminated"
        for member in survey([tree_of(manager, task)]).popitem()[1]:
            os.kill(member.pid, signal.SIGKILL)


def tree_of(manager, task):
    return manager._tasks[task.task_id].tree


@posix_only
def test_a_host_that_ignores_its_children_is_survived():
    """Where SIGCHLD is ignored, exit codes are lost, but every task still comes to its end."""
    program = (
        "import signal, time\n"
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        f"from {PACKAGE} import TaskManager\n"
        "with TaskManager() as m:\n"
        "    print(m.wait(m.start('exit 5').task_id, 10).status in ('completed', 'failed'))\n"
        "    print(m.end(m.start('sleep 600').task_id).status)\n"
        "    m.start('sleep 600')\n"
        "    began = time.monotonic()\n"
        "print(time.monotonic() - began < 1)\n"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert shown.stdout.decode().split() == ["True", "terminated", "True"]
    assert shown.stderr == b""


@linux_only
@shared
def test_a_stopping_task_is_over_only_with_its_last_process(manager):
    """A task whose shell went at once is stopping while a process of it has its grace."""
    mark = new_mark()
    child = "trap 'sleep 0.4; exit' TERM; echo ready; while :; do sleep 0.05; done"
    task_id = start_and_see(manager, 'sh -c "%s" %s & wait' % (child, mark), "ready")
    ended = manager.end(task_id)
    assert (ended.status, ended.signal) == ("terminated", "SIGTERM")
    assert processes_with(mark) == []


@shared
def test_a_time_limit_ends_the_task(manager):
    """A task that runs longer than it may is timed out; one that does not is not."""
    late = manager.start(SLEEP, timeout_s=0.2)
    quick = manager.start(HELLO, timeout_s=600)
    ended = manager.wait(late.task_id, timeout_s=DEADLINE_S)
    assert (ended.status, ended.kill_requested) == ("timed_out", True)
    assert ended.runtime_s >= 0.2
    assert manager.wait(quick.task_id, timeout_s=DEADLINE_S).status == "completed"


@shared
def test_time_limits_are_kept_in_any_order(manager):
    """The shortest limit comes first, whenever its task was started."""
    tasks = [manager.start(SLEEP, timeout_s=limit) for limit in (600, 0.4, 0.2, 0.3)]
    for task in tasks[1:]:
        assert manager.wait(task.task_id, timeout_s=DEADLINE_S).status == "timed_out"
    assert manager.status(tasks[0].task_id).status == "running"


# ---------------------------------------------------------------- the table


def test_tasks_are_listed_oldest_first(manager):
    """A list has every task in the order of the starts, or those with one status."""
    first, second = run(manager, EXIT_0), run(manager, EXIT_3)
    third = manager.start(SLEEP)
    ids = [first.task_id, second.task_id, third.task_id]
    assert [task.task_id for task in manager.list()] == ids
    assert [task.task_id for task in manager.list("failed")] == ids[1:2]
    assert [task.task_id for task in manager.list("running")] == ids[2:]
    assert manager.list("timed_out") == []


@shared
def test_ids_are_short_and_random(manager):
    """An id is a letter and 40 random bits, in letters that are not mistaken."""
    ids = {manager.start(EXIT_0).task_id for _ in range(10)}
    assert len(ids) == 10
    assert all(re.fullmatch("t[0-9a-hjkmnp-tv-z]{8}", task_id) for task_id in ids)


def test_changes_are_told():
    """Whoever wants to know is told that a task started, printed, is stopping, and ended."""
    told = queue.Queue()
    with TaskManager(on_change=lambda task_id, change: told.put((task_id, change))) as manager:

        def await_change(change):
            while told.get(timeout=DEADLINE_S) != (task.task_id, change):
                pass

        task = manager.start(IGNORE_TERM)
        await_change("start")
        await_change("output")
        assert manager.status(task.task_id).last_output_at >= task.started_at
        manager.request_end(task.task_id, grace_s=0.3)
        await_change("status")
        assert manager.status(task.task_id).status == "stopping"
        await_change("status")
        assert manager.status(task.task_id).status == "terminated"

        task = manager.start(EXIT_0)
        await_change("status")
        assert manager.status(task.task_id).status == "completed"
        assert manager.status(task.task_id).last_output_at is None

        task = manager.start(SLEEP, timeout_s=0.2)
        await_change("status")
        assert manager.wait(task.task_id).status == "timed_out"


@shared
def test_a_manager_contains_its_tasks(manager):
    """Whether there is a task with an id can be asked without an error."""
    assert manager.start(EXIT_0).task_id in manager
    assert "t00000000" not in manager


def test_an_unknown_id_is_answered_with_the_known(manager):
    """Every call that names a task says which tasks there are when there is no such one."""
    with pytest.raises(UnknownTask, match="No task was started"):
        manager.status("t0")
    known = [run(manager, EXIT_0).task_id for _ in range(7)]
    for ask in (manager.status, manager.output, manager.wait, manager.end, manager.request_end):
        with pytest.raises(UnknownTask, match="%s, .* and 2 more" % known[-1]) as caught:
            ask("t0")
        assert list(caught.value.known) == known[::-1]


# ---------------------------------------------------------------- what cannot be done


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"command": ""}, "command must not be empty"),
        ({"command": " \n"}, "command must not be empty"),
        ({"command": "echo \0"}, "command must not contain a NUL"),
        ({"command": "echo \ud800"}, "no valid Unicode at position 5"),
        ({"command": 5}, "command must be text, not int"),
        ({"cwd": "/no/such/directory"}, "/no/such/directory is missing"),
        ({"cwd": __file__}, "is a file"),
        ({"cwd": ""}, "cwd must not be empty"),
        ({"cwd": "a\0b"}, "cwd must not contain a NUL"),
        ({"env": {"A=B": "x"}}, "env must not have the name 'A=B'"),
        ({"env": {"": "x"}}, "env must not have the name ''"),
        ({"env": {"A": "\0"}}, "env must not contain a NUL"),
        ({"name": "\0"}, "name must not contain a NUL"),
        ({"timeout_s": -1}, "timeout_s must be between"),
        ({"timeout_s": float("nan")}, "timeout_s must be between"),
        ({"timeout_s": float("inf")}, "timeout_s must be between"),
        ({"timeout_s": "5"}, "timeout_s must be a number"),
    ],
)
def test_what_cannot_be_started_is_refused(manager, settings, complaint):
    """A wrong value is named, and nothing is started."""
    with pytest.raises(InvalidValue, match=complaint):
        manager.start(**{"command": EXIT_0, **settings})
    assert manager.list() == []


@shared
def test_wrong_values_of_other_calls_are_refused(manager):
    """A wrong number, stream, status or signal is named."""
    task_id = run(manager, EXIT_0).task_id
    for tail_lines in (-1, 1.5, True, "3"):
        with pytest.raises(InvalidValue, match="tail_lines must be a whole number"):
            manager.output(task_id, tail_lines=tail_lines)
    with pytest.raises(InvalidValue, match="stream must be one of stdout, stderr"):
        manager.output(task_id, stream="stdin")
    with pytest.raises(InvalidValue, match="status must be one of running"):
        manager.list("paused")
    for name in ("SIGNOPE", "", "SIG_DFL", "9"):
        with pytest.raises(InvalidValue, match="signal must be the name"):
            manager.end(task_id, signal=name)
    with pytest.raises(InvalidValue, match="grace_s must be between"):
        manager.end(task_id, grace_s=1e308)


@posix_only
def test_a_command_too_long_for_the_system_is_refused(manager):
    """A command line beyond the system's limit is answered with what to do instead."""
    with pytest.raises(SpawnFailed, match="script file"):
        manager.start("echo " + "x" * 3_000_000)
    assert manager.list() == []


@posix_only
def test_a_shell_that_is_not_there_is_named():
    """A manager with a wrong shell says so at each start."""
    with TaskManager(shell="/no/such/shell") as manager, pytest.raises(SpawnFailed) as caught:
        manager.start("ls")
    assert "/no/such/shell" in str(caught.value)
    assert "--shell" in str(caught.value)


@posix_only
def test_a_directory_that_may_not_be_entered_is_named(tmp_path):
    """A directory without permission is a clear refusal."""
    program = (
        "import os, sys\n"
        f"from {PACKAGE} import SpawnFailed, TaskManager\n"
        "with TaskManager() as m:\n"
        "    m.wait(m.start('true').task_id)\n"
        "    os.geteuid() or os.setuid(65534)  # root may enter every directory\n"
        "    try:\n"
        "        m.start('ls', cwd=sys.argv[1])\n"
        "    except SpawnFailed as error:\n"
        "        print(error)\n"
    )
    tmp_path.parent.chmod(0o755)
    tmp_path.parent.parent.chmod(0o755)
    tmp_path.chmod(0)
    command = [sys.executable, "-c", program, str(tmp_path)]
    shown = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.decode()
    assert "Permission denied: the working directory '%s'" % tmp_path in shown


@linux_only
def test_without_descriptors_nothing_is_half_started(manager):
    """A start that finds no descriptor free says so, and leaves none open."""
    import resource

    run(manager, EXIT_0)
    steady = eventually(open_descriptors, "the descriptors")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    for spare in range(8):
        resource.setrlimit(resource.RLIMIT_NOFILE, (steady + spare, limits[1]))
        try:
            manager.wait(manager.start("true").task_id, timeout_s=DEADLINE_S)
        except SpawnFailed as error:
            refused = str(error)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert "open file" in refused
    eventually(lambda: open_descriptors() <= steady, "the descriptors to be closed")
    assert run(manager, HELLO).status == "completed"


# ---------------------------------------------------------------- the manager's own end


@linux_only
def test_close_ends_everything():
    """Nothing that was started survives the manager, not even what finished tasks left."""
    mark = new_mark()
    with TaskManager() as manager:
        manager.start("sleep %s" % mark)
        manager.start("setsid sleep %s" % mark)
        left = run(manager, "setsid sleep %s & sleep %s & echo done" % (mark, mark))
        assert left.status == "completed"
        eventually(lambda: len(processes_with("sleep\0" + mark)) == 4, "four processes")
    assert processes_with(mark) == []
    assert [task.status for task in manager.list()] == ["terminated", "terminated", "completed"]


@linux_only
def test_close_gives_every_descriptor_back():
    """A closed manager has no descriptor open, however its tasks ended."""
    before = open_descriptors()
    for _ in range(2):
        with TaskManager() as manager:
            run(manager, EXIT_3)
            for _ in range(3):
                manager.start(SLEEP)
                manager.start("setsid sleep 600 & echo left")
    assert open_descriptors() == before


@posix_only
def test_close_kills_after_one_common_grace():
    """Tasks that ignore the signal are killed together, not one after the other."""
    with TaskManager() as manager:
        for _ in range(5):
            start_and_see(manager, IGNORE_TERM, "ready")
        began = time.monotonic()
        manager.close(grace_s=0.3)
        assert 0.3 <= time.monotonic() - began < 1.3
    assert {task.signal for task in manager.list()} == {"SIGKILL"}


def test_a_closed_manager_starts_nothing_and_still_tells():
    """After close, starts are refused and records stay readable; closing again is nothing."""
    manager = TaskManager()
    task = run(manager, HELLO)
    manager.close()
    manager.close()
    with pytest.raises(ManagerClosed):
        manager.start(HELLO)
    assert manager.output(task.task_id).text == "hello"
    TaskManager().close()


def test_close_ends_the_waits():
    """A call that waits for a task is answered when the manager closes."""
    manager = TaskManager()
    task = manager.start(SLEEP)
    seen = []
    thread = threading.Thread(target=lambda: seen.append(manager.wait(task.task_id).status))
    thread.start()
    manager.close()
    thread.join(DEADLINE_S)
    assert seen == ["terminated"]


def test_starts_that_meet_the_close_leave_nothing():
    """A command that was being started when the manager closed is refused or ended."""
    manager = TaskManager()
    refused = []

    def start():
        try:
            while True:
                manager.start(SLEEP)
        except ManagerClosed as error:
            refused.append(error)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(manager.list()) > 10, "some tasks")
    manager.close()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert len(refused) == 4
    assert {task.status for task in manager.list()} == {"terminated"}
    if sys.platform == "linux":
        assert not any(is_alive(task.pid) for task in manager.list())


@linux_only
def test_two_managers_leave_each_other_alone():
    """Closing one manager ends no task of another in the same process."""
    with TaskManager() as other:
        task = other.start(SLEEP)
        with TaskManager() as manager:
            manager.start("setsid sleep 600 & sleep 600")
        assert other.status(task.task_id).status == "running"


@linux_only
def test_many_short_tasks_leave_no_trace(manager):
    """After many short tasks there is no zombie, no descriptor and no thread more."""
    run(manager, "true")
    descriptors, threads = open_descriptors(), threading.active_count()
    tasks = [manager.start("echo $$; exit 1") for _ in range(30)]
    for task in tasks:
        assert manager.wait(task.task_id, timeout_s=DEADLINE_S).exit_code == 1
        assert manager.output(task.task_id).text == str(task.pid)
    assert not any(os.path.exists("/proc/%d" % task.pid) for task in tasks)
    eventually(lambda: open_descriptors() <= descriptors, "the descriptors to be closed")
    eventually(lambda: threading.active_count() <= threads, "the threads to end")


@posix_only
def test_a_manager_touches_nothing_of_its_host(capfd):
    """A manager installs no signal handler, prints nothing, and leaves no thread."""
    threads = threading.active_count()
    handlers = [signal.getsignal(number) for number in range(1, 32)]
    with TaskManager() as manager:
        run(manager, OUT_AND_ERR)
        manager.end(manager.start(SLEEP).task_id)
        assert [signal.getsignal(number) for number in range(1, 32)] == handlers
    assert capfd.readouterr() == ("", "")
    eventually(lambda: threading.active_count() <= threads, "the threads to end")
