"""Odd hosts and low limits: the server serves, or says what is missing, and leaves nothing."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys

import pytest

from backgroundr import TaskManager

from .client import Client
from .forms import LOAD_SERVER, copy_to
from .programs import SLEEP, eventually, linux_only, new_mark, open_descriptors, processes_with

pytestmark = linux_only

NOBODY = 65534


def as_user(tmp_path, user, processes=None):
    """Return Popen arguments for a server that runs as an ordinary user.

    It becomes that when all is imported: to the user this Python may be closed.
    """
    script = tmp_path / "server.py"
    script.write_text(
        "import ctypes, os, resource, sys\n"
        f"{LOAD_SERVER}\n"
        f"os.setgid({user})\n"
        f"os.setuid({user})\n"
        f"if {processes}: resource.setrlimit(resource.RLIMIT_NPROC, ({processes}, {processes}))\n"
        "sys.exit(main([]))\n"
    )
    return {"executable": wrapper(tmp_path, "%s %s" % (sys.executable, script))}


def wrapper(tmp_path, command):
    """Return the path of a script that takes the place of Python; "$@" is what runs the server."""
    path = tmp_path / "wrapper"
    path.write_text("#!/bin/sh\nexec %s\n" % command)
    path.chmod(0o755)
    return str(path)


def test_no_more_tasks_run_than_may():
    """A start beyond --max-tasks is refused, says so, and succeeds once there is room."""
    with Client(flags=["--max-tasks", "2"]) as client:
        client.open()
        first = client.start(SLEEP)
        client.start(SLEEP)
        refused = client.call("run_background_task", command=SLEEP)
        assert refused.is_error
        assert "2 tasks are running, as many as may run at once" in refused.text
        assert "End tasks" in refused.text
        assert len(client.call("list_background_tasks").structured["tasks"]) == 2
        client.call("end_background_task", task_id=first["task_id"])
        client.start(SLEEP)


@pytest.mark.parametrize("descriptors", [12, 24, 40, 64])
def test_few_descriptors_are_said_and_harm_nothing(descriptors):
    """A task that would leave none to look with is refused; those before it end whole."""

    def limit():
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

    mark = new_mark()
    with Client(preexec_fn=limit) as client:
        client.open()
        started = []
        while True:
            result = client.call(
                "run_background_task", command="setsid sleep %s & exec sleep 600" % mark
            )
            if result.is_error:
                break
            started.append(result.structured["task_id"])
            assert len(started) < descriptors
        assert "Too many open files" in result.text
        assert "ulimit -n" in result.text
        eventually(lambda: len(processes_with("sleep\0" + mark)) == len(started), "the strays")
        assert (len(started) > 0) == (descriptors >= 40)
        before = len(os.listdir("/proc/%d/fd" % client.process.pid))
        assert client.call("run_background_task", command=SLEEP).is_error
        assert len(os.listdir("/proc/%d/fd" % client.process.pid)) == before
        for task_id in started[:1]:
            ended = client.call("end_background_task", task_id=task_id).structured
            assert (ended["status"], ended["processes_left"]) == ("terminated", 0)
    assert not processes_with("sleep\0" + mark)


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a user of its own")
@pytest.mark.parametrize("processes", [1, 3, 5, 8])
def test_few_processes_are_said_and_harm_nothing(processes, tmp_path):
    """Where the user may have no more processes or threads, a start says so and is nothing."""
    user = NOBODY - 1 - processes  # one that nothing else runs as
    with Client(**as_user(tmp_path, user, processes)) as client:
        client.open()
        sleep = {"command": "exec sleep 600", "cwd": "/"}
        results = [client.call("run_background_task", **sleep) for _ in range(8)]
        assert results[-1].is_error
        assert "ulimit -u" in results[-1].text
        tasks = client.call("list_background_tasks").structured["tasks"]
        assert len(tasks) == sum(not result.is_error for result in results)


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes an ordinary user, to whom files are closed")
def test_a_command_cannot_speak_for_the_server(tmp_path):
    """What a command writes to the server's descriptors or memory does not get there."""
    attack = (
        "for fd in /proc/$PPID/fd/* /proc/$PPID/fd/0 /proc/$PPID/fd/1 /proc/$PPID/fd/3"
        " /proc/$PPID/fd/4 /proc/$PPID/mem; do echo '{\"forged\": 1}' >$fd && echo got $fd; done;"
        " cat /proc/$PPID/environ && echo got it; (echo x >/dev/tty) && echo got tty; true"
    )
    with Client(**as_user(tmp_path, NOBODY)) as client:
        client.open()
        for _ in range(2):
            task = client.start(attack, cwd="/")
            result = client.call("wait_for_task", task_id=task["task_id"]).structured
            assert "got" not in result["output"]
            assert "Permission denied" in result["output"]
        # Its own children still are to be found.
        mark = new_mark()
        client.start("env -i setsid -f sleep %s" % mark, cwd="/")
        eventually(lambda: processes_with("sleep\0" + mark), "the daemon")
    assert not processes_with(mark)


