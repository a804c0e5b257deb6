"""Nothing is left behind: process trees that try to escape, in every way that a task ends."""

from __future__ import annotations

import os
import resource
import shlex
import signal
import sys
import time
from pathlib import Path

import pytest

from backgroundr import TaskManager
from backgroundr.marks import ENV_NAME

from .client import ENVIRONMENT, Client
from .forms import PACKAGE
from .programs import eventually, is_alive, linux_only, new_mark, processes_with

pytestmark = linux_only


def shell(script: str) -> str:
    """Return a command that runs `script` with a shell of its own."""
    return "sh -c %s" % shlex.quote(script)


def program(code: str) -> str:
    """Return a command that runs Python code; {mark} can be used in it as MARK."""
    return "%s -ISc %s {mark}" % (
        shlex.quote(sys.executable),
        shlex.quote("import os, sys, time; MARK = sys.argv[1]\n" + code),
    )


DAEMON = program(
    "if os.fork(): os._exit(0)\n"
    "os.setsid()\n"
    "if os.fork(): os._exit(0)\n"
    "os.closerange(0, 3)\n"
    "os.execve('/bin/sleep', ['sleep', MARK], {})\n"
)
OTHER_GROUP = program("os.setpgid(0, 0)\nos.execv('/bin/sleep', ['kworker/0:1', MARK])")
# Each link hands on to the next, in a session of its own, without an environment. It lives
# too short to be caught by a look into /proc, so it tells that it lives.
CHAIN = program(
    "end = time.monotonic() + 60\n"
    "while time.monotonic() < end:\n"
    "    if os.fork(): os._exit(0)\n"
    "    os.setsid()\n"
    "    os.utime('beat', None)\n"
    "    time.sleep(0.002)\n"
)
A_CHAIN = "a chain of forks"
RESPAWN = "env -i setsid sleep {mark} & env -i setsid -f sleep {mark}"

# A command line each; {mark} is what its processes can be told by. With how many there are
# when all is in place (None: never the same number).
TREES = {
    "nested shells": (shell(shell("sleep {mark}; :") + "; :") + "; :", 1),
    "a pipeline": ("sleep {mark} | sleep {mark} | sleep {mark}", 3),
    "nohup": ("nohup sleep {mark} & wait", 1),
    "groups of job control": ("set -m; sleep {mark} & sleep {mark} & wait", 2),
    "another session": ("setsid sleep {mark} & wait", 1),
    "another group and name": (OTHER_GROUP + " & wait", 1),
    "a daemon": (DAEMON + "; exec sleep {mark}", 2),
    "a daemon of shells": ("(setsid sh -c 'sleep {mark} & sleep {mark}' &); wait", 2),
    "no environment": ("env -i sleep {mark} & env -i setsid -f sleep {mark}; sleep {mark}", 3),
    "left by a finished command": ("sleep {mark} & env -i setsid -f sleep {mark}; echo done", 2),
    "respawned on SIGTERM": ("trap '%s' TERM; sleep {mark}" % RESPAWN, 1),
    "respawned for ever": ("while :; do env -i setsid -f sleep {mark}; sleep 0.2; done", None),
    "a loop of forks": (
        shell("for i in $(seq 300); do env -i setsid sleep {mark} & done; wait"),
        None,
    ),
    A_CHAIN: ("env -i setsid " + CHAIN, None),
    "stopped": (
        # Not before the exec, or the stopped one could not be told yet.
        "env -i setsid sh -c 'sleep {mark} & sleep 0.2; kill -STOP $! $$' &"
        " sleep {mark} & sleep 0.2; kill -STOP $! $$",
        2,
    ),
    "deaf to signals": (
        "trap '' TERM INT HUP; env -i setsid sleep {mark} & sleep {mark} & wait",
        2,
    ),
}


class Grown:
    """Every tree, as a task of one server. marks: {what it is: what to find it by}.

    At the end of a `with` that has failed, what is left of them is ended.
    """

    def __init__(self, client: Client, directory: Path) -> None:
        self.beat = directory / "beat"
        self.beat.touch()
        self.marks = {}
        self.task_ids = {}
        for what, (command, _) in TREES.items():
            self.marks[what] = new_mark()
            task = client.start(
                command.replace("{mark}", self.marks[what]), name=what, cwd=str(directory)
            )
            self.task_ids[what] = task["task_id"]
        for what, (_, count) in TREES.items():
            eventually(lambda what=what, count=count: self.is_grown(what, count), what)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if exception[0] is not None:
            self.uproot()

    def beats(self):
        before = self.beat.stat().st_mtime_ns
        time.sleep(0.1)
        return self.beat.stat().st_mtime_ns > before

    def is_grown(self, what, count):
        if what == A_CHAIN:
            return self.beats()
        if count is None:
            return processes_with("\0" + self.marks[what])
        mark = self.marks[what]
        return len(processes_with("sleep\0" + mark, "kworker/0:1\0" + mark)) == count

    def left(self):
        if self.beats():
            return {A_CHAIN: "beats"}
        if not processes_with(*self.marks.values()):
            return {}
        found = {what: processes_with(mark) for what, mark in self.marks.items()}
        return {what: pids for what, pids in found.items() if pids}

    def uproot(self):
        for _ in range(50):
            for pid in processes_with(*self.marks.values()):
                os.kill(pid, signal.SIGKILL)


