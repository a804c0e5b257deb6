"""The guardian: what it is like, when it comes and goes, and that somebody always guards."""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest

from backgroundr import TaskManager

from .client import ENVIRONMENT, Client
from .forms import PACKAGE
from .programs import eventually, is_alive, linux_only, new_mark, processes_with

pytestmark = linux_only


def children_of(pid):
    """Return the pids of a process's children, oldest first."""
    found = []
    for thread in os.listdir("/proc/%d/task" % pid):
        with open("/proc/%d/task/%s/children" % (pid, thread)) as file:
            found += map(int, file.read().split())
    return sorted(found)


def guardians_of(pid):
    return [
        child
        for child in children_of(pid)
        if child in processes_with("guardian of background tasks")
    ]


def test_it_comes_with_the_first_task_and_goes_with_the_server():
    """There is one guardian, not before it is needed and not after."""
    with Client() as client:
        client.open()
        client.call("list_background_tasks")
        assert children_of(client.process.pid) == []
        client.start("exec sleep 600")
        (guardian,) = eventually(lambda: guardians_of(client.process.pid), "the guardian")
        client.start("exec sleep 600")
        assert guardians_of(client.process.pid) == [guardian]
    assert not os.path.exists("/proc/%d" % guardian)


def test_it_has_nothing_of_the_client_and_hears_no_signal():
    """It holds no pipe of the protocol, has a session of its own, and blocks every signal."""
    with Client() as client:
        client.open()
        client.start("exec sleep 600")
        (guardian,) = eventually(lambda: guardians_of(client.process.pid), "the guardian")
        streams = {os.readlink("/proc/self/fd/%d" % client.process.stdin.fileno())}
        streams.add(os.readlink("/proc/self/fd/%d" % client.process.stdout.fileno()))
        streams.add(os.readlink("/proc/%d/fd/2" % client.process.pid))
        held = {os.readlink("/proc/%d/fd/%s" % (guardian, fd)) for fd in ("0", "1", "2")}
        assert not streams & held
        assert os.getsid(guardian) == guardian
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            os.kill(guardian, number)
        with open("/proc/%d/status" % guardian) as file:
            blocked = next(line for line in file if line.startswith("SigBlk:"))
        assert int(blocked.split()[1], 16) >> signal.SIGTERM - 1 & 1
        assert is_alive(guardian)


def test_a_killed_one_is_replaced_and_knows_of_all():
    """The next start brings a new guardian, which guards what was started before too."""
    mark = new_mark()
    with Client() as client:
        client.open()
        client.start("env -i setsid -f sleep %s; exec sleep %s" % (mark, mark))
        eventually(lambda: len(processes_with("sleep\0" + mark)) == 2, "the tree")
        (first,) = eventually(lambda: guardians_of(client.process.pid), "the guardian")
        os.kill(first, signal.SIGKILL)
        eventually(lambda: not is_alive(first), "the end of the guardian")
        client.start("exec sleep %s" % mark)
        (second,) = eventually(lambda: guardians_of(client.process.pid), "another guardian")
        client.process.kill()
        eventually(lambda: not processes_with(mark), "the end of all")
        eventually(lambda: not os.path.exists("/proc/%d" % second), "the guardian's own")


def test_a_server_killed_in_the_middle_of_its_end_is_guarded():
    """SIGKILL while the tasks still have their grace: they end all the same."""
    mark = new_mark()
    with Client() as client:
        client.open()
        client.start("trap '' TERM; env -i setsid -f sleep %s; while :; do sleep 1; done" % mark)
        eventually(lambda: processes_with("sleep\0" + mark), "the tree")
        client.process.terminate()
        time.sleep(0.1)
        client.process.kill()
        eventually(lambda: not processes_with(mark), "the end of all")


def test_it_gives_time_to_clean_up(tmp_path):
    """When the server is killed, its tasks get SIGTERM first, and a second."""
    with Client() as client:
        client.open()
        # The shell says of a child that it was terminated, and nobody is there to read it.
        script = (
            "exec 2>/dev/null; trap 'sleep 0.3; touch clean; exit' TERM; touch ready;"
            " while :; do sleep 0.1; done"
        )
        client.start(script, cwd=str(tmp_path))
        eventually((tmp_path / "ready").exists, "the handler")
        client.process.kill()
    eventually((tmp_path / "clean").exists, "the cleaning up")


@pytest.mark.parametrize("when", ["at once", "later"])
def test_a_host_program_that_dies_is_guarded_too(when):
    """A library user that forgets `close`, or is killed, leaves nothing behind."""
    mark = new_mark()
    program = (
        "import os, time\n"
        "from %s import TaskManager\n"
        "manager = TaskManager()\n"
        "manager.start('exec sleep %s')\n"
        "def is_guarded():\n"
        "    for pid in open('/proc/self/task/%%d/children' %% os.getpid()).read().split():\n"
        "        if open('/proc/%%s/comm' %% pid).read() == 'task-guardian\\n': return True\n"
        "while %r and not is_guarded(): time.sleep(0.01)\n"
        # A child that lives on holds a copy of all that the host has open.
        "if os.fork() == 0: time.sleep(600); os._exit(0)\n"
        "os._exit(0)\n" % (PACKAGE, mark, when == "later")
    )
    with TaskManager() as outer:
        task = outer.start(
            '%s -c "$PROGRAM" & wait' % sys.executable,
            env={"PROGRAM": program, "PYTHONPATH": ENVIRONMENT["PYTHONPATH"]},
        )
        outer.wait(task.task_id, timeout_s=20)
        eventually(lambda: not processes_with("sleep\0" + mark), "the end of the task")


def test_none_is_left_of_a_closed_manager():
    """A host program has no child after `close`."""
    before = children_of(os.getpid())
    with TaskManager() as manager:
        manager.start("exec sleep 600")
        assert len(children_of(os.getpid())) == len(before) + 2
    assert children_of(os.getpid()) == before


@pytest.mark.parametrize("executable", ["", "/nowhere/python"])
def test_a_host_that_cannot_start_python_does_without(monkeypatch, executable):
    """Where Python is embedded in another program, tasks are started unguarded."""
    monkeypatch.setattr(sys, "executable", executable)
    with TaskManager() as manager:
        task = manager.start("exit 3")
        assert manager.wait(task.task_id, timeout_s=20).exit_code == 3


def test_a_stopped_one_goes_on_with_the_next_start():
    """SIGSTOP is the one signal beside SIGKILL that reaches it."""
    mark = new_mark()
    with Client() as client:
        client.open()
        client.start("exec sleep %s" % mark)
        (guardian,) = eventually(lambda: guardians_of(client.process.pid), "the guardian")
        os.kill(guardian, signal.SIGSTOP)
        client.start("exec sleep %s" % mark)
        client.process.kill()
        eventually(lambda: not processes_with(mark), "the end of both")


def test_its_name_is_not_every_pythons():
    """What ends all Pythons, or all servers, by name leaves their guardians to do their work."""
    with Client() as client:
        client.open()
        client.start("exec sleep 600")
        (guardian,) = eventually(lambda: guardians_of(client.process.pid), "the guardian")

        def name():
            with open("/proc/%d/comm" % guardian) as file:
                return file.read().strip()

        eventually(lambda: name() == "task-guardian", "its name")
        with open("/proc/%d/cmdline" % guardian) as file:
            assert "backgroundr" not in file.read().replace(sys.executable, "")
