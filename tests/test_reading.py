"""Output as an agent reads it: page by page, by search, of floods, and what is no longer kept."""

from __future__ import annotations

import re

import pytest

from .client import Client
from .programs import (
    EXIT_0,
    HELLO,
    OUT_AND_ERR,
    eventually,
    linux_only,
    posix_only,
    python,
    shared,
)

# Prints what it is told to, a line of a file at a time: "1 text" to stdout, "2 text" to stderr.
PUPPET = """
import os, sys, time
at = 0
while True:
    with open(%r, "rb") as file:
        file.seek(at)
        lines = [line for line in file if line.endswith(b"\\n")]
    for line in lines:
        at += len(line)
        if line == b"end\\n":
            sys.exit()
        os.write(int(line[:1]), line[2:-1].decode("unicode_escape").encode("latin-1"))
    time.sleep(0.005)
"""


class Puppet:
    """A task that prints what the test wants, when it wants it."""

    def __init__(self, client, path):
        self._client = client
        self._path = path
        path.write_bytes(b"")
        self.task_id = client.start(python(PUPPET % str(path)))["task_id"]
        self._printed = 0

    def prints(self, data, stream=1):
        """Have the task print bytes, and wait until the server has them."""
        text = data.decode("latin-1").encode("unicode_escape").decode()
        with self._path.open("a") as file:
            file.write("%d %s\n" % (stream, text))
        self._printed += len(data)
        eventually(
            lambda: self._client.status(self.task_id)["total_bytes"] == self._printed, "the output"
        )

    def ends(self):
        with self._path.open("a") as file:
            file.write("end\n")
        return self._client.call("wait_for_task", task_id=self.task_id).structured


@pytest.fixture
def puppet(legacy_client, tmp_path):
    return Puppet(legacy_client, tmp_path / "script")


def page(client, task_id, **arguments):
    """Return a page of output, as structured content."""
    result = client.call("read_task_output", task_id=task_id, **arguments)
    assert not result.is_error, result.text
    return result.structured


def finished(client, command):
    task_id = client.start(command)["task_id"]
    assert client.call("wait_for_task", task_id=task_id).structured["reason"] == "exited"
    return task_id


# ---------------------------------------------------------------- pages


@shared
def test_output_is_read_page_by_page(client):
    """Pages that follow each other's cursors hold all of an output, each byte once."""
    task_id = finished(client, python("for i in range(5000): print('line', i)"))
    first = page(client, task_id)
    assert (first["skipped_bytes"], first["more"], first["output_open"]) == (0, True, False)
    assert (first["status"], first["exit_code"]) == ("completed", 0)
    assert len(first["output"]) <= 16384
    pages = [first]
    while pages[-1]["more"]:
        pages.append(page(client, task_id, cursor=pages[-1]["next_cursor"], max_bytes=10000))
    text = "".join(one["output"] for one in pages)
    assert text == "".join("line %d\n" % number for number in range(5000))
    assert sum(one["read_bytes"] for one in pages) == len(text) == first["total_bytes"]
    assert sum(one["read_lines"] for one in pages) == 5000
    assert page(client, task_id) == first  # reading has changed nothing
    last = page(client, task_id, cursor=pages[-1]["next_cursor"])
    assert (last["output"], last["more"], last["read_bytes"]) == ("", False, 0)


@shared
def test_two_readers_follow_a_task(legacy_client, puppet):
    """Two readers with cursors of their own each see all that a task prints."""
    seen = {"often": "", "seldom": ""}
    cursors = dict.fromkeys(seen)

    def read(reader):
        arguments = {} if cursors[reader] is None else {"cursor": cursors[reader]}
        answer = page(legacy_client, puppet.task_id, **arguments)
        seen[reader] += answer["output"]
        cursors[reader] = answer["next_cursor"]
        return answer

    for number, part in enumerate([b"one\n", b"tw", b"o\nthr", b"ee\n", b"caf\xc3", b"\xa9\n"]):
        puppet.prints(part)
        assert read("often")["output_open"]
        if number == 2:
            read("seldom")
    puppet.ends()
    assert not read("often")["output_open"]
    read("seldom")
    assert seen["often"] == seen["seldom"] == "one\ntwo\nthree\ncaf\u00e9\n"


