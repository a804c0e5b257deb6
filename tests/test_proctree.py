"""Process trees: who belongs to one, and that nobody else is ever signalled."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from .programs import eventually, is_alive, linux_only, new_mark, posix_only, processes_with

if sys.platform == "win32":
    pytest.skip("the trees of POSIX", allow_module_level=True)

from backgroundr import proctable
from backgroundr.marks import (
    DEFAULT_TIMER_SLACK_NS,
    ENV_NAME,
    base_of,
    is_mark,
    mark_path,
    marks_in_path,
    new_base_mark,
    timer_slack_of,
    timer_slacks_of,
    tree_mark,
)
from backgroundr.proctree import open_tree, shell_argv, survey


@pytest.fixture
def grow():
    """Returns a function that starts a command as a tree; all are ended after the test."""
    trees = []

    def grow(command, alone=False):
        mark = tree_mark(new_base_mark(), 0)
        trees.append(open_tree(["/bin/sh", "-c", command], "/", {}, mark, alone))
        return trees[-1]

    yield grow
    for tree in trees:
        tree.discard()


def pids(tree):
    return {member.pid for member in survey([tree])[tree]}


def test_marks_are_told_from_other_numbers():
    """A mark is one, its base is known by it, and no limit in use looks like one."""
    base = new_base_mark()
    marks = [tree_mark(base, serial) for serial in (0, 1, 10**6, 2**20 - 2)]
    assert all(is_mark(mark) and base_of(mark) == base != mark for mark in marks)
    assert len(set(marks)) == 4
    assert tree_mark(base, 2**20 - 1) == marks[0]
    assert is_mark(base)
    assert base_of(base) == base
    assert not any(map(is_mark, (-1, 0, 65536, 10**12, 2**61 - 1, 2**62, 2**63 - 1, 2**64 - 1)))
    assert new_base_mark() != base


def test_a_timer_slack_stands_for_a_mark():
    """It is never everybody's, hardly more than that, and a base has those of its trees."""
    for _ in range(50):
        base = new_base_mark()
        slacks = {timer_slack_of(tree_mark(base, serial)) for serial in range(64)}
        assert len(slacks) == 64
        assert set(timer_slacks_of(base)) == slacks
        assert timer_slacks_of(base + 5) == [timer_slack_of(base + 5)]
    # Whatever the bits are, it is not the one that every process has.
    values = {timer_slack_of(manager << 20 | tree) for manager in range(1024) for tree in range(64)}
    assert len(values) == 65536
    assert min(values) > 1000
    assert max(values) < 67000
    assert DEFAULT_TIMER_SLACK_NS not in values


def test_a_path_of_marks_is_read_from_the_inside():
    """Marks of nested managers are appended; what is no path of marks has none."""
    first, second = new_base_mark(), new_base_mark()
    path = mark_path(mark_path(None, first), second)
    assert marks_in_path(path) == [second, first]
    assert marks_in_path(mark_path(None, first)) == [first]
    assert mark_path(b"", first) == mark_path(None, first)
    for wrong in (b"", b"a word", b"12:", b"\xff"):
        assert list(marks_in_path(wrong)) == []


class Recorded(proctable.MarkedTree):
    """A tree of no processes: what would be signalled is kept in `sent`."""

    def __init__(self, monkeypatch, now=1000):
        super().__init__(0, 0)
        self.now = now
        self.sent = []
        monkeypatch.setattr(
            proctable, "signal_member", lambda member, number: self.sent.append(member.pid)
        )
        monkeypatch.setattr(proctable, "now_ticks", lambda: self.now)

    def _signal_groups(self, number):
        return True


def member(pid, started, in_group=False, orphan=True):
    return proctable.Member(pid, started, in_group, orphan)


@pytest.mark.parametrize(
    ("later", "signalled"),
    [
        (member(7, 990), True),  # missed by the survey, though it was there
        (member(7, 1000), True),  # lost its parent in the same tick: not a cleaner
        (member(7, 1000, orphan=False), False),  # its parent lives: perhaps a cleaner
        (member(7, 1001), False),  # younger than the signal
        (member(7, 990, in_group=True), False),  # the group was signalled
        (member(3, 900), True),  # left the group before the signal came
        (member(5, 900), False),  # got the signal itself
    ],
)
def test_strays_get_the_signal_and_cleaners_are_spared(monkeypatch, later, signalled):
    """After the first signal, what was missed gets it too, once, and what it caused does not."""
    tree = Recorded(monkeypatch)
    tree.signal([member(5, 900), member(4, 800), member(3, 900, in_group=True)], signal.SIGTERM)
    assert tree.sent == [4, 5]  # parents first
    tree.sent.clear()
    assert tree.signal_strays([later], signal.SIGTERM) == signalled
    tree.now += 50
    assert not tree.signal_strays([later], signal.SIGTERM)
    assert tree.sent == [later.pid] * signalled


