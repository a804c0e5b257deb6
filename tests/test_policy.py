"""The allow-list of a locked-down machine: what starts, what is refused, and what is said of it."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time

import pytest

from backgroundr import InvalidValue, NotAllowed, SpawnFailed, TaskManager
from backgroundr.arguments import TaskSettings
from backgroundr.policy import StartPolicy

from .client import Client
from .programs import DEADLINE_S, posix_only, python

pytestmark = posix_only

# Prints its arguments, one a line.
SHOW_ARGUMENTS = "import json, sys; print(json.dumps(sys.argv[1:]))"


def output_of(manager, command, **arguments):
    """Return what a command printed, once it has ended."""
    task = manager.wait(manager.start(command, **arguments).task_id, DEADLINE_S)
    return manager.output(task.task_id).text


@pytest.fixture(scope="module")
def anything():
    """A manager that starts whatever needs no shell."""
    with TaskManager(allow=["**"]) as manager:
        yield manager


def is_allowed(pattern, command):
    """Whether a command would start where only `pattern` is allowed."""
    try:
        StartPolicy([pattern], False, []).admit(TaskSettings(command))
    except NotAllowed:
        return False
    except SpawnFailed:
        pass  # there is no such program
    return True


@pytest.mark.parametrize(
    ("pattern", "command", "allowed"),
    [
        ("make", "make", True),
        ("make", "make all", False),
        ("make *", "make", False),
        ("make *", "make all", True),
        ("make *", "make all now", False),
        ("make **", "make", True),
        ("make **", "make all now", True),
        ("make **", "cmake all", False),
        ("make test-[ab]?", "make test-b1", True),
        ("make test-[ab]?", "make test-c1", False),
        ("make 'a b'", "make a\\ b", True),
        ("make 'a b'", "make a b", False),
        ("Make", "make", False),
        ("make", "/bin/make", False),
        ("make", "./make", False),
        ("make ./*", "make ./a/b", True),
        ("make ./*", "make ./a/../../b", False),
        ("make ./*", "make ./a..b", True),
        ("make ../*", "make ../a", True),
        ("make a*b*c", "make aXbXbXc", True),
        ("make a*b*c", "make aXcXb", False),
        ("make *a", "make ba", True),
        ("make [*]*", "make '*x'", True),
        ("make [*]*", "make x", False),
        ("make [!ab]*", "make c", True),
        ("make [!ab]*", "make a", False),
        ("make", "  make\n", True),
        ("**", "anything at all", True),
        ("**", "-c id", False),
    ],
)
def test_a_pattern_is_matched_word_by_word(pattern, command, allowed):
    """A command starts if each of its words matches the pattern's, as many as there are."""
    assert is_allowed(pattern, command) is allowed


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ("a  b\tc", ["a", "b", "c"]),
        ("'a | b; c' \"d & e\"", ["a | b; c", "d & e"]),
        ("'$HOME' \\$HOME \\*", ["$HOME", "$HOME", "*"]),
        ('"it\'s" \'say "hi"\' "\\""', ["it's", 'say "hi"', '"']),
        ("'' a''b \"\"", ["", "ab", ""]),
        ("a~b a#b 'x'~", ["a~b", "a#b", "x~"]),
        ("né=日本", ["né=日本"]),
        ("{a,b} ! ^ % @ = , -", ["{a,b}", "!", "^", "%", "@", "=", ",", "-"]),
        ("a\rb \x0b \u2003", ["a\rb", "\x0b", "\u2003"]),
        ("'a\nb' \"c\nd\"", ["a\nb", "c\nd"]),
    ],
)
def test_words_are_those_of_a_shell(anything, words, arguments):
    """The program gets the arguments that a shell would have given it, and no shell ran."""
    command = "%s -S -c %s %s" % (sys.executable, shlex.quote(SHOW_ARGUMENTS), words)
    assert json.loads(output_of(anything, command)) == arguments
    by_shell = subprocess.check_output(["sh", "-c", command.replace("{a,b}", "'{a,b}'")])
    assert json.loads(by_shell) == arguments