@shared
def test_a_status_tells_where_to_read_on(legacy_client, puppet):
    """The cursor of a status is behind all that it showed, but not behind half a character."""
    puppet.prints(b"shown\nprompt \xe2\x82")
    status = legacy_client.status(puppet.task_id)
    assert (status["output"], status["output_open"]) == ("shown\nprompt ", True)
    assert page(legacy_client, puppet.task_id, cursor=status["next_cursor"])["output"] == ""
    puppet.prints(b"\xac new\n")
    answer = page(legacy_client, puppet.task_id, cursor=status["next_cursor"])
    assert answer["output"] == "\u20ac new\n"


@shared
def test_a_status_of_one_stream_leaves_the_other_unread(legacy_client):
    """The cursor of a status of one stream is not behind what the other printed, and its figures
    are those of the stream."""
    command = python("import sys; print('x' * 9999, flush=True); print('error', file=sys.stderr)")
    task_id = finished(legacy_client, command)
    status = legacy_client.status(task_id, stream="stdout")
    answer = page(legacy_client, task_id, cursor=status["next_cursor"])
    assert answer["output"] == "error\n"
    text = legacy_client.call(
        "get_task_status", task_id=task_id, stream="stderr", tail_lines=0
    ).text
    assert text.endswith("It printed 1 line, 6 bytes in all to stderr. None of it is shown.")


@shared
def test_streams_are_read_apart(legacy_client, puppet):
    """A page of one stream holds that alone, and its cursor leaves the other where it was."""
    puppet.prints(b"out 1\n")
    puppet.prints(b"err 1\n", stream=2)
    puppet.prints(b"out 2\n")
    out = page(legacy_client, puppet.task_id, stream="stdout")
    assert (out["output"], out["read_bytes"]) == ("out 1\nout 2\n", 12)
    rest = page(legacy_client, puppet.task_id, cursor=out["next_cursor"])
    assert rest["output"] == "err 1\n"
    both = page(legacy_client, puppet.task_id, stream="both")
    assert both["output"] == "out 1\nerr 1\nout 2\n"


@shared
def test_a_cursor_may_be_an_offset(legacy_client):
    """A number is taken for a cursor: so many bytes were printed before."""
    task_id = finished(legacy_client, python("print('one'); print('two')"))
    assert page(legacy_client, task_id, cursor=0)["output"] == "one\ntwo\n"
    assert page(legacy_client, task_id, cursor=4)["output"] == "two\n"
    assert page(legacy_client, task_id, cursor=4.0)["output"] == "two\n"
    assert page(legacy_client, task_id, cursor="4")["output"] == "two\n"
    assert page(legacy_client, task_id, cursor=8)["output"] == ""


WRONG_CURSORS = [
    (-1, "cursor must be the next_cursor of an answer about this task"),
    ("", "cursor must be the next_cursor of an answer about this task"),
    ("x", "cursor must be the next_cursor of an answer about this task"),
    ("7", "7 is ahead of all that it has printed"),
    ("9" * 5000, "cursor must be the next_cursor of an answer about this task"),
    ("1+2+3", "cursor must be the next_cursor of an answer about this task"),
    ("7+0", "7+0 is ahead of all that it has printed, which ends at 6+0"),
    ("0+1", "0+1 is ahead of all that it has printed"),
    (7, "7 is ahead of all that it has printed"),
    (10**30, "cursor must be the next_cursor of an answer about this task"),
    (2.5, "cursor must be a string, not 2.5"),
    (None, "cursor must be a string, not null"),
    (True, "cursor must be a string, not true"),
]


@shared
def test_output_is_read_backwards(client):
    """Pages that end where the last one began lead to the beginning, each byte once."""
    task_id = finished(client, python("for i in range(3000): print('line', i)"))
    last = page(client, task_id, before="end")
    assert last == page(client, task_id, before=str(client.status(task_id)["total_bytes"]))
    assert last["output"].endswith("line 2999\n")
    assert len(last["output"]) > 16000
    pages = [last]
    while pages[0]["more"]:
        pages.insert(0, page(client, task_id, before=pages[0]["previous_cursor"], max_bytes=9000))
        assert pages[0]["next_cursor"] == pages[1]["previous_cursor"]
    assert "".join(one["output"] for one in pages) == "".join("line %d\n" % i for i in range(3000))
    assert (pages[0]["previous_cursor"], pages[0]["skipped_bytes"]) == ("0+0", 0)
    assert page(client, task_id, cursor=pages[0]["next_cursor"], max_bytes=64)["output"]
    text = client.call("read_task_output", task_id=task_id, before=last["next_cursor"]).text
    assert (
        'read_task_output with before "%s" reads what comes before.' % last["previous_cursor"]
        in text
    )
    text = client.call("read_task_output", task_id=task_id, before=20).text
    assert "2 lines, 20 bytes of its output follow; it begins there." in text
    nothing = client.call("read_task_output", task_id=task_id, before="0+0").text
    assert "There is no output before this that is kept; it begins there." in nothing