# All signals that may be heard end the server in the one way, as test_server shows.
WAYS = ["end_background_task", "end of input", "SIGTERM", "SIGKILL", "SIGKILL of the group"]


@pytest.mark.parametrize("way", WAYS)
def test_nothing_survives(way, tmp_path):
    """Of no tree is a process left: by the tool, the server's end, or the guardian."""
    with Client(start_new_session=True) as client:
        client.open()
        with Grown(client, tmp_path) as grown:
            if way == "end_background_task":
                ids = [
                    client.send_call("end_background_task", task_id=task_id, grace_seconds=1)
                    for task_id in grown.task_ids.values()
                ]
                for id in ids:
                    result = client.tool_result("end_background_task", id)
                    assert not result.is_error
                    assert result.structured["processes_left"] == 0
                assert grown.left() == {}
            elif way == "end of input":
                assert client.close() == 0
                assert grown.left() == {}
            elif way.startswith("SIGKILL"):
                if way == "SIGKILL":
                    client.process.kill()
                else:
                    os.killpg(client.process.pid, signal.SIGKILL)
                eventually(lambda: not grown.left(), "nothing to be left")
            else:
                number = getattr(signal, way)
                client.process.send_signal(number)
                assert client.process.wait(20) == 128 + number
                assert grown.left() == {}


def test_a_process_whose_first_thread_is_over_is_ended(manager, tmp_path):
    """It looks like a zombie, has neither arguments nor environment to be read, and lives."""
    code = (
        "import ctypes, os, threading, time\n"
        "threading.Thread(target=time.sleep, args=(600,)).start()\n"
        "open('pid', 'w').write(str(os.getpid()))\n"
        "ctypes.CDLL(None).pthread_exit(None)\n"
    )
    (tmp_path / "program.py").write_text(code)
    python = shlex.quote(sys.executable)
    task = manager.start("env -i setsid -f %s -I program.py" % python, cwd=str(tmp_path))
    assert manager.wait(task.task_id, timeout_s=20).processes_left == 1
    eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), "its pid")
    pid = int((tmp_path / "pid").read_text())
    eventually(lambda: not is_alive(pid), "its first thread to be over")
    assert manager.end(task.task_id, grace_s=0).processes_left == 0
    with open("/proc/sys/kernel/pid_max"):  # /proc is there; a zombie shows one thread
        assert not os.path.exists("/proc/%d" % pid) or os.listdir("/proc/%d/task" % pid) == [
            str(pid)
        ]


def can_read_timer_slack():
    try:
        with open("/proc/1/timerslack_ns") as file:
            return file.read().strip() == "50000"
    except OSError:
        return False


@pytest.mark.skipif(not can_read_timer_slack(), reason="only root, and not in every container")
@pytest.mark.parametrize("way", ["end_background_task", "end of input", "SIGKILL"])
def test_a_daemon_of_a_login_is_ended(way):
    """PAM takes the marks out of the limits, `su -` the environment; nothing else is left."""
    mark = new_mark()
    login = "prlimit --rttime=unlimited --locks=unlimited env -i"
    with Client() as client:
        client.open()
        other = client.start("%s setsid -f sleep %s1" % (login, mark))
        task = client.start("%s setsid -f sleep %s" % (login, mark))
        eventually(lambda: processes_with("sleep\0" + mark + "\0"), "the daemon")
        eventually(lambda: processes_with("sleep\0" + mark + "1"), "the other one")
        assert client.call("wait_for_task", task_id=task["task_id"]).structured["processes_left"]
        if way == "end_background_task":
            client.call(way, task_id=task["task_id"])
            assert not processes_with("sleep\0" + mark + "\0")
            assert client.status(other["task_id"])["processes_left"] == 1
        elif way == "SIGKILL":
            client.process.kill()
            eventually(lambda: not processes_with("sleep\0" + mark), "the end of both")
    assert not processes_with("sleep\0" + mark)


