"""The command line: what a person sees."""

from __future__ import annotations

import os
import signal
import subprocess

from backgroundr import __version__

from .client import ENVIRONMENT, SERVER, Client
from .programs import DEADLINE_S, eventually, linux_only, posix_only, processes_in


def run(*flags, **popen):
    """Run the program; return (exit status, stdout, stderr)."""
    process = subprocess.run(
        SERVER + list(flags),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
        **{"env": ENVIRONMENT, **popen},
    )
    return process.returncode, process.stdout.decode(), process.stderr.decode()


def test_version_and_help_are_told():
    """--version and --help answer on stdout and exit with 0."""
    assert run("--version") == (0, "backgroundr %s\n" % __version__, "")
    status, text, _ = run("--help")
    assert status == 0
    for flag in ("--demo", "--shell", "--max-message-bytes", "--version"):
        assert flag in text


def test_a_wrong_flag_is_named():
    """An option that does not exist, or cannot be used, is an error at the start, on stderr."""
    status, out, err = run("--no-such-flag")
    assert (status, out) == (2, "")
    assert "--no-such-flag" in err
    status, out, err = run("--shell", "/no/such/shell")
    assert (status, out) == (2, "")
    assert "argument --shell: there is no program '/no/such/shell'" in err
    for number in ("many", "0", "4095", "-1"):
        status, out, err = run("--max-message-bytes", number)
        assert (status, out) == (2, "")
        assert "argument --max-message-bytes: " in err


@posix_only
def test_the_shell_can_be_chosen(tmp_path):
    """--shell names the program that runs the commands."""
    shell = tmp_path / "my shell"
    shell.write_text('#!/bin/sh\necho "asked to run: $2"\n')
    shell.chmod(0o755)
    with Client(flags=["--shell", str(shell)]) as client:
        client.open()
        task_id = client.start("ls")["task_id"]
        eventually(lambda: client.status(task_id)["status"] == "completed", "the end")
        assert client.status(task_id)["output"] == "asked to run: ls"


@posix_only
def test_a_person_at_a_terminal_is_told_what_this_is():
    """Started in a terminal, the server says in one line what it is and how to stop it."""
    import pty

    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        SERVER, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT
    )
    os.close(theirs)
    try:
        line = process.stderr.readline().decode()
        assert line.startswith("backgroundr %s: an MCP server" % __version__)
        assert "Ctrl-D" in line
        os.write(ours, b"\x04")
        out, err = process.communicate(timeout=DEADLINE_S)
        assert (process.returncode, out, err) == (0, b"", b"")
    finally:
        os.close(ours)
        process.kill()


def test_the_demo_shows_a_server_at_work(demo):
    """--demo plays a client from the handshake to the end, as plain text, and ends well."""
    status, out, err = demo
    assert (status, err) == (0, "")
    for text in (
        "-> initialize",
        "-> run_background_task",
        "<- build finished, no error",
        "completed, exit code 0",
        "answers 200 OK",
        "is free again",
        "3 tasks, oldest first:",
        "nothing was left running",
    ):
        assert text in out
    assert "\x1b" not in out
    assert max(len(line) for line in out.split("\n")) <= 92


def start_demo(directory):
    """Start --demo so that all its commands run in `directory`."""
    return subprocess.Popen(
        SERVER + ["--demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**ENVIRONMENT, "TMPDIR": str(directory)},
    )


@linux_only
def test_an_interrupted_demo_leaves_nothing(tmp_path):
    """Ctrl-C ends the demo's server and its commands, and says so in one line."""
    process = start_demo(tmp_path)
    try:
        for line in process.stdout:
            if b"answers 200 OK" in line:
                break
        assert processes_in(str(tmp_path))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=DEADLINE_S)
    finally:
        process.kill()
    assert (process.returncode, err) == (130, b"")
    assert b"interrupted; what was started has been ended" in out
    assert processes_in(str(tmp_path)) == []
    assert list(tmp_path.iterdir()) == []


@linux_only
def test_a_demo_that_nobody_reads_ends_quietly(tmp_path):
    """A demo whose reader goes away ends, with all that it started, and without a traceback."""
    process = start_demo(tmp_path)
    process.stdout.readline()
    process.stdout.close()
    with process.stderr as errors:
        assert errors.read() == b""
    assert process.wait(DEADLINE_S) == 1
    assert processes_in(str(tmp_path)) == []
    assert list(tmp_path.iterdir()) == []


@posix_only
def test_the_demo_fails_where_the_machine_does_not_do():
    """Where something does not work, --demo says what, and its exit status is 1."""
    few_descriptors = ["sh", "-c", 'ulimit -n 8; exec "$@"', "sh"]
    process = subprocess.run(
        few_descriptors + SERVER + ["--demo"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=ENVIRONMENT,
        timeout=60,
        check=False,
    )
    assert process.returncode == 1
    out = " ".join(process.stdout.decode().split())
    assert "This did not work: " in out
    assert "Too many open files" in out
    assert process.stderr == b""
