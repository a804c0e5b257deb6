"""Log files: all that a task prints, on disk, and what happens when the disk does not play."""

from __future__ import annotations

import os
import re
import stat
import subprocess

import pytest

from backgroundr import SpawnFailed, TaskManager

from .client import ENVIRONMENT, SERVER, Client
from .programs import (
    DEADLINE_S,
    EXIT_0,
    HELLO,
    OUT_AND_ERR,
    eventually,
    linux_only,
    posix_only,
    python,
)
from .test_reading import Puppet, finished, page


@pytest.fixture
def logs(tmp_path):
    return tmp_path / "logs"


@pytest.fixture
def logging_client(logs):
    with Client(flags=["--log-dir", str(logs), "--log-bytes", "1000000"]) as client:
        client.open()
        yield client


def test_all_output_is_in_a_file(logging_client, logs):
    """The log file of a task holds what it printed, byte for byte, as soon as it is over."""
    code = "import sys; sys.stdout.buffer.write(bytes(range(256)) * 1000)"
    task_id = finished(logging_client, python(code))
    status = logging_client.status(task_id)
    assert status["log_file"] == str(logs / (task_id + ".log"))
    assert (logs / (task_id + ".log")).read_bytes() == bytes(range(256)) * 1000
    assert status["log_ended"] is None
    text = logging_client.call("get_task_status", task_id=task_id).text
    assert '\nThe whole output is in the log file "%s".\n' % status["log_file"] in text


def test_both_streams_are_in_the_file(logging_client, logs):
    """A log file holds both streams in the order in which they came."""
    result = logging_client.call("run_background_task", command=OUT_AND_ERR)
    task_id = result.structured["task_id"]
    assert (
        '\nThe whole output is in the log file "%s".\n' % (logs / (task_id + ".log")) in result.text
    )
    logging_client.call("wait_for_task", task_id=task_id)
    assert (logs / (task_id + ".log")).read_text().split() == ["to", "stdout", "to", "stderr"]


@posix_only
def test_a_log_file_is_its_owners_alone(logs):
    """Nobody else may read a log file or its directory, whatever the umask."""
    umask = os.umask(0)
    try:
        with Client(flags=["--log-dir", str(logs)]) as client:
            client.open()
            log_file = client.status(finished(client, HELLO))["log_file"]
            assert stat.S_IMODE(os.stat(log_file).st_mode) == 0o600
            assert stat.S_IMODE(os.stat(logs).st_mode) == 0o700
    finally:
        os.umask(umask)


def test_without_the_option_there_is_no_file(legacy_client, tmp_path):
    """No file is written unless it was asked for."""
    status = legacy_client.status(finished(legacy_client, HELLO))
    assert (status["log_file"], status["log_ended"]) == (None, None)


def test_a_log_file_has_a_limit(logging_client, logs):
    """At its limit a log file ends and says so; the task goes on and is read as before."""
    task_id = finished(
        logging_client, python("print(''.join('line %06d\\n' % i for i in range(200000)), end='')")
    )
    status = logging_client.status(task_id)
    assert (status["status"], status["total_bytes"]) == ("completed", 2400000)
    assert (logs / (task_id + ".log")).stat().st_size == 1000000
    assert status["log_ended"] == (
        "It ends after 1000000 bytes: more than the option --log-bytes allows was printed."
    )
    assert status["output"].endswith("line 199999")
    assert page(logging_client, task_id)["skipped_bytes"] > 1000000
    text = logging_client.call("read_task_output", task_id=task_id).text
    assert 'are no longer kept. There is a log file "%s". It ends' % status["log_file"] in text


def test_a_refused_start_leaves_no_file(tmp_path, monkeypatch):
    """A start that fails after its log file was made leaves neither the file nor a descriptor."""

    def refuse(*arguments):
        raise RuntimeError("can't start new thread")

    with TaskManager(log_dir=str(tmp_path)) as manager:
        manager.wait(manager.start(EXIT_0).task_id)
        before = set(tmp_path.iterdir())
        monkeypatch.setattr(manager._reader, "add", refuse)
        with pytest.raises(SpawnFailed):
            manager.start(EXIT_0)
        assert set(tmp_path.iterdir()) == before


def test_a_file_of_the_limit_has_not_ended(logging_client, logs):
    """A log file that holds all there was has not ended, however large."""
    task_id = finished(logging_client, python("print('x' * 999999)"))
    assert (logs / (task_id + ".log")).stat().st_size == 1000000
    assert logging_client.status(task_id)["log_ended"] is None


