"""Tasks as MCP resources: one that lists them, and one for the output of each."""

from __future__ import annotations

import json

from .board import BOARD_MIME_TYPE, BOARD_URI, board_html
from .manager import CHANGED_OUTPUT, CHANGED_START
from .report import (
    SHORT_CHARS,
    count_text,
    iso_time,
    label,
    last_line,
    outcome_text,
    row_fields,
    shorten,
)
from .subscriptions import RESOURCE_LIST

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional, Tuple

    from .manager import TaskManager
    from .status import TaskPage, TaskStatus

TASKS_URI = "backgroundr://tasks"
# RFC 6570. Ids are letters and digits, so nothing is ever percent-encoded.
OUTPUT_TEMPLATE = "backgroundr://tasks/{task_id}/output"
OUTPUT_ARGUMENT = "task_id"
_BEFORE_ID, _AFTER_ID = OUTPUT_TEMPLATE.split("{%s}" % OUTPUT_ARGUMENT)

_PAGE_TASKS = 100
# MCP, server/utilities/completion: at most 100 values.
_COMPLETIONS = 100
_NO_LIMIT = 2**62


class UnknownResource(Exception):
    """There is no resource with this URI. uri: what was asked for."""

    def __init__(self, uri: str) -> None:
        super().__init__("There is no resource %s" % shorten(uri, SHORT_CHARS))
        self.uri = uri


class UnknownCursor(Exception):
    """There is no page of the list that begins so."""


class Resources:
    """The resources of one manager's tasks, as MCP objects."""

    def __init__(self, manager: TaskManager) -> None:
        self._manager = manager

    def page(self, cursor: Optional[str]) -> Tuple[List[Dict[str, Any]], Optional[str]]:
        """Return a page of the list, newest tasks first, and the cursor of the next or None.

        cursor: the id of the last task of the page before; None for the first page.
        Raises UnknownCursor.
        """
        tasks = self._manager.list()
        tasks.reverse()
        first = 0
        if cursor is not None:
            ids = [task.task_id for task in tasks]
            if cursor not in ids:
                raise UnknownCursor
            first = ids.index(cursor) + 1
        end = first + _PAGE_TASKS
        resources = [] if first else [_TASKS_RESOURCE, _BOARD_RESOURCE]
        resources += [_output_resource(task) for task in tasks[first:end]]
        return resources, tasks[end - 1].task_id if end < len(tasks) else None

    def templates(self) -> List[Dict[str, Any]]:
        """Return the templates from which URIs can be made."""
        return [_OUTPUT_RESOURCE_TEMPLATE]

    def read(self, uri: str) -> Dict[str, Any]:
        """Return what a resource holds now. Raises UnknownResource."""
        if uri == TASKS_URI:
            rows = [row_fields(one, last_line(self._manager, one)) for one in self._manager.list()]
            text = json.dumps({"tasks": rows}, indent=2, ensure_ascii=False)
            return {"uri": uri, "mimeType": "application/json", "text": text}
        if uri == BOARD_URI:
            return {**_BOARD_CONTENT, "text": board_html()}
        self.check(uri)  # where a name stands for the id, it is no URI of ours
        page = self._manager.read_output(_task_id(uri), max_bytes=_NO_LIMIT, line_chars=_NO_LIMIT)
        return {"uri": uri, "mimeType": "text/plain", "text": _gap_text(page) + page.text}

    def check(self, uri: str) -> None:
        """Return when there is a resource with this URI. Raises UnknownResource otherwise."""
        if not self.has(uri):
            raise UnknownResource(uri)

    def has(self, uri: str) -> bool:
        """Whether there is a resource with this URI."""
        try:
            return uri in (TASKS_URI, BOARD_URI) or _task_id(uri) in self._manager
        except UnknownResource:
            return False

    def complete(self, start: str) -> Dict[str, Any]:
        """Return the ids of tasks whose id or name begins with `start`, newest first, as an MCP
        completion."""
        ids = [
            task.task_id
            for task in reversed(self._manager.list())
            if task.task_id.startswith(start) or (task.name or "").startswith(start)
        ]
        return {
            "values": ids[:_COMPLETIONS],
            "total": len(ids),
            "hasMore": len(ids) > _COMPLETIONS,
        }


def changed_uris(task_id: str, change: str) -> Tuple[Optional[str], ...]:
    """Return the URIs of what reads differently after a change of which the manager tells: it
    knows of all but the end of what a finished command left behind."""
    if change == CHANGED_OUTPUT:
        return (_output_uri(task_id),)
    if change == CHANGED_START:
        return (RESOURCE_LIST, TASKS_URI)
    # Whoever follows the output wants to know that no more may come.
    return (TASKS_URI, _output_uri(task_id))


def _output_uri(task_id: str) -> str:
    return _BEFORE_ID + task_id + _AFTER_ID


def _task_id(uri: str) -> str:
    """Return the id in the URI of a task's output. Raises UnknownResource."""
    if not (uri.startswith(_BEFORE_ID) and uri.endswith(_AFTER_ID)):
        raise UnknownResource(uri)
    return uri[len(_BEFORE_ID) : -len(_AFTER_ID)]


def _output_resource(task: TaskStatus) -> Dict[str, Any]:
    return {
        "uri": _output_uri(task.task_id),
        "name": label(task),
        "title": "Output of %s" % label(task),
        "description": "%s: %s" % (outcome_text(task), shorten(task.command, SHORT_CHARS)),
        "mimeType": "text/plain",
        "size": task.retained_bytes,
        "annotations": {"lastModified": iso_time(task.last_output_at or task.started_at)},
    }


def _gap_text(page: TaskPage) -> str:
    """Return a line that says what is not retained any more, or ""."""
    if not page.skipped_bytes:
        return ""
    return "[backgroundr: %s of this output came before this and are no longer kept]\n" % (
        count_text(page.skipped_bytes, "byte")
    )


_TASKS_RESOURCE = {
    "uri": TASKS_URI,
    "name": "tasks",
    "title": "Background tasks",
    "description": "Every task of this server, oldest first: id, name, command, status, how it"
    " ended, since when.",
    "mimeType": "application/json",
}
# MCP Apps 2026-01-26, "UI Resource Format": nothing of the network is needed.
_BOARD_CONTENT: Dict[str, Any] = {
    "uri": BOARD_URI,
    "mimeType": BOARD_MIME_TYPE,
    "_meta": {"ui": {"csp": {}, "prefersBorder": True}},
}
_BOARD_RESOURCE = {
    **_BOARD_CONTENT,
    "name": "board",
    "title": "Task board",
    "description": "A page for people: the background tasks, live.",
}
_OUTPUT_RESOURCE_TEMPLATE = {
    "uriTemplate": OUTPUT_TEMPLATE,
    "name": "output",
    "title": "Output of a task",
    "description": "All that is retained of what a task printed, as a terminal would show it.",
    "mimeType": "text/plain",
}
