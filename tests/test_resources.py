"""Tasks as MCP resources, and the completion of their ids."""

from __future__ import annotations

import json
import re

import pytest

from backgroundr import TaskManager
from backgroundr.board import BOARD_URI
from backgroundr.resources import Resources, UnknownCursor

from .client import RpcFailure
from .programs import (
    DEADLINE_S,
    EXIT_0,
    EXIT_3,
    HELLO,
    SLEEP,
    posix_only,
    python,
    shared,
)

TASKS = "backgroundr://tasks"
TEMPLATE = "backgroundr://tasks/{task_id}/output"


def output_of(task_id):
    return TEMPLATE.replace("{task_id}", task_id)


def finished(client, command, **arguments):
    """Run a command to its end; return its id."""
    task_id = client.start(command, **arguments)["task_id"]
    assert client.call("wait_for_task", task_id=task_id).structured["reason"] == "exited"
    return task_id


def read(client, uri):
    """Return the one content of a resource."""
    (content,) = client.request("resources/read", {"uri": uri})["contents"]
    assert content["uri"] == uri
    return content


def test_the_list_has_the_tasks_and_each_output(client):
    """The list begins with the tasks themselves, then has each one's output, newest first."""
    only, board = client.request("resources/list")["resources"]
    assert (only["uri"], only["mimeType"]) == (TASKS, "application/json")
    assert (board["uri"], board["mimeType"]) == (BOARD_URI, "text/html;profile=mcp-app")
    older = finished(client, HELLO, name="greeter")
    newer = client.start(SLEEP)["task_id"]
    result = client.request("resources/list")
    assert "nextCursor" not in result
    uris = [resource["uri"] for resource in result["resources"]]
    assert uris == [TASKS, BOARD_URI, output_of(newer), output_of(older)]
    output = result["resources"][3]
    assert output["title"] == "Output of %s (greeter)" % older
    assert output["description"].startswith("completed (exit code 0): ")
    assert (output["mimeType"], output["size"]) == ("text/plain", 6)
    modified = output["annotations"]["lastModified"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", modified)
    task = client.status(older)
    assert task["started_at"] <= modified <= task["ended_at"]
    silent = result["resources"][2]
    assert silent["size"] == 0
    assert silent["annotations"]["lastModified"] == client.status(newer)["started_at"]


def test_the_tasks_are_read_as_json(client):
    """The resource of all tasks holds the same rows as list_background_tasks."""
    assert json.loads(read(client, TASKS)["text"]) == {"tasks": []}
    finished(client, EXIT_3, name="broken")
    content = read(client, TASKS)
    assert content["mimeType"] == "application/json"
    listed = client.call("list_background_tasks").structured["tasks"]
    assert json.loads(content["text"]) == {"tasks": listed}


@shared
def test_output_is_read_as_text(client):
    """The resource of a task's output holds all of it, as a terminal would show it."""
    code = "for i in range(200): print('line', i)\nprint('\\x1b[31mred\\x1b[0m')"
    task_id = finished(client, python(code))
    content = read(client, output_of(task_id))
    assert content["mimeType"] == "text/plain"
    lines = content["text"].split("\n")
    assert (lines[0], lines[-1], len(lines)) == ("line 0", "", 202)
    assert read(client, output_of(finished(client, EXIT_0)))["text"] == ""


@shared
def test_a_long_line_is_read_whole(client):
    """A resource is for programs too: its lines are not clipped, as those of a status are."""
    task_id = finished(client, python("print('x' * 50000)"))
    assert read(client, output_of(task_id))["text"] == "x" * 50000 + "\n"
    assert "characters left out" in client.status(task_id)["output"]


@posix_only
@shared
def test_what_is_no_unicode_is_replaced(client):
    """A name of bytes that are no UTF-8 comes back as text that every client takes."""
    started = client.start("true # \udc81", name="\udcff")
    assert (started["name"], started["command"]) == ("\ufffd" * 3, "true # " + "\ufffd" * 3)
    assert client.call("wait_for_task", task_id=started["task_id"]).structured["exit_code"] == 0
    listed = client.request("resources/list")["resources"][2]
    for text in (json.dumps(listed, ensure_ascii=False), read(client, TASKS)["text"]):
        assert text.encode("utf-8")
        assert "\ufffd" in text


@shared
def test_the_board_is_named_listed_and_read(client):
    """The tools that start and list tasks name a page; it is a resource like any other."""
    pages = {name: tool.get("_meta") for name, tool in client.tools().items()}
    named = {"ui": {"resourceUri": BOARD_URI}}
    assert {name: meta for name, meta in pages.items() if meta is not None} == {
        "run_background_task": named,
        "list_background_tasks": named,
    }
    listed = client.request("resources/list")["resources"][1]
    content = read(client, BOARD_URI)
    for one in (listed, content):
        assert one["mimeType"] == "text/html;profile=mcp-app"
        assert one["_meta"] == {"ui": {"csp": {}, "prefersBorder": True}}
    extensions = client.open()["capabilities"].get("extensions")
    assert extensions == ({"io.modelcontextprotocol/ui": {}} if client.is_modern else None)
    assert content["text"].startswith("<!doctype html>")
    assert content["text"].rstrip().endswith("</html>")


def test_output_that_is_no_longer_kept_is_counted():
    """A resource says in its first line how much of the output is gone."""
    with TaskManager(buffer_bytes=10000) as manager:
        task = manager.start(python("for i in range(10000): print('line', i)"))
        manager.wait(task.task_id, timeout_s=DEADLINE_S)
        text = Resources(manager).read(output_of(task.task_id))["text"]
        first, *kept = text.split("\n")
        gone = re.fullmatch(
            r"\[backgroundr: ([\d,]+) bytes of this output came before this and are no longer"
            r" kept\]",
            first,
        )
        assert int(gone.group(1).replace(",", "")) + len("\n".join(kept)) == 98890
        assert kept[-2:] == ["line 9999", ""]
        assert kept[0] in "line %d" % (10001 - len(kept))


@shared
@pytest.mark.parametrize(
    "uri",
    [
        "backgroundr://tasks/t00000000/output",
        "backgroundr://tasks/output",
        "backgroundr://tasks//output",
        "backgroundr://tasks/",
        "backgroundr://tasks/{task_id}/output",
        "backgroundr://TASKS",
        "file:///etc/passwd",
        "../../etc/passwd",
        "no uri",
        "",
        "x" * 10000,
    ],
)
def test_an_unknown_resource_is_refused(client, uri):
    """What is not there is an error with the code of its era, which gives the URI back."""
    with pytest.raises(RpcFailure) as failure:
        client.request("resources/read", {"uri": uri})
    assert failure.value.code == (-32602 if client.is_modern else -32002)
    assert failure.value.data == {"uri": uri}


@shared
@pytest.mark.parametrize(
    ("method", "params", "words"),
    [
        ("resources/read", {}, "uri is required"),
        ("resources/read", {"uri": 5}, "uri must be a string, not 5"),
        ("resources/list", {"cursor": 5}, "cursor must be a string, not 5"),
        ("resources/list", {"cursor": "no-such"}, "no page with this cursor"),
        ("resources/templates/list", {"cursor": "x"}, "no page with this cursor"),
        ("completion/complete", {}, "ref is required; argument is required"),
        (
            "completion/complete",
            {"ref": {"type": "ref/prompt", "name": "x"}, "argument": {"name": "a", "value": ""}},
            "nothing to complete but the template " + re.escape(TEMPLATE),
        ),
        (
            "completion/complete",
            {"ref": {"type": "ref/resource", "uri": TASKS}, "argument": {"name": "a", "value": ""}},
            "nothing to complete but the template",
        ),
        (
            "completion/complete",
            {"ref": {"type": "ref/resource", "uri": TEMPLATE}, "argument": {"name": "task_id"}},
            "argument.value is required",
        ),
        (
            "completion/complete",
            {
                "ref": {"type": "ref/resource", "uri": TEMPLATE},
                "argument": {"name": "id", "value": ""},
            },
            "has no argument but task_id",
        ),
    ],
)
def test_wrong_params_are_named(client, method, params, words):
    """A request that cannot be served says what is wrong with it."""
    with pytest.raises(RpcFailure, match=words) as failure:
        client.request(method, params)
    assert failure.value.code == -32602


def complete(client, start):
    params = {
        "ref": {"type": "ref/resource", "uri": TEMPLATE},
        "argument": {"name": "task_id", "value": start},
    }
    return client.request("completion/complete", params)["completion"]


@shared
def test_the_template_is_completed_with_ids(client):
    """The one template leads to a task's output; its argument is completed by id or name."""
    (template,) = client.request("resources/templates/list")["resourceTemplates"]
    assert template["uriTemplate"] == TEMPLATE
    build = finished(client, EXIT_0, name="build")
    tests = finished(client, EXIT_0, name="tests")
    assert complete(client, "")["values"][:2] == [tests, build]
    assert complete(client, build[:-1])["values"] == [build]
    assert complete(client, "bui") == {"values": [build], "total": 1, "hasMore": False}
    assert complete(client, "nothing like it")["values"] == []


class FakeTask:
    """As much of a TaskStatus as a list needs."""

    def __init__(self, task_id):
        self.task_id = task_id
        self.name = None
        self.command = "true"
        self.status = "running"
        self.is_final = False
        self.retained_bytes = 0
        self.started_at = 0.0
        self.last_output_at = None


class FakeManager:
    """A manager of many tasks, none of which had to be started."""

    def __init__(self, count):
        self.tasks = [FakeTask("t%05d" % number) for number in range(count)]

    def list(self):
        return list(self.tasks)


def test_a_long_list_comes_in_pages():
    """Pages follow one another without a gap, also when tasks start meanwhile."""
    manager = FakeManager(250)
    resources = Resources(manager)
    first, cursor = resources.page(None)
    assert [len(first), first[0]["uri"], first[2]["name"]] == [102, TASKS, "t00249"]
    manager.tasks.append(FakeTask("t99999"))
    second, cursor = resources.page(cursor)
    third, end = resources.page(cursor)
    assert end is None
    names = [resource["name"] for resource in first[2:] + second + third]
    assert names == ["t%05d" % number for number in reversed(range(250))]
    with pytest.raises(UnknownCursor):
        resources.page("t12345")
    exactly, end = Resources(FakeManager(100)).page(None)
    assert (len(exactly), end) == (102, None)


def test_completions_are_a_hundred_at_most():
    """Of many ids the newest hundred are offered, and the rest is counted; or there is none."""
    nothing = Resources(FakeManager(0)).complete("")
    assert nothing == {"values": [], "total": 0, "hasMore": False}
    completion = Resources(FakeManager(250)).complete("t")
    assert len(completion["values"]) == 100
    assert completion["values"][0] == "t00249"
    assert (completion["total"], completion["hasMore"]) == (250, True)