@pytest.mark.parametrize(
    ("command", "syntax"),
    [
        ("echo a | tee b", "'|'"),
        ("echo a; touch b", "';'"),
        ("echo a && touch b", "'&'"),
        ("echo a &", "'&'"),
        ("echo a > b", "'>'"),
        ("echo a < b", "'<'"),
        ("echo $(touch b)", "'$'"),
        ('echo "$(touch b)"', "'$'"),
        ("echo \"it's $HOME\" 'x'", "'$'"),
        ("echo `touch b`", "'`'"),
        ("(echo a)", "'('"),
        ("echo a\ntouch b", "a line break"),
        ("echo a\n\x85", "a line break"),
        ("echo a\\\nb", "a line break"),
        ('echo "a\\\nb"', "a line break"),
        ("echo *", "'*'"),
        ("echo a?", "'?'"),
        ("echo [ab]", "'['"),
        ("echo ~", "'~'"),
        ("echo a #b", "'#'"),
        ("echo 'a'#b ~", "'~'"),
    ],
)
def test_what_no_shell_means_is_said(tmp_path, command, syntax):
    """What only a shell understands is refused, with what to do instead, and nothing runs."""
    with TaskManager(allow=["echo **", "touch **"]) as manager:
        with pytest.raises(NotAllowed) as refusal:
            manager.start(command, cwd=str(tmp_path))
        assert manager.list() == []
    assert syntax in str(refusal.value)
    assert "run without a shell" in str(refusal.value)
    assert "'echo **', 'touch **'" in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_tells_the_patterns():
    """Who asks for something else hears what there is; very many patterns are counted."""
    patterns = ["make test-%d" % number for number in range(100)]
    with TaskManager(allow=patterns) as manager, pytest.raises(NotAllowed) as refusal:
        manager.start("rm -rf /")
    assert "it matches nothing that this server allows" in str(refusal.value)
    assert "'make test-0', 'make test-1'" in str(refusal.value)
    assert len(str(refusal.value)) < 1200
    for command, problem in (("ls 'x", "No closing quotation"), ("ls x\\\n", "No escaped char")):
        with TaskManager(allow=["ls"]) as manager, pytest.raises(NotAllowed, match=problem):
            manager.start(command)
    with TaskManager(allow=[]) as manager, pytest.raises(NotAllowed, match="word by word: nothing"):
        manager.start("ls")


def test_a_program_that_is_not_there_is_named():
    """Without a shell there is no exit code 127: the start says which program is missing."""
    with TaskManager(allow=["**"]) as manager:
        for program, reason in (
            ("no-such-program", "there is no program 'no-such-program' in the PATH"),
            ("/no/such/program", "No such file or directory: the program '/no/such/program'"),
            ("/tmp", "Permission denied: the program '/tmp'"),
        ):
            with pytest.raises(SpawnFailed) as failure:
                manager.start(program)
            assert reason in str(failure.value)
            assert not isinstance(failure.value, NotAllowed)


def test_a_project_cannot_put_its_programs_into_the_path(tmp_path, monkeypatch):
    """Entries of PATH that are relative, or empty, would lead to where a command runs."""
    (tmp_path / "tool").write_text("#!/bin/sh\necho taken\n")
    (tmp_path / "tool").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", ":.:%s" % os.environ["PATH"])
    with TaskManager(allow=["tool", "./tool"]) as manager:
        with pytest.raises(SpawnFailed, match="no program 'tool'"):
            manager.start("tool")
        assert output_of(manager, "./tool") == "taken"


def test_no_command_holds_the_server_up():
    """What takes long to look at is refused, or matched in time that its length bounds."""
    with TaskManager(allow=["echo **"]) as manager, pytest.raises(NotAllowed, match="40005 char"):
        manager.start("echo " + "x" * 40000)
    began = time.monotonic()
    assert not is_allowed("echo %s" % ("*a" * 30 + "b"), "echo " + "a" * 30000)
    assert time.monotonic() - began < DEADLINE_S


def test_an_allowed_task_is_like_any_other(tmp_path):
    """Without a shell too a task has input or a terminal, is ended whole, and starts again."""
    with TaskManager(allow=["cat", "tty", "sh -c **"]) as manager:
        assert manager.policy.admit(TaskSettings("cat"))[0] == [shutil.which("cat")]
        assert output_of(manager, "cat", stdin="hello") == "hello"
        assert output_of(manager, "tty", pty=True).startswith("/dev/")
        task = manager.start("sh -c 'setsid sleep 600 & echo $$; exec sleep 600'")
        again = manager.restart(task.task_id)
        assert manager.status(task.task_id).signal == "SIGTERM"
        assert manager.end(again.task_id).signal == "SIGTERM"


def test_the_environment_can_be_closed():
    """With deny_env no call changes what a program finds or loads."""
    with TaskManager(deny_env=True) as manager:
        assert output_of(manager, "echo hello", env={}) == "hello"
        with pytest.raises(NotAllowed, match="Start it without env"):
            manager.start("echo hello", env={"PATH": "/tmp"})


@pytest.fixture
def rooted(tmp_path):
    """A root with a directory, beside one that is not under it, and links between them."""
    root = tmp_path / "root"
    (root / "inside").mkdir(parents=True)
    (tmp_path / "root2").mkdir()
    (root / "out").symlink_to(tmp_path / "root2")
    (tmp_path / "in").symlink_to(root / "inside")
    (tmp_path / "link").symlink_to(root)
    return root


