"""Hints: a mistake in a command is answered with what to do instead, and nothing else is."""

from __future__ import annotations

import os

import pytest

from backgroundr.arguments import TaskSettings
from backgroundr.hints import silence_hint, start_hint


class Silent:
    """As much of the status of a task that has printed nothing as a hint looks at."""

    is_final = False
    total_bytes = 0
    runtime_s = 2.0

    def __init__(self, command, **settings):
        self.settings = TaskSettings(command, **settings)


@pytest.fixture(autouse=True)
def no_root_and_no_unbuffered_python(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000, raising=False)
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("npm run dev &", "ends in '&'"),
        ("(sleep 5) & \n", "ends in '&'"),
        ("npm run dev > log 2>&1 &", "ends in '&'"),
        ("cd sub", "'cd' changes nothing"),
        ("cd sub; export A=1", "'cd' changes nothing"),
        (". venv/bin/activate", "'.' changes nothing"),
        ("sudo apt-get update", "sudo asks"),
        ("make && X=1 sudo make install", "sudo asks"),
    ],
)
def test_a_mistake_in_a_command_is_told(command, words):
    """A command that will not do what was meant is started, with a word about it."""
    assert words in start_hint(TaskSettings(command))


@pytest.mark.parametrize(
    "command",
    [
        "make && echo done",
        "echo '&'",
        "echo \\&",
        "echo hi # and &",
        "server & wait",
        "cd sub && make",
        "cd sub & pwd",
        "cd sub | cat",
        "echo sudo",
        "echo 'a; sudo b'",
        "sudo -n apt-get update",
        "sudo -u bob -n id",
        "sudoedit x",
        "echo 'no end of quotes &",
        "&",
        "echo %s &" % ("x" * 5000),
    ],
)
def test_a_sound_command_gets_no_hint(command):
    """Rather no hint than a wrong one."""
    assert start_hint(TaskSettings(command)) == ""


def test_who_can_answer_sudo_gets_no_hint(monkeypatch):
    """On a terminal sudo can be answered, and root is not asked."""
    if os.name == "posix":
        assert start_hint(TaskSettings("sudo id", pty=True)) == ""
    monkeypatch.setattr(os, "geteuid", lambda: 0, raising=False)
    assert start_hint(TaskSettings("sudo id")) == ""


@pytest.mark.parametrize(
    ("command", "is_told"),
    [
        ("python app.py", True),
        ("exec /usr/bin/python3.12 -m http.server", True),
        ("cd x && PORT=1 python3 app.py -u", True),
        ("timeout 5m python3 app.py", True),
        ("python3 -u app.py", False),
        ("python3 -Bu app.py", False),
        ("sleep 45; echo python3 app.py", False),
        ("sleep 45 # python3 app.py", False),
        ("npm run python", False),
    ],
)
def test_python_that_holds_its_output_back_is_told(command, is_told):
    """A Python program that has printed nothing to a pipe gets the way to see its output."""
    assert ("python -u" in silence_hint(Silent(command))) is is_told


def test_only_a_silent_python_is_told(monkeypatch):
    """Not one that prints, is over, has just begun, has a terminal, or does not hold back."""
    assert silence_hint(Silent("python app.py"))
    assert not silence_hint(Silent("python app.py", env={"PYTHONUNBUFFERED": "1"}))
    if os.name == "posix":
        assert not silence_hint(Silent("python app.py", pty=True))
    for name, value in (("is_final", True), ("total_bytes", 1), ("runtime_s", 0.5)):
        task = Silent("python app.py")
        setattr(task, name, value)
        assert not silence_hint(task)
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    assert not silence_hint(Silent("python app.py"))
    assert silence_hint(Silent("python app.py", env={"PYTHONUNBUFFERED": ""}))