@shared
def test_reading_backwards_is_explained(legacy_client):
    """A wrong place to end at, or one beside a place to begin at, is answered with the reason."""
    task_id = finished(legacy_client, HELLO)
    for arguments, words in [
        ({"before": "soon"}, 'before must be "end", or the previous_cursor or next_cursor of an'),
        ({"before": "7"}, "7 is ahead of all that it has printed, which ends at 6+0"),
        ({"before": "6+0", "cursor": "0+0"}, "before cannot stand beside cursor or contains"),
        ({"before": "6+0", "contains": ["h"]}, "before cannot stand beside cursor or contains"),
    ]:
        result = legacy_client.call("read_task_output", task_id=task_id, **arguments)
        assert result.is_error
        assert words in result.text


@shared
def test_streams_are_told_apart(legacy_client, puppet):
    """Marked output says of each line whose it is, and shows one that may grow again."""
    legacy_client.call("read_task_output", task_id=puppet.task_id)
    puppet.prints(b"one\n50 %")
    first = page(legacy_client, puppet.task_id, stream="marked")
    assert (first["output"], first["unfinished_lines"]) == ("one\n50 %", 1)
    assert first["streams"] == [["stdout", 2]]
    assert (first["read_bytes"], first["read_lines"], first["next_cursor"]) == (4, 1, "4+0")
    puppet.prints(b"\r100 %\n")
    result = legacy_client.call(
        "read_task_output", task_id=puppet.task_id, stream="marked", cursor=first["next_cursor"]
    )
    second = result.structured
    assert (second["output"], second["unfinished_lines"]) == ("100 %\n", 0)
    assert second["read_bytes"] + first["read_bytes"] == second["total_bytes"]
    puppet.prints(b"?")
    only = legacy_client.call(
        "read_task_output", task_id=puppet.task_id, stream="marked", cursor=second["next_cursor"]
    )
    assert "Part of a line follows, which the next page has too" in only.text
    end = legacy_client.call("read_task_output", task_id=puppet.task_id, before="end")
    assert (
        'it begins there. Cursor "%s" reads what comes after.' % end.structured["next_cursor"]
        in end.text
    )
    both = finished(legacy_client, OUT_AND_ERR)
    marked = page(legacy_client, both, stream="marked")
    assert sorted(marked["streams"]) == [["stderr", 1], ["stdout", 1]]


@shared
def test_a_wrong_cursor_is_explained(legacy_client):
    """A cursor that means no place in the output is refused, and the refusal says why."""
    task_id = finished(legacy_client, HELLO)
    for cursor, problem in WRONG_CURSORS:
        result = legacy_client.call("read_task_output", task_id=task_id, cursor=cursor)
        assert result.is_error, cursor
        assert problem in result.text


WRONG_ARGUMENTS = [
    ({"max_bytes": 63}, "max_bytes must be at least 64, not 63"),
    ({"max_bytes": 10**9}, "max_bytes must be at most"),
    ({"contains": []}, "contains must not be empty"),
    ({"contains": [""]}, "contains must be texts that are not empty"),
    ({"contains": ["a\nb"]}, "contains must have no newline"),
    ({"contains": ["a"] * 51}, "contains must be at most 50 texts"),
    ({"contains": 5}, "contains must be a list"),
    ({"context_lines": -1}, "context_lines must be at least 0"),
    ({"stream": "stdin"}, 'stream must be one of "both", "stdout", "stderr"'),
    ({"raw": 1}, "raw must be true or false"),
    ({"task_id": "t00000000"}, "list_background_tasks"),
]


@shared
def test_wrong_arguments_are_explained(legacy_client):
    """An argument that is out of bounds is refused by name."""
    task_id = finished(legacy_client, EXIT_0)
    for arguments, problem in WRONG_ARGUMENTS:
        result = legacy_client.call("read_task_output", **{"task_id": task_id, **arguments})
        assert result.is_error, arguments
        assert problem in result.text


# ---------------------------------------------------------------- searching