@linux_only
def test_who_was_known_stays_known(grow):
    """A process that never had a mark belongs to the tree after it has lost its parents."""
    mark = new_mark()
    # What PAM does to a login: limits set anew, another environment, another session.
    tree = grow(
        "prlimit --rttime=unlimited --locks=unlimited env -i"
        " sh -c 'setsid sleep %s & wait' & wait" % mark
    )
    (daemon,) = eventually(lambda: processes_with("sleep\0" + mark), "the daemon")
    eventually(lambda: daemon in pids(tree), "its descent")
    os.killpg(tree.pid, signal.SIGKILL)
    tree.wait_exit()
    eventually(lambda: pids(tree) == {daemon}, "the rest of the tree to be gone")
    tree.reap()
    assert pids(tree) == {daemon}


@linux_only
def test_a_timer_slack_is_no_proof_against_a_mark(grow, monkeypatch):
    """It counts for those that have no other mark, in the time when no other tree had the same."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    unmarked = "prlimit --rttime=unlimited --locks=unlimited env -i"
    first = grow("true")
    first.wait_exit()
    slack = timer_slack_of(first.mark)
    slacks = {}
    monkeypatch.setattr(proctable, "_timer_slack", lambda pid: slacks.get(pid, 50000))
    others = grow("sleep 600 & %s sleep 600 & wait" % unmarked)
    mine = subprocess.Popen(unmarked.split() + ["setsid", "sleep", "600"])
    try:
        eventually(lambda: len(pids(others)) == 3, "the other tree")
        # All have the same slack: another tree's marked ones, their unmarked child, and one
        # that nothing else is known of.
        slacks.update(dict.fromkeys([*pids(others), mine.pid], slack))
        eventually(lambda: pids(first) == {mine.pid} or not is_alive(mine.pid), "its survey")
        assert pids(first) == {mine.pid}
        first.known = {}
        first._slack_until_ticks = first.started_ticks
        assert pids(first) == set()
        # Who is older than the tree is nobody's.
        first._slack_until_ticks = None
        assert not first.owns_timer_slack(first.started_ticks - 1)
    finally:
        mine.kill()
        mine.wait()


@linux_only
def test_a_survey_tells_trees_apart(grow):
    """One survey finds the processes of several trees, each under its own."""
    first, second = (
        grow("sleep 600 & sleep 600"),
        grow("setsid sleep 600 & wait"),
    )
    eventually(lambda: len(pids(first)) == 3, "the first tree")
    eventually(
        lambda: {member.in_group for member in survey([second])[second]} == {True, False},
        "the second tree, one process of it in a group of its own",
    )
    found = survey([first, second])
    assert first.pid in {member.pid for member in found[first]}
    assert second.pid in {member.pid for member in found[second]}
    assert not pids(first) & pids(second)


@linux_only
def test_a_survey_does_not_count_zombies(grow):
    """A command that has exited is nobody, though its pid is still taken."""
    tree = grow("exit 0")
    tree.wait_exit()
    assert os.path.exists("/proc/%d" % tree.pid)
    assert pids(tree) == set()


@linux_only
def test_a_daemon_is_found_by_its_mark(grow):
    """A process that left session, group and parent is found by its environment."""
    mark = new_mark()
    tree = grow("(setsid sleep %s &)" % mark)
    tree.wait_exit()
    daemon = eventually(lambda: processes_with("sleep\0" + mark), "the daemon")
    # In the moment of its exec a process shows its arguments, and its environment not yet.
    eventually(lambda: pids(tree) == set(daemon), "its environment")


@linux_only
def test_descent_finds_what_cleared_its_environment(grow):
    """A process without the mark is found while its parent, or session, is the tree's."""
    mark = new_mark()
    tree = grow("env -i sleep %s & env -i setsid sleep %s & wait" % (mark, mark))
    both = eventually(
        lambda: len(processes_with("sleep\0" + mark)) == 2 and processes_with("sleep\0" + mark),
        "two processes",
    )
    assert set(both) < pids(tree)


@linux_only
def test_trees_inside_trees_belong_to_both(grow, monkeypatch):
    """What a nested program marks as its own is still found by the outer one."""
    outer = grow("setsid sleep 600 & wait")
    monkeypatch.setenv(ENV_NAME, "%x" % outer.mark)
    inner = grow("setsid sleep 600 & wait")
    monkeypatch.undo()
    eventually(lambda: len(pids(outer)) == 4, "both trees")
    assert pids(inner) < pids(outer)
    assert len(pids(inner)) == 2


@linux_only
def test_a_reused_pid_is_not_signalled():
    """A process that started at another time than the one that was found is left alone."""
    stranger = subprocess.Popen(["sleep", "600"])
    try:
        started = proctable._read_process(stranger.pid).started
        found = proctable.Member(stranger.pid, started - 1, in_group=False)
        proctable.signal_member(found, signal.SIGKILL)
        assert stranger.poll() is None
        found.started = started
        proctable.signal_member(found, signal.SIGKILL)
        assert stranger.wait(10) == -signal.SIGKILL
    finally:
        stranger.kill()
        stranger.wait()