def test_a_server_leaves_other_servers_tasks_alone():
    """Of two servers side by side, each ends its own, also when it is killed."""
    command = "env -i setsid -f sleep %s; sleep %s"
    first_mark, second_mark = new_mark(), new_mark()
    with Client() as second:
        second.open()
        second.start(command % (second_mark, second_mark))
        with Client() as first:
            first.open()
            first.start(command % (first_mark, first_mark))
            for mark in (first_mark, second_mark):
                eventually(lambda mark=mark: len(processes_with("sleep\0" + mark)) == 2, "all")
            first.process.kill()
        eventually(lambda: not processes_with(first_mark), "the first one's end")
        assert len(processes_with("sleep\0" + second_mark)) == 2
    assert not processes_with(second_mark)


@pytest.mark.parametrize("way", ["ended", "killed"])
def test_a_server_inside_a_task_ends_its_own_and_is_ended_whole(manager, tmp_path, way):
    """A nested manager ends no more than its own; the outer one ends both."""
    outer_mark, ended_mark, left_mark = new_mark(), new_mark(), new_mark()
    program = (
        "import sys, time\n"
        f"from {PACKAGE} import TaskManager\n"
        "manager = TaskManager()\n"
        "command = 'env -i setsid -f sleep %s; exec env -i sleep %s'\n"
        "task = manager.start(command % (sys.argv[1], sys.argv[1]))\n"
        "manager.start(command % (sys.argv[2], sys.argv[2]))\n"
        "while not open('end').read(): time.sleep(0.01)\n"
        "manager.end(task.task_id)\n"
        "open('ended', 'w').close()\n"
        "time.sleep(600)\n"
    )
    (tmp_path / "end").touch()
    (tmp_path / "program.py").write_text(program)
    run = "exec %s program.py %s %s" % (shlex.quote(sys.executable), ended_mark, left_mark)
    outer = manager.start(
        "env -i setsid -f sleep %s; %s" % (outer_mark, run),
        cwd=str(tmp_path),
        env={"PYTHONPATH": ENVIRONMENT["PYTHONPATH"]},
    )
    for mark, count in ((outer_mark, 1), (ended_mark, 2), (left_mark, 2)):
        eventually(lambda m=mark, n=count: len(processes_with("sleep\0" + m)) == n, "the trees")
    (tmp_path / "end").write_text("now")
    eventually((tmp_path / "ended").exists, "the inner end")
    assert not processes_with("sleep\0" + ended_mark)
    assert len(processes_with("sleep\0" + left_mark)) == 2
    assert len(processes_with("sleep\0" + outer_mark)) == 1
    manager.end(outer.task_id, "SIGTERM" if way == "ended" else "SIGKILL")
    assert not processes_with("sleep\0" + left_mark)
    assert not processes_with("sleep\0" + outer_mark)


def test_where_limits_leave_no_room_the_environment_still_marks():
    """A hard limit that is lower than any mark is kept, and the task ends whole all the same."""

    def limit():
        resource.setrlimit(resource.RLIMIT_RTTIME, (10**9, 10**9))

    mark = new_mark()
    with Client(preexec_fn=limit) as client:
        client.open()
        task = client.start("ulimit -a; grep realtime.timeout /proc/self/limits; exec sleep 600")
        client.start("setsid -f sleep %s" % mark)
        eventually(lambda: processes_with("sleep\0" + mark), "the daemon")
        eventually(lambda: "1000000000" in client.status(task["task_id"])["output"], "the limit")
    assert not processes_with(mark)


def test_what_a_command_starts_while_it_is_born_is_marked():
    """A server's command has its mark from the first instant, and the server none of its own."""
    with Client() as client:
        client.open()
        marks = []
        for _ in range(3):
            task = client.start("env -i cat /proc/self/limits; echo $%s" % ENV_NAME)
            result = client.call("wait_for_task", task_id=task["task_id"])
            limits, mark = result.structured["output"].rsplit("\n", 1)
            assert str(int(mark, 16)) in limits.split()
            marks.append(int(mark, 16))
        assert len(set(marks)) == 3
        for limit in (resource.RLIMIT_RTTIME, 10):
            own = resource.prlimit(client.process.pid, limit)
            assert own == resource.prlimit(os.getpid(), limit)


def test_a_manager_leaves_its_hosts_limits_alone():
    """Of a host program's own limits nothing is changed, not even for a moment."""
    before = resource.getrlimit(resource.RLIMIT_RTTIME)
    seen = set()
    with TaskManager(on_change=lambda *_: None) as manager:
        task = manager.start("sleep 0.2; cat /proc/self/limits")
        seen.add(resource.getrlimit(resource.RLIMIT_RTTIME))
        manager.wait(task.task_id)
        assert "unlimited" not in manager.output(task.task_id).text.rsplit("timeout", 1)[1][:30]
    assert seen == {before} == {resource.getrlimit(resource.RLIMIT_RTTIME)}
