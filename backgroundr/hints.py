"""Hints: mistakes that can be seen in a command, or in what became of it, and what to do instead.

Each is one sentence or two, for a model that has made the mistake; "" where there is none.
Rather none than a wrong one: what is not understood of a command gets no hint.
"""

from __future__ import annotations

import os
import re
import shlex

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Tuple

    from .arguments import TaskSettings
    from .status import TaskStatus

    # The words of simple commands, and the operators behind them; the last may be "".
    Commands = List[Tuple[List[str], str]]

# Not in quotes, and not "\\&".
_ENDS_IN_AMPERSAND = re.compile(r"(?<!\\)&\s*$")
# What changes only the shell that runs it.
_CHANGES_THE_SHELL = {"cd", "pushd", "export", "source", ".", "unset", "umask", "alias"}
# What may stand before the program of a command.
_BEFORE_PROGRAM = re.compile(
    r"-.*|[0-9.]+[smh]?|\w+=.*"
    r"|if|then|else|while|until|do|!|\{|command|env|exec|nice|nohup|stdbuf|time|timeout"
    r"|poetry|run|uv"
)
_PYTHON = re.compile(r"(?:python|pypy)[0-9.]*(?:\.exe)?")
# Do not prompt; or take the password from stdin, or from a program.
_SUDO_WITHOUT_PROMPT = re.compile(r"-[a-zA-Z]*[nSA]|--(?:non-interactive|stdin|askpass)")
_PYTHON_UNBUFFERED = re.compile(r"-[a-zA-Z]*u")
# A longer command is no slip of the hand, and to take it apart would hold up other calls.
_LONGEST_CHARS = 4096
# A program that prints at all has mostly begun by then.
_SILENT_S = 1.0


def start_hint(settings: TaskSettings) -> str:
    """Return what to say of a command at its start."""
    commands = _commands(settings.command)
    if not commands:
        return ""
    if commands[-1][1] == "&" and _ENDS_IN_AMPERSAND.search(settings.command):
        return (
            "The command ends in '&': its shell ends at once, and the task with it, while what it"
            " started runs on unwatched. Leave out the '&'; a task is in the background anyway."
        )
    if all(words[0] in _CHANGES_THE_SHELL for words, _ in commands) and all(
        operator in ("&&", ";", "") for _, operator in commands
    ):
        return (
            "Each task has a shell of its own, so that '%s' changes nothing for later ones: give"
            " cwd and env to run_background_task, or put all into one command." % commands[0][0][0]
        )
    can_ask = settings.pty or getattr(os, "geteuid", int)() == 0
    if not can_ask and any(_may_prompt(words) for words, _ in commands):
        return (
            "If sudo asks for a password, it fails without a terminal: use 'sudo -n' to be sure,"
            " or start it with pty and answer with send_task_input."
        )
    return ""


def silence_hint(task: TaskStatus) -> str:
    """Return what to say of a task that has printed nothing."""
    settings = task.settings
    if task.is_final or task.total_bytes or task.runtime_s < _SILENT_S or settings.pty:
        return ""
    is_unbuffered = settings.env.get("PYTHONUNBUFFERED", os.environ.get("PYTHONUNBUFFERED"))
    if not is_unbuffered and any(
        _holds_output_back(words) for words, _ in _commands(settings.command)
    ):
        return (
            "Python holds back what it prints to a pipe: restart it with 'python -u',"
            " PYTHONUNBUFFERED=1 in env, or pty, to see its output as it comes."
        )
    return ""


def _commands(line: str) -> Commands:
    """Return the simple commands of a command line, as far as quotes and operators tell; none
    where they do not."""
    words: List[str] = []
    commands: Commands = []
    if len(line) > _LONGEST_CHARS:
        return []
    try:
        line = line.strip().replace("\n", ";")
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|()")
        lexer.whitespace_split = True
        for token in lexer:
            if token.strip(";&|()"):
                words.append(token)
            elif words:
                commands.append((words, token))
                words = []
            elif commands:  # behind a bracket
                commands[-1] = (commands[-1][0], token)
    except ValueError:
        return []
    if words:
        commands.append((words, ""))
    return commands


def _program(words: List[str]) -> Tuple[str, List[str]]:
    """Return the name of the program that a simple command runs, and the words behind it."""
    rest = list(words)
    while rest and _BEFORE_PROGRAM.fullmatch(rest[0]):
        del rest[0]
    return (os.path.basename(rest[0]) if rest else ""), rest[1:]


def _may_prompt(words: List[str]) -> bool:
    program, arguments = _program(words)
    # Also where it is an option of what sudo runs; its own may have arguments.
    return program == "sudo" and not any(map(_SUDO_WITHOUT_PROMPT.fullmatch, arguments))


def _holds_output_back(words: List[str]) -> bool:
    program, arguments = _program(words)
    if any(">" in word for word in words):
        return False  # what it prints is meant for somewhere else
    for argument in arguments:
        if not argument.startswith("-"):
            break
        if _PYTHON_UNBUFFERED.match(argument):
            return False
    return _PYTHON.fullmatch(program) is not None