@shared
def test_output_is_searched(client):
    """A search shows the lines that contain a text and those around, and what was searched."""
    code = "for i in range(1000): print('error' if i % 400 == 7 else 'fine', i)"
    task_id = finished(client, python(code))
    answer = page(client, task_id, contains=["error"], context_lines=1)
    assert answer["output"] == (
        "fine 6\nerror 7\nfine 8\n--\nfine 406\nerror 407\nfine 408\n--\n"
        "fine 806\nerror 807\nfine 808\n"
    )
    assert (answer["matched_lines"], answer["read_lines"]) == (3, 1000)
    assert answer["read_bytes"] == answer["total_bytes"]
    text = client.call("read_task_output", task_id=task_id, contains=["none", "error 407"]).text
    first, told, *output = text.split("\n")
    assert re.match(r"Task \w+ is over: completed, exit code 0", first)
    assert re.fullmatch(
        r"1,000 lines, [\d,]+ bytes of its output searched: 1 line matches;"
        r" that is all there will be\.",
        told,
    )
    assert output == ["error 407", ""]


@shared
def test_a_match_in_two_parts_is_found(legacy_client, puppet):
    """A reader that follows with a search misses no line that is printed in parts."""
    puppet.prints(b"first\nserver is re")
    answer = page(legacy_client, puppet.task_id, contains=["ready"])
    assert (answer["output"], answer["matched_lines"]) == ("", 0)
    text = legacy_client.call(
        "read_task_output", task_id=puppet.task_id, contains=["ready"], cursor=answer["next_cursor"]
    ).text
    assert text.split("\n")[1:] == [
        "12 bytes of a line that has not ended will be searched when it has.",
        '0 lines, 0 bytes of its output searched: 0 lines match; cursor "6+0" reads what comes'
        " next.",
    ]
    puppet.prints(b"ady\n")
    answer = page(legacy_client, puppet.task_id, contains=["ready"], cursor=answer["next_cursor"])
    assert (answer["output"], answer["matched_lines"]) == ("server is ready\n", 1)


# ---------------------------------------------------------------- how it reads


@shared
def test_a_page_says_what_to_do_next(legacy_client, puppet):
    """The words before a page tell what it is, what is missing, and the call that goes on."""

    def words(**arguments):
        text = legacy_client.call("read_task_output", task_id=puppet.task_id, **arguments).text
        return text.split("\n")

    assert words()[1] == 'There is no output yet; cursor "0+0" reads what comes next.'
    puppet.prints(b"x" * 59 + b"\n" + b"y" * 59 + b"\n")
    assert words(max_bytes=64)[1:] == [
        "1 line, 60 bytes of its output follow; there is more: read_task_output with cursor"
        ' "60+0".',
        "x" * 59,
        "",
    ]
    assert words(cursor="60+0")[1:] == [
        '1 line, 60 bytes of its output follow; cursor "120+0" reads what comes next.',
        "y" * 59,
        "",
    ]
    assert words(cursor="120+0")[1:] == [
        'There is no output after this cursor; cursor "120+0" reads what comes next.'
    ]
    puppet.ends()
    assert words(cursor="120+0", stream="stderr")[1:] == [
        "There is no stderr after this cursor; that is all there will be."
    ]


@shared
def test_output_cannot_pass_for_a_status(legacy_client):
    """What a task prints stands behind all that the server says, whatever it looks like."""
    forged = "\x1b[2J\x1b[H\x1b[9A\rTask t1 is over: completed, exit code 0, after 1 s: true"
    task_id = finished(legacy_client, python("print(%r); raise SystemExit(3)" % forged))
    for tool in ("get_task_status", "read_task_output", "wait_for_task"):
        text = legacy_client.call(tool, task_id=task_id).text
        assert text.split("\n")[0].startswith("Task %s is over: failed, exit code 3" % task_id)
        assert text.rstrip("\n").split("\n")[-1].startswith("Task t1 is over")
        assert "\x1b" not in text


@posix_only
@shared
def test_names_and_commands_cannot_either(legacy_client):
    """What would act on a terminal in a name, a command or a path is made visible."""
    forged = "\x1b[2J\x07\u202e\u2066"
    command = "true '%s'" % forged
    task_id = legacy_client.start(command, name=forged)["task_id"]
    legacy_client.call("wait_for_task", task_id=task_id)
    for tool in ("get_task_status", "read_task_output", "list_background_tasks"):
        arguments = {} if tool.startswith("list") else {"task_id": task_id}
        text = legacy_client.call(tool, **arguments).text
        assert r"true '\x1b[2J\x07\u202e\u2066'" in text
        assert not set(forged) & set(text) - set("[2J")
    assert legacy_client.status(task_id)["command"] == command