@pytest.mark.parametrize("blocked", [signal.SIGTERM, signal.SIGHUP])
def test_signals_that_a_parent_blocked_are_heard(blocked):
    """The server ends at a signal, and so do its tasks, whatever mask they were born with."""

    def block():
        signal.pthread_sigmask(signal.SIG_BLOCK, {blocked, signal.SIGTERM})

    with Client(preexec_fn=block) as client:
        client.open()
        task = client.start("grep SigBlk /proc/self/status; exec sleep 600")
        eventually(lambda: client.status(task["task_id"])["output"], "the mask")
        assert int(client.status(task["task_id"])["output"].split()[1], 16) == 0
        client.process.send_signal(blocked)
        assert client.process.wait(20) == 128 + blocked


def test_modules_of_the_current_directory_are_not_imported(tmp_path):
    """The project that a client starts the server in may have a ctypes.py of its own."""
    (tmp_path / "ctypes.py").write_text("raise SystemExit('imported')")
    with Client(cwd=str(tmp_path)) as client:
        client.open()
        task = client.start("exit 3")
        waited = client.call("wait_for_task", task_id=task["task_id"]).structured
        assert waited["exit_code"] == 3


def test_an_update_of_the_package_does_not_disturb(tmp_path):
    """Its files may be gone by the time of the first task: it is started, and guarded."""
    server, places = copy_to(tmp_path / "copy")
    mark = new_mark()
    with Client(server=server, env={"PYTHONPATH": places}, cwd="/") as client:
        client.open()
        shutil.rmtree(str(tmp_path / "copy"))
        client.start("env -i setsid -f sleep %s; exec sleep %s" % (mark, mark))
        eventually(lambda: len(processes_with("sleep\0" + mark)) == 2, "the tree")
        client.process.kill()
        eventually(lambda: not processes_with(mark), "the end of all")


@pytest.mark.parametrize("error", ["ENOSYS", "EPERM"])
@pytest.mark.parametrize("call", ["pidfd_open", "pidfd_send_signal"])
def test_where_a_sandbox_forbids_pidfds_all_ends(manager, monkeypatch, call, error):
    """Older kernels do not have them, and some containers refuse them."""
    import errno

    def refuse(*arguments):
        raise OSError(getattr(errno, error), "refused")

    module = os if call == "pidfd_open" else signal
    if not hasattr(module, call):
        pytest.skip("Python 3.9 or newer")
    monkeypatch.setattr(module, call, refuse)
    mark = new_mark()
    task = manager.start("setsid sleep %s & exec sleep %s" % (mark, mark))
    eventually(lambda: len(processes_with("sleep\0" + mark)) == 2, "the tree")
    ended = manager.end(task.task_id, grace_s=20)
    assert (ended.status, ended.signal) == ("terminated", "SIGTERM")
    assert not processes_with(mark)


def can_be_pid_1():
    probe = ["unshare", "-pf", "--mount-proc", "true"]
    try:
        return subprocess.run(probe, stderr=subprocess.DEVNULL, check=False).returncode == 0
    except OSError:
        return False


@pytest.mark.parametrize("way", ["end of input", "SIGTERM"])
def test_as_the_first_process_of_a_container_it_reaps(way, tmp_path):
    """Of daemons that end no zombie remains, and the container ends as the server does."""
    if not can_be_pid_1():
        pytest.skip("makes a pid namespace")
    unshare = 'unshare -pf --kill-child --mount-proc %s "$@"' % sys.executable
    with Client(executable=wrapper(tmp_path, unshare)) as client:
        client.open()
        task = client.start(
            "for i in 1 2 3; do setsid -f sleep 0; done;"
            " while ps -e -o stat= | grep Z; do sleep 0.05; done; echo none"
        )
        waited = client.call("wait_for_task", task_id=task["task_id"]).structured
        assert waited["output"].endswith("none")
        if way == "end of input":
            assert client.close() == 0
        else:
            (first,) = eventually(lambda: children_of(client.process.pid), "the first process")
            os.kill(first, signal.SIGTERM)
            assert client.process.wait(20) == 128 + signal.SIGTERM


def children_of(pid):
    with open("/proc/%d/task/%d/children" % (pid, pid)) as file:
        return list(map(int, file.read().split()))


def test_many_tasks_at_once_leave_no_trace():
    """Descriptors, threads and zombies are as before, after many tasks that ran at once."""
    with TaskManager() as manager:
        manager.wait(manager.start("true").task_id)
        before = (open_descriptors(), len(os.listdir("/proc/self/task")))
        children = children_of(os.getpid())  # the guardian, and servers of other tests
        tasks = [manager.start("setsid -f sleep 600; exec sleep 600") for _ in range(60)]
        for task in tasks:
            manager.request_end(task.task_id)
        for task in tasks:
            assert manager.wait(task.task_id).processes_left == 0
        eventually(
            lambda: (open_descriptors(), len(os.listdir("/proc/self/task"))) == before,
            "descriptors and threads to be as before",
        )
        assert children_of(os.getpid()) == children