@pytest.mark.parametrize(
    ("cwd", "allowed"),
    [
        ("root", True),
        ("root/", True),
        ("root/inside/..", True),
        ("in", True),
        ("link/inside", True),
        (".", False),
        ("root/..", False),
        ("root/out", False),
        ("root2", False),
    ],
)
@pytest.mark.parametrize("root", ["root", "link"])
def test_directories_lie_under_a_root(rooted, root, cwd, allowed):
    """A command runs under the root or not at all, wherever links lead."""
    cwd = str(rooted.parent) + "/" + cwd
    policy = StartPolicy(None, False, [str(rooted.parent / root)])
    if allowed:
        assert policy.admit(TaskSettings("pwd", cwd=cwd))[1] == os.path.realpath(cwd)
    else:
        with pytest.raises(NotAllowed, match="does not lie under"):
            policy.admit(TaskSettings("pwd", cwd=cwd))


def test_a_task_runs_in_what_was_looked_at(rooted):
    """Not in the link by which it was asked for, which may lead elsewhere by then."""
    place = str(rooted.parent / "in")
    with TaskManager(cwd_roots=[str(rooted)]) as manager:
        assert output_of(manager, "pwd -L", cwd=place) == os.path.realpath(place)


def test_a_link_that_is_turned_later_leads_nowhere_else(rooted):
    """A restart looks again where its directory leads by now."""
    (rooted / "place").symlink_to(rooted / "inside")
    with TaskManager(cwd_roots=[str(rooted)]) as manager:
        task = manager.start("pwd -P", cwd=str(rooted / "place"))
        manager.wait(task.task_id, DEADLINE_S)
        (rooted / "place").unlink()
        (rooted / "place").symlink_to(rooted.parent)
        with pytest.raises(NotAllowed, match="which is really"):
            manager.restart(task.task_id)


def test_without_a_directory_a_task_runs_in_the_first_root(rooted, monkeypatch):
    """Where the server itself does not run under a root, its directory is not taken."""
    inside, other = str(rooted / "inside"), str(rooted.parent / "root2")
    with TaskManager(cwd_roots=[other, str(rooted)]) as manager:
        assert manager.start("pwd").cwd == other
        monkeypatch.chdir(inside)
        assert output_of(manager, "pwd -P") == os.path.realpath(inside)


@pytest.mark.parametrize(
    ("allow", "problem"),
    [
        ("ls", "must be a list of texts"),
        (5, "must be a list of texts"),
        ([5], "must be text"),
        ([""], "has an empty pattern"),
        (["ls 'x"], "with a mistake: No closing quotation"),
        (["ls '*'"], "that is written [*]"),
        (["ls \\?"], "that is written [?]"),
        (["ls | wc"], "with '|', which no command can have"),
        (["ls ** x"], "with '**' before its last word"),
    ],
)
def test_a_wrong_pattern_is_refused_at_once(allow, problem):
    """A list that could not mean what it says is an error before anything starts."""
    with pytest.raises(InvalidValue) as error:
        StartPolicy(allow, False, [])
    assert problem in str(error.value)


def test_a_shell_and_an_allow_list_exclude_each_other():
    """No shell runs an allowed command, so none can be chosen; a root has to be there."""
    with pytest.raises(InvalidValue, match="shell must not be given with allow"):
        TaskManager(shell="/bin/sh", allow=["ls"])
    with pytest.raises(InvalidValue, match="cwd_roots must be an existing"):
        TaskManager(cwd_roots=["/no/such/directory"])


def test_a_model_reads_what_it_may_start(rooted):
    """The list of tools tells of the rules, and a refusal is an answer that can be acted on."""
    flags = ["--allow", "echo **", "--allow", "make test-*", "--deny-env"]
    with Client(flags=[*flags, "--cwd-root", str(rooted)]) as client:
        client.open()
        properties = client.tools()["run_background_task"]["inputSchema"]["properties"]
        assert "'echo **', 'make test-*'" in properties["command"]["description"]
        assert properties["env"]["description"] == "Not allowed here."
        assert properties["cwd"]["description"].endswith("under %s." % rooted)
        for arguments in (
            {"command": "ls"},
            {"command": "echo a | cat"},
            {"command": "echo a", "env": {"A": "b"}},
            {"command": "echo a", "cwd": "/"},
        ):
            refused = client.call("run_background_task", **arguments)
            assert refused.is_error
            assert refused.text.startswith("The command was not started: ")
        done = client.call("run_background_task", command="echo 'a | b'", wait_seconds=20)
        assert done.structured["output"] == "a | b"


def test_an_interpreter_on_the_list_allows_everything():
    """What README warns of: a program that runs what it is told is no fence."""
    with TaskManager(allow=["%s **" % sys.executable]) as manager:
        shown = output_of(manager, python("import os; os.system('echo out')").replace("exec ", ""))
        assert shown == "out"
