"""The terminal's side of a pty: keys, and answers to what programs ask."""

from __future__ import annotations

import pytest

from backgroundr.stdio import COLUMNS, ROWS
from backgroundr.terminal import KEYS, Terminal, cursor_place

from .programs import eventually


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        ("ctrl-c", b"\x03"),
        ("Ctrl+C", b"\x03"),
        ("^c", b"\x03"),
        ("control_d", b"\x04"),
        ("ctrl-z", b"\x1a"),
        ("escape", b"\x1b"),
        ("Esc", b"\x1b"),
        ("enter", b"\r"),
        ("tab", b"\t"),
        ("backspace", b"\x7f"),
        ("up", b"\x1b[A"),
        ("page-down", b"\x1b[6~"),
        ("PageDown", b"\x1b[6~"),
        ("f1", b"\x1bOP"),
        ("f12", b"\x1b[24~"),
    ],
)
def test_a_key_sends_what_it_sends_in_xterm(name, sent):
    """Keys have their usual names, and are understood in other ways of writing."""
    assert Terminal().key(name) == sent


def test_every_key_can_be_pressed():
    """Each key of the list has a sequence of its own, but for those that are the same key."""
    terminal = Terminal()
    sent = {name: terminal.key(name) for name in KEYS}
    same = [{"enter", "ctrl-m"}, {"tab", "ctrl-i"}]
    for name, other in ((one, two) for one in KEYS for two in KEYS if one < two):
        assert (sent[name] == sent[other]) is ({name, other} in same)
    with pytest.raises(KeyError):
        terminal.key("ctrl-alt-delete")


def test_arrow_keys_follow_the_mode_that_a_program_has_asked_for():
    """A program that has switched to application cursor keys gets those, until it switches back."""
    terminal = Terminal()
    assert terminal.see(b"\x1b[?1") == b""
    assert terminal.see(b"049;1h") == b""
    assert (terminal.key("up"), terminal.key("home")) == (b"\x1bOA", b"\x1bOH")
    terminal.see(b"\x1b[?25l")
    assert terminal.key("left") == b"\x1bOD"
    terminal.see(b"\x1b[?1l")
    assert terminal.key("left") == b"\x1b[D"


def test_questions_are_answered_wherever_they_are_cut():
    """The place of the cursor, the state and the kind of the terminal are told, each once."""
    asked = b"one\r\ntwo \x1b[6nand\x1b[5n\x1b[c\x1b[0c."
    answer = b"\x1b[2;5R\x1b[0n\x1b[?1;2c\x1b[?1;2c"
    assert Terminal().see(asked) == answer
    for cut in range(len(asked)):
        terminal = Terminal()
        assert terminal.see(asked[:cut]) + terminal.see(asked[cut:]) == answer
    terminal = Terminal()
    assert b"".join(terminal.see(bytes([byte])) for byte in asked) == answer


def test_a_flood_of_questions_is_not_answered_one_by_one():
    """Who asks thousands of times at once gets a few answers: nobody waits for the others."""
    terminal = Terminal()
    assert 0 < terminal.see(b"\x1b[6n" * 100000).count(b"R") < 20
    assert terminal.see(b"x" * 100000) == b""
    assert eventually(lambda: terminal.see(b"\x1b[5n"), "the next answer") == b"\x1b[0n"


@pytest.mark.parametrize(
    ("output", "place"),
    [
        (b"", (1, 1)),
        (b">>> ", (1, 5)),
        (b"a\r\nb\r\n$ \x1b[32mls\x1b[0m", (3, 5)),
        (b"a\r\nb\x1b[2J\x1b[Hnew", (1, 4)),
        (b"a\r\nb\x1b[2J\x1b[H", (1, 1)),
        (b"\n" * 500, (ROWS, 1)),
        (b"x" * 500, (1, COLUMNS)),
        (b"text\x1b[7;9H", (7, 9)),
        (b"text\x1b[9999;9999H", (ROWS, COLUMNS)),
        (b"text\x1b[999C\x1b[999B", (ROWS, COLUMNS)),
    ],
)
def test_the_cursor_is_where_the_output_has_left_it(output, place):
    """Row and column, from 1; a program that measures the screen finds its lower right."""
    assert cursor_place(output) == place