@posix_only
def test_a_reaped_command_is_not_signalled(grow, monkeypatch):
    """Once its pid is free for others, a command's group gets no signal any more."""
    sent = []
    tree = grow("exit 4")
    tree.wait_exit()
    assert tree.reap() == 4
    monkeypatch.setattr(os, "killpg", lambda *call: sent.append(call))
    tree.signal([], signal.SIGTERM)
    tree.kill([])
    assert sent == []
    assert tree.reap() == 4


@posix_only
def test_a_command_that_somebody_else_reaped_is_not_signalled(grow, monkeypatch):
    """In a host that waits for every child, the number is free without our knowing."""
    sent = []
    tree = grow("exit 4")
    os.waitpid(tree.pid, 0)
    monkeypatch.setattr(os, "killpg", lambda *call: sent.append(call))
    tree.signal([], signal.SIGTERM)
    tree.kill([])
    assert sent == []
    assert not tree.owns_groups(tree.started_ticks)
    assert tree.reap() == 0


@linux_only
def test_a_group_number_that_came_to_a_stranger_is_not_ours(grow):
    """After the reap, only processes that are older than it count as the command's group."""
    tree = grow("exit 0")
    tree.wait_exit()
    now = proctable.now_ticks()
    assert tree.owns_groups(now + 1000)
    tree.reap()
    assert tree.owns_groups(now - 1)
    # The number may be given out anew in the very tick of the reap.
    assert not tree.owns_groups(tree._reaped_ticks)


@linux_only
def test_the_signal_reaches_each_process_once(grow, tmp_path):
    """Group and strays get one signal each, however often the tree is looked at."""
    log, script = tmp_path / "log", tmp_path / "script"
    log.touch()
    script.write_text(
        "cd %s\ntrap 'echo $1 >> log' TERM\ntouch ready.$1\n"
        "while :; do sleep 0.02; done\n" % tmp_path
    )
    tree = grow("setsid sh %s stray & exec sh %s group" % (script, script))
    eventually(lambda: len(list(tmp_path.glob("ready.*"))) == 2, "both handlers")
    tree.signal(survey([tree])[tree], signal.SIGTERM)
    for _ in range(10):
        tree.signal_strays(survey([tree])[tree], signal.SIGTERM)
    eventually(lambda: len(log.read_text().split()) >= 2, "both to be told")
    tree.signal_strays(survey([tree])[tree], signal.SIGTERM)
    assert sorted(log.read_text().split()) == ["group", "stray"]


@posix_only
def test_without_proc_the_group_is_found(grow, monkeypatch):
    """Where ps is all there is, groups and descent are still seen."""
    if sys.platform == "linux":
        monkeypatch.setattr(proctable, "_processes", proctable.processes_of_ps)
        monkeypatch.setattr(proctable, "_marks_in_environment", lambda pid: [])
        # What ps tells is in seconds since the epoch, not in clock ticks.
        monkeypatch.setattr("backgroundr.proctree_posix.now_ticks", lambda: 0)
    tree = grow("sleep 600 & setsid sleep 600 & wait")
    eventually(lambda: len(pids(tree)) == 3, "the tree in the table of ps")


@linux_only
def test_a_running_command_is_seen_even_without_proc(grow, monkeypatch):
    """Where the table of processes is empty, the command itself is still known to run."""
    monkeypatch.setattr(os, "listdir", lambda path: [])
    tree = grow("exec sleep 600")
    assert pids(tree) == {tree.pid}
    tree.kill([])
    tree.wait_exit()
    assert pids(tree) == set()


@pytest.mark.parametrize(
    ("shell", "argv"),
    [
        ("/bin/bash", ["/bin/bash", "-c", "ls"]),
        ("C:\\Windows\\cmd.exe", ["C:\\Windows\\cmd.exe", "/d", "/s", "/c", "ls"]),
        ("pwsh", ["pwsh", "-NoProfile", "-NonInteractive", "-Command", "ls"]),
        (None, ["/bin/sh", "-c", "ls"]),
    ],
)
def test_each_shell_gets_its_own_flags(shell, argv):
    """A command line is handed to a shell in the way that this shell takes it."""
    assert shell_argv(shell, "ls") == argv


@linux_only
def test_discard_leaves_nothing(grow):
    """A discarded tree is gone, and its descriptors are closed."""
    tree = open_tree(["/bin/sh", "-c", "setsid sleep 600 & sleep 600"], "/", {}, new_base_mark())
    eventually(lambda: len(pids(tree)) == 3, "the tree")
    members = pids(tree)
    tree.discard()
    eventually(lambda: not any(is_alive(pid) for pid in members), "the tree to be gone")
    for fd in tree.pipes:
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(fd)


@linux_only
def test_discard_does_without_a_survey(monkeypatch):
    """Where the table of processes cannot be read, the command's group is still ended."""
    tree = open_tree(["/bin/sh", "-c", "sleep 600 & sleep 600"], "/", {}, new_base_mark())
    eventually(lambda: len(pids(tree)) == 3, "the tree")
    members = pids(tree)

    def refuse(path):
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", refuse)
        tree.discard()
    eventually(lambda: not any(is_alive(pid) for pid in members), "the tree to be gone")
