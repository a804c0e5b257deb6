"""The server on the far side of ssh, and what becomes of its tasks when the connection goes.

The tests start an sshd of their own, on the loopback, with its own keys and files. Nothing is
installed here: where sshd or ssh is missing they are skipped, and the summary of the run says so.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess

import pytest

from .client import ENVIRONMENT, Client
from .forms import ROOT, SERVER
from .programs import (
    DEADLINE_S,
    IGNORE_TERM,
    eventually,
    free_port,
    is_alive,
    linux_only,
    new_mark,
    processes_with,
)

# What runs over there. ssh hands on nothing of our environment.
FAR_SERVER = ["env", "PYTHONPATH=%s" % ENVIRONMENT["PYTHONPATH"], *SERVER]

SSH = shutil.which("ssh")
# It starts itself anew by its path, and stands where an ordinary user's PATH does not lead.
SSHD = shutil.which("sshd", path="%s:/usr/sbin:/usr/local/sbin" % os.environ.get("PATH", ""))

SSHD_CONFIG = """
ListenAddress 127.0.0.1:{port}
HostKey {directory}/host_key
AuthorizedKeysFile {directory}/user_key.pub
AuthenticationMethods publickey
StrictModes no
UsePAM no
PidFile none
# For bash, which reads the account's own ~/.bashrc at the outermost level, whatever that prints.
SetEnv SHLVL=1
"""
SSH_CONFIG = """
Host far
    HostName 127.0.0.1
    Port {port}
    HostKeyAlias far
    IdentityFile {directory}/user_key
    IdentitiesOnly yes
    UserKnownHostsFile {directory}/known_hosts
    StrictHostKeyChecking yes
    LogLevel ERROR