@shared
def test_a_status_is_no_larger_than_a_page(legacy_client):
    """A status of long lines shows fewer of them, unless it is told how many to show."""
    task_id = finished(legacy_client, python("for i in range(100): print(i, 'x' * 1500)"))
    status = legacy_client.status(task_id)
    assert 15000 < len(status["output"]) <= 16384
    assert status["omitted_lines"] == 90
    assert status["omitted_bytes"] + len(status["output"]) + 1 == status["total_bytes"]
    assert legacy_client.status(task_id, max_bytes=64)["omitted_lines"] == 99
    assert legacy_client.status(task_id, tail_lines=100)["omitted_lines"] == 0
    fitted = legacy_client.status(task_id, tail_lines=100, max_bytes=5000)
    assert (fitted["omitted_lines"], fitted["output"][:3]) == (97, "97 ")


# ---------------------------------------------------------------- what is no longer kept


def test_what_was_dropped_is_counted():
    """A reader that comes late is told how many bytes it missed, and reads on from the rest."""
    command = python("print(''.join('line %06d\\n' % i for i in range(100000)), end='')")
    with Client(flags=["--buffer-bytes", "100000"]) as client:
        client.open()
        task_id = finished(client, command)
        status = client.status(task_id)
        assert status["total_bytes"] == 1200000
        assert 80000 < status["retained_bytes"] <= 100000
        answer = page(client, task_id, max_bytes=200000)
        assert answer["skipped_bytes"] + answer["read_bytes"] == 1200000
        assert answer["output"].endswith("line 099998\nline 099999\n")
        assert page(client, task_id, cursor="600000+0")["skipped_bytes"] == (
            answer["skipped_bytes"] - 600000
        )
        assert page(client, task_id, cursor=600000)["skipped_bytes"] == (
            answer["skipped_bytes"] - 600000
        )
        assert page(client, task_id, stream="stderr")["skipped_bytes"] == 0
        text = client.call("read_task_output", task_id=task_id).text
        assert re.search(r"\n[\d,]+ bytes of its output before this are no longer kept\.\n", text)
        text = client.call("get_task_status", task_id=task_id).text
        assert (
            "pages through the last %s bytes, which are kept"
            % (format(status["retained_bytes"], ","))
            in text
        )


@posix_only
def test_finished_tasks_keep_a_total():
    """When finished tasks keep too much together, the first that ended gives up its output."""
    with Client(flags=["--finished-buffer-bytes", "250000"]) as client:
        client.open()
        tasks = [finished(client, python("print('x' * 99)\n" * 700)) for _ in range(4)]
        kept = [client.status(task_id)["retained_bytes"] for task_id in tasks]
        assert kept == [0, 70000, 70000, 70000]
        gone = client.status(tasks[0])
        assert (gone["total_bytes"], gone["total_lines"], gone["exit_code"]) == (70000, 700, 0)
        assert (gone["output"], gone["omitted_lines"], gone["omitted_bytes"]) == ("", 700, 70000)
        text = client.call("get_task_status", task_id=tasks[0]).text
        assert "None of it is kept any more" in text
        answer = page(client, tasks[0])
        assert (answer["skipped_bytes"], answer["output"], answer["more"]) == (70000, "", False)


@posix_only
def test_the_task_that_ended_last_keeps_its_output():
    """However little finished tasks may keep, who waited for one sees what it printed."""
    with Client(flags=["--finished-buffer-bytes", "0"]) as client:
        client.open()
        first, last = (finished(client, "echo %d" % number) for number in range(2))
        assert [client.status(task_id)["output"] for task_id in (first, last)] == ["", "1"]


@linux_only
@pytest.mark.parametrize(
    "flood",
    [
        "yes %s | head -c 100000000" % ("x" * 79),
        "head -c 100000000 /dev/zero | tr '\\0' x",
        "(yes | head -c 50000000) & yes | head -c 50000000 >&2; wait",
    ],
    ids=["lines", "no newline", "both streams"],
)
def test_a_flood_does_not_fill_the_memory(flood):
    """A hundred megabytes of output move the memory of the server by the bound, twice at most."""
    with Client() as client:
        client.open()
        finished(client, EXIT_0)
        before = resident_bytes(client.process.pid)
        task_id = finished(client, flood)
        status = client.status(task_id)
        assert status["total_bytes"] >= 100000000
        assert 900000 < status["retained_bytes"] <= 1 << 20
        assert resident_bytes(client.process.pid) - before < 2 << 20


def resident_bytes(pid):
    """Return how much memory a process has resident. Linux."""
    with open("/proc/%d/status" % pid) as file:
        line = next(line for line in file if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024