@posix_only
def test_a_directory_that_is_gone_disturbs_nothing(logging_client, logs, tmp_path):
    """Where a log file was removed, or none can be made, the status says so and tasks run on."""
    flag = tmp_path / "flag"
    code = (
        "import os, time\n"
        "print('first')\n"
        "while not os.path.exists(%r): time.sleep(0.01)\n"
        "print('second')"
    )
    task_id = logging_client.start(python(code % str(flag)))["task_id"]
    eventually(lambda: logging_client.status(task_id)["output"] == "first", "the first line")
    (logs / (task_id + ".log")).unlink()
    logs.rmdir()
    flag.touch()
    logging_client.call("wait_for_task", task_id=task_id)
    status = logging_client.status(task_id)
    assert (status["status"], status["output"]) == ("completed", "first\nsecond")
    assert re.fullmatch(
        r"It ends after \d+ bytes: the file was removed or replaced\.", status["log_ended"]
    )
    status = logging_client.status(finished(logging_client, HELLO))
    assert (status["status"], status["output"], status["log_file"]) == ("completed", "hello", None)
    assert re.match(r"It could not be made: .*No such file or directory", status["log_ended"])
    text = logging_client.call("get_task_status", task_id=status["task_id"]).text
    assert "\nThere is no log file. It could not be made:" in text


@posix_only
def test_a_file_that_was_replaced_is_not_told_for_ours(logging_client, logs, tmp_path):
    """A log file that was moved away ends, and what stands in its place is left alone."""
    puppet = Puppet(logging_client, tmp_path / "script")
    puppet.prints(b"first\n")
    log_file = logs / (puppet.task_id + ".log")
    log_file.rename(tmp_path / "moved")
    log_file.write_text("somebody else's")
    puppet.prints(b"second\n")
    assert puppet.ends()["log_ended"] == "It ends after 13 bytes: the file was removed or replaced."
    assert log_file.read_text() == "somebody else's"


@posix_only
def test_a_file_that_may_not_grow_disturbs_nothing(logs):
    """A write that fails ends the log file, with the reason; the server and its tasks go on."""
    import resource

    def limit_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))

    with Client(flags=["--log-dir", str(logs)], preexec_fn=limit_files) as client:
        client.open()
        task_id = finished(client, python("print('x' * 20000)"))
        status = client.status(task_id)
        assert (status["status"], status["total_bytes"]) == ("completed", 20001)
        assert status["log_ended"] == "It ends after 5000 bytes: it could not be written: %s." % (
            "File too large"
        )
        assert os.stat(status["log_file"]).st_size == 5000


@linux_only
def test_a_full_disk_disturbs_nothing(tmp_path):
    """A disk without room ends the log file; nothing else notices."""
    logs = tmp_path / "full"
    logs.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(logs)],
        stderr=subprocess.DEVNULL,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip("a file system of its own can be mounted by root alone")
    try:
        with Client(flags=["--log-dir", str(logs)]) as client:
            client.open()
            status = client.status(finished(client, python("print('x' * 1000000)")))
            assert (status["status"], status["total_bytes"]) == ("completed", 1000001)
            assert status["log_ended"].endswith("it could not be written: No space left on device.")
            assert client.status(finished(client, HELLO))["status"] == "completed"
    finally:
        subprocess.run(["umount", "-l", str(logs)], check=True)


@posix_only
def test_a_file_is_closed_with_the_output(logging_client):
    """A log file takes what a process prints that the command left behind, and then closes."""
    task_id = finished(logging_client, "echo first; (sleep 0.3; echo second) &")
    status = eventually(
        lambda: (lambda now: now if not now["output_open"] else None)(
            logging_client.status(task_id)
        ),
        "the end of the output",
    )
    with open(status["log_file"], "rb") as file:
        assert file.read() == b"first\nsecond\n"


@linux_only
def test_no_descriptor_is_left_open(logging_client):
    """After the end of their output tasks hold no log file open."""
    descriptors = "/proc/%d/fd" % logging_client.process.pid
    finished(logging_client, EXIT_0)
    before = len(os.listdir(descriptors))
    for _ in range(20):
        finished(logging_client, "echo a line")
    eventually(lambda: len(os.listdir(descriptors)) <= before, "the files are closed")


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--log-dir", "{file}"], "argument --log-dir: "),
        (["--log-dir", "{file}/below"], "argument --log-dir: "),
        (["--log-bytes", "0"], "argument --log-bytes: must be a whole number, 1 or more"),
        (["--buffer-bytes", "1023"], "argument --buffer-bytes: must be a whole number, 1024"),
        (["--buffer-bytes", "1M"], "argument --buffer-bytes: must be a whole number"),
        (
            ["--finished-buffer-bytes", "-1"],
            "argument --finished-buffer-bytes: must be a whole number, 0 or",
        ),
    ],
)
def test_a_wrong_option_is_told_at_the_start(tmp_path, flags, problem):
    """A server that cannot do what its options ask does not start, and says why."""
    file = tmp_path / "file"
    file.touch()
    process = subprocess.run(
        SERVER + [flag.format(file=file) for flag in flags],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=ENVIRONMENT,
        timeout=DEADLINE_S,
        check=False,
    )
    assert (process.returncode, process.stdout) == (2, b"")
    assert problem in process.stderr.decode()
