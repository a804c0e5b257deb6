"""The command line: what a person sees."""

from __future__ import annotations

import os
import re
import signal
import subprocess

import pytest

from backgroundr import __version__

from .client import ENVIRONMENT, SERVER, Client
from .programs import DEADLINE_S, HELLO, eventually, linux_only, posix_only, processes_in


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


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("BACKGROUNDR_MAX_TASKS", "9" * 5000 + "x", "must be a whole number"),
        ("BACKGROUNDR_MAX_TASKS", "many", "must be a whole number, 1 or more, not 'many'"),
        ("BACKGROUNDR_MAX_TASKS", " ", "must not be empty"),
        ("BACKGROUNDR_MAX_TASK", "1", "there is no such option; there are BACKGROUNDR_SHELL, "),
        ("BACKGROUNDR_DENY_ENV", "maybe", "must be one of 1, true, yes, on, 0, false, no, off"),
        ("BACKGROUNDR_ALLOW", "ls\nls | wc", "has a pattern 'ls | wc' with '|'"),
        ("BACKGROUNDR_CWD_ROOT", "/no/such", "there is no directory '/no/such'"),
        ("BACKGROUNDR_SHELL", "/no/such", "there is no program '/no/such'"),
    ],
)
def test_a_wrong_setting_is_named(name, value, problem):
    """A variable that is no option, or cannot be used, is an error at the start, on stderr."""
    status, out, err = run(env={**ENVIRONMENT, name: value})
    assert (status, out) == (2, "")
    assert err.startswith("backgroundr: error: %s: %s" % (name, problem))
    assert err.count("\n") == 1
    assert len(err) < 500


def test_a_shell_and_an_allow_list_exclude_each_other():
    """Wherever the two were given, the error names both places."""
    status, out, err = run("--allow", "ls", env={**ENVIRONMENT, "BACKGROUNDR_SHELL": "sh"})
    assert (status, out) == (2, "")
    assert "--shell (or BACKGROUNDR_SHELL) and --allow (or BACKGROUNDR_ALLOW)" in err


def test_every_option_has_a_form_in_the_environment(tmp_path):
    """What the command line says of a server its environment can say as well."""
    told = run("--help")[1]
    options = set(re.findall(r"--\w[\w-]*", told)) - {"--help", "--version", "--demo"}
    listed = run(env={**ENVIRONMENT, "BACKGROUNDR_": "x"})[2].split("there are ")[1].split(", ")
    names = {"BACKGROUNDR_" + option[2:].upper().replace("-", "_") for option in options}
    assert {name.strip() for name in listed} == names


@posix_only
def test_the_environment_sets_what_flags_set(tmp_path):
    """Settings work as flags do, several values on lines of their own; a flag goes before them."""
    settings = {
        "BACKGROUNDR_ALLOW": "echo **\npwd\n",
        "BACKGROUNDR_DENY_ENV": "1",
        "BACKGROUNDR_CWD_ROOT": str(tmp_path),
        "BACKGROUNDR_MAX_TASKS": "1",
        "BACKGROUNDR_LOG_DIR": str(tmp_path / "logs"),
        "BACKGROUNDR_TASK": "12",  # the mark of a task that the server runs in; no setting
    }
    with Client(env=settings, flags=["--allow", "sleep *", "--allow", "pwd"]) as client:
        client.open()
        for command, reason in (
            ("echo a", "Allowed are, word by word: 'sleep *', 'pwd'"),
            ("sleep 600", None),
            ("pwd", "1 task is running, as many as may run"),
        ):
            result = client.call("run_background_task", command=command)
            assert result.is_error is (reason is not None)
            assert reason is None or reason in result.text
            if not result.is_error:
                assert client.status(result.structured["task_id"])["cwd"] == str(tmp_path)
        assert len(list((tmp_path / "logs").iterdir())) == 1
        assert client.call("run_background_task", command="pwd", env={"A": "b"}).is_error
    with Client(env={"BACKGROUNDR_DENY_ENV": "off"}) as client:
        client.open()
        assert client.start(HELLO, env={"A": "b"})


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