"""

pytestmark = [
    linux_only,
    pytest.mark.skipif(SSHD is None, reason="SKIPPED SSH: sshd is missing"),
    pytest.mark.skipif(SSH is None, reason="SKIPPED SSH: ssh is missing"),
]


class Sshd:
    """An sshd that lets in who runs the tests, and nobody else, until the `with` block is left.

    options: further lines of its configuration.
    """

    def __init__(self, directory, options=""):
        self._directory = directory
        self._log_path = directory / "log"
        for name in ("host_key", "user_key"):
            keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / name)]
            subprocess.run(keygen, check=True, timeout=DEADLINE_S)
        host_key = (directory / "host_key.pub").read_text()
        (directory / "known_hosts").write_text("far " + host_key)
        self.port = free_port()
        values = {"directory": directory, "port": self.port}
        (directory / "sshd_config").write_text(SSHD_CONFIG.format(**values) + options)
        self.config = str(directory / "ssh_config")
        (directory / "ssh_config").write_text(SSH_CONFIG.format(**values))

    def __enter__(self):
        if os.geteuid() == 0:  # else it asks for no such directory
            os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
        with open(str(self._log_path), "wb") as log:
            self._process = subprocess.Popen(
                [SSHD, "-D", "-e", "-f", str(self._directory / "sshd_config")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            eventually(self._is_up, "an sshd that listens")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception):
        self._process.terminate()
        self._process.wait(DEADLINE_S)

    def ssh(self):
        """Return the command line of a connection; what is run over there comes behind it."""
        return [SSH, "-T", "-o", "BatchMode=yes", "-F", self.config, "far"]

    def client(self):
        """Return a client whose server is at the far end of a connection."""
        return Client(server=[*self.ssh(), " ".join(map(shlex.quote, FAR_SERVER))])

    def log(self):
        return self._log_path.read_text()

    def _is_up(self):
        assert self._process.poll() is None, self.log()
        return "Server listening" in self.log()


@pytest.fixture(scope="module")
def sshd(tmp_path_factory):
    """An sshd, once a login has shown that this account may log in: locked ones may not."""
    with Sshd(tmp_path_factory.mktemp("sshd")) as sshd:
        login = subprocess.run(
            [*sshd.ssh(), "exit 3"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=DEADLINE_S,
            check=False,
        )
        if login.returncode != 3:
            lines = sshd.log().splitlines() + login.stdout.decode().splitlines()
            pytest.skip("SKIPPED SSH: no login for this account: " + " / ".join(lines[-3:]))
        yield sshd


@pytest.fixture(scope="module", autouse=True)
def silent(sshd, tmp_path_factory):
    """(the mark of two tasks, their server's pid) behind an ssh that answers nothing any more.

    sshd takes some seconds to notice, so the other tests run meanwhile.
    """
    options = "ClientAliveInterval 1\nClientAliveCountMax 1\n"
    with Sshd(tmp_path_factory.mktemp("sshd"), options) as impatient, impatient.client() as client:
        client.open()
        tree = start_two(client)
        client.process.send_signal(signal.SIGSTOP)
        yield tree
        client.process.kill()


def name_and_parent(pid):
    with open("/proc/%d/stat" % pid) as file:
        pid_and_name, _, rest = file.read().rpartition(")")
    return pid_and_name.partition("(")[2], int(rest.split()[1])


def line_of(pid):
    """Return the names and the pids of a process and those that it came from."""
    line = []
    while pid > 1:
        name, parent = name_and_parent(pid)
        line.append((name, pid))
        pid = parent
    return line


def session_of(pid):
    """Return the pid of the sshd that serves the connection through which a process came."""
    return next(pid for name, pid in line_of(pid) if name.startswith("sshd"))


def server_of(task):
    return name_and_parent(task["pid"])[1]


def start_two(client):
    """Start a task, which starts one in a session of its own; return a mark of both, the server."""
    mark = new_mark()
    task = client.start("setsid -f sleep %s; exec sleep %s" % (mark, mark))
    eventually(lambda: len(processes_with("sleep\0" + mark)) == 2, "the tree")
    return mark, server_of(task)


def all_end(mark, server):
    """Fail unless the processes with the mark, and the server, end before the deadline."""
    eventually(lambda: not processes_with(mark), "the end of the tasks")
    eventually(lambda: not is_alive(server), "the end of the server")


def test_tasks_run_on_the_far_side(sshd):
    """A client starts, watches and ends a task through ssh as it does at home."""
    with sshd.client() as client:
        assert client.open()["serverInfo"]["name"] == "backgroundr"
        task = client.start("echo $SSH_CONNECTION; exec sleep 600", until_output=["127.0.0.1"])
        task_id, pid = task["task_id"], task["pid"]
        status = client.status(task_id)
        assert status["status"] == "running"
        assert status["output"].split()[2:] == ["127.0.0.1", str(sshd.port)]
        # Also where the tests themselves came through an sshd.
        below_sshd = [one for _, one in line_of(pid)][: -len(line_of(session_of(pid)))]
        assert pid in below_sshd
        assert client.process.pid not in below_sshd
        ended = client.call("end_background_task", task_id=task_id).structured
        assert (ended["status"], ended["signal"]) == ("terminated", "SIGTERM")
        assert not is_alive(pid)


def test_a_client_that_leaves_in_order_leaves_nothing(sshd):
    """The end of the input goes through ssh, which returns when the server and its tasks ended."""
    with sshd.client() as client:
        client.open()
        mark, server = start_two(client)
        assert client.close() == 0
        assert processes_with(mark) == []
        assert not is_alive(server)


def test_nothing_outlives_a_killed_ssh(sshd):
    """SIGKILL of the ssh here ends all over there, whatever it ignores and wherever it went."""
    with sshd.client() as client:
        client.open()
        mark, server = start_two(client)
        client.start("%s %s" % (IGNORE_TERM, mark), until_output=["ready"])
        client.process.kill()
        all_end(mark, server)


def test_nothing_outlives_a_killed_session_of_sshd(sshd):
    """When the far end of the connection is killed, the server finds its input at its end."""
    with sshd.client() as client:
        client.open()
        mark, server = start_two(client)
        os.kill(session_of(server), signal.SIGKILL)
        all_end(mark, server)
        assert client.process.wait(DEADLINE_S) == 255
        client.stderr_text()  # it may say why


def test_a_command_over_there_ends_with_its_task(sshd, manager):
    """The line that the README has for it: the terminal's end hangs up on the far side."""
    line = "exec ssh -tt -S none build-box make all"
    assert "```sh\n%s\n```" % line in (ROOT / "README.md").read_text(encoding="utf-8")
    mark = new_mark()
    line = line.replace("build-box make all", "-F %s far sleep %s" % (sshd.config, mark))
    task = manager.start(line)
    # The ssh here has these words in its command line too.
    eventually(lambda: len(processes_with("sleep\0" + mark)) == 2, "the command over there")
    manager.end(task.task_id)
    eventually(lambda: not processes_with("sleep\0" + mark), "its end")


def test_nothing_outlives_a_connection_that_fell_silent(silent):
    """With ClientAliveInterval sshd gives up an ssh that does not answer, and all of it ends."""
    all_end(*silent)
