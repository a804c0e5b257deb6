"""Tools: their texts, their schemas, and the functions that answer calls of them."""

from __future__ import annotations

import json
import re

from .errors import AmbiguousName, BackgroundrError, Cancelled, InvalidValue, UnknownTask
from .jsonrpc import Deferred
from .report import unicode_text
from .schema import check

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Mapping, Optional, Sequence, Union

    from .handlers import Answer, Arguments, Caller
    from .jsonrpc import Message
    from .manager import TaskManager
    from .schema import Schema

    TaskHandler = Callable[[TaskManager, Arguments, Caller], Union[Answer, Deferred]]

# MCP 2025-11-25, server/tools, "Tool Names".
_TOOL_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")


class ToolBase:
    """What every tool has: texts and schemas for a model, and arguments that are checked."""

    def __init__(
        self,
        name: str,
        title: str,
        description: str,
        properties: Mapping[str, Schema],
        required: Sequence[str],
        output: Optional[Schema],
        annotations: Mapping[str, bool],
    ) -> None:
        self.name = name
        self.input_schema: Schema = {
            "type": "object",
            "properties": dict(properties),
            **({"required": list(required)} if required else {}),
            "additionalProperties": False,
        }
        self._description: Dict[str, Any] = {
            "name": name,
            **({"title": title} if title else {}),
            "description": description,
            "inputSchema": self.input_schema,
            **({} if output is None else {"outputSchema": output}),
            "annotations": dict(annotations),
        }

    def describe(self) -> Dict[str, Any]:
        """Return the tool as `tools/list` tells it."""
        return self._description

    def call(
        self, manager: TaskManager, arguments: Arguments, caller: Caller
    ) -> Union[Message, Deferred]:
        """Return an MCP CallToolResult, or the work that will.

        One with isError says what the caller can mend. The work raises Cancelled.
        """
        arguments = {name: self._adapted(name, value) for name, value in arguments.items()}
        problems = check(arguments, self.input_schema, "")
        if problems:
            return error_result("%s was not called: %s." % (self.name, "; ".join(problems)))
        return self._answer(manager, arguments, caller)

    def _adapted(self, name: str, value: Any) -> Any:
        """Return what was meant: models write digits as a number, and one text for a list of
        one. Not in the schema: some clients hand it to models that take no choice of types."""
        kind = self.input_schema["properties"].get(name, {}).get("type")
        if kind == "array" and isinstance(value, str):
            return [value]
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if name in ("cursor", "before") and kind == "string" and is_number and value % 1 == 0:
            return "%d" % value
        return value

    def _answer(
        self, manager: TaskManager, arguments: Arguments, caller: Caller
    ) -> Union[Message, Deferred]:
        raise NotImplementedError


class Tool(ToolBase):
    """A tool of a host program, to be served beside those of this package.

    name, title, description: what a language model knows of it; a title is for people.
    handler: called with the arguments, a dict that conforms to `properties` and `required`, as
    far as `schema` understands them, on a thread of its own. It returns text, or a dict, which
    should conform to `output`. A BackgroundrError that it raises is told to the model; any other
    exception is a defect, of which the client hears no more than that there is one.
    properties, output: JSON Schemas, of the arguments by name and of a dict that is returned.
    annotations: MCP's hints, such as {"readOnlyHint": True}.
    Raises InvalidValue.
    """

    def __init__(
        self,
        name: str,
        description: str,
        handler: Callable[[Arguments], Union[str, Dict[str, Any]]],
        properties: Optional[Mapping[str, Schema]] = None,
        required: Sequence[str] = (),
        title: str = "",
        output: Optional[Schema] = None,
        annotations: Optional[Mapping[str, bool]] = None,
    ) -> None:
        if not isinstance(name, str) or not _TOOL_NAME.fullmatch(name):
            raise InvalidValue("name", "must be 1 to 128 of the characters A-Z a-z 0-9 _ - .")
        if not isinstance(description, str):
            raise InvalidValue("description", "must be text")
        if not callable(handler):
            raise InvalidValue("handler", "must be a function")
        for schema in (properties or {}).values():
            if not isinstance(schema, dict):
                raise InvalidValue("properties", "must be JSON Schemas that are objects")
        unknown = set(required) - set(properties or {})
        if unknown:
            raise InvalidValue(
                "required", "has what is no property: %s" % ", ".join(map(str, unknown))
            )
        super().__init__(
            name, title, description, properties or {}, required, output, annotations or {}
        )
        self._handler = handler

    def _answer(
        self, manager: TaskManager, arguments: Arguments, caller: Caller
    ) -> Union[Message, Deferred]:
        def work() -> Message:
            try:
                answer = self._handler(arguments)
            except BackgroundrError as error:  # Cancelled too: it is not this call that was
                return error_result(_advise(error))
            except Exception:
                raise
            except BaseException as error:  # such as of sys.exit: the thread is not its own
                raise RuntimeError("the handler of %s raised %r" % (self.name, error)) from error
            if isinstance(answer, str):
                return {"content": [_text_block(answer)], "isError": False}
            if not isinstance(answer, dict):
                raise TypeError("the handler of %s must return text or a dict" % self.name)
            text = _text_block(_TEXT_ENCODER.encode(answer))
            return {"content": [text], "structuredContent": answer, "isError": False}

        return Deferred(work, lambda: error_result("No thread is free for it; try again."))


class TaskTool(ToolBase):
    """A tool of this package. handler: of `handlers`; it is called at once, and waits for
    nothing. page_uri: of the page that shows people what it is about, "" for none."""

    def __init__(
        self,
        name: str,
        title: str,
        description: str,
        properties: Schema,
        required: Sequence[str],
        output: Schema,
        annotations: Dict[str, bool],
        handler: TaskHandler,
        page_uri: str = "",
    ) -> None:
        super().__init__(name, title, description, properties, required, output, annotations)
        self._handler = handler
        if page_uri:
            self._description["_meta"] = {"ui": {"resourceUri": page_uri}}  # MCP Apps

    def call(
        self, manager: TaskManager, arguments: Arguments, caller: Caller
    ) -> Union[Message, Deferred]:
        if "task_ids" in self.input_schema["properties"] and "task_id" not in arguments:
            # Of several tasks none need stand apart, whatever the schema asks for.
            task_ids = arguments.get("task_ids")
            if isinstance(task_ids, list) and task_ids:
                arguments = {**arguments, "task_id": task_ids[0]}
        return super().call(manager, arguments, caller)

    def _answer(
        self, manager: TaskManager, arguments: Arguments, caller: Caller
    ) -> Union[Message, Deferred]:
        try:
            answer = self._handler(manager, arguments, caller)
        except BackgroundrError as error:
            return error_result(_advise(error))
        if not isinstance(answer, Deferred):
            return _task_result(answer)
        work, otherwise = answer.work, answer.otherwise
        return Deferred(
            lambda: _told(lambda: _task_result(work())),
            lambda: _told(lambda: _task_result(otherwise())),
        )


# json.dumps makes a new one for each call that has options.
_TEXT_ENCODER = json.JSONEncoder(ensure_ascii=False)


def _text_block(text: str) -> Dict[str, Any]:
    return {"type": "text", "text": unicode_text(text)}


def _told(work: Callable[[], Message]) -> Message:
    """Return the result of `work`, or of its failure."""
    try:
        return work()
    except Cancelled:
        raise
    except BackgroundrError as error:
        return error_result(_advise(error))


def _task_result(answer: Answer) -> Message:
    fields = {**answer.fields, "summary": unicode_text(answer.fields["summary"])}
    return {
        "content": [
            _text_block(answer.text),
            # MCP, server/tools, "Structured Content": the same once more, for programs that
            # know nothing of structuredContent. A model has read it above.
            {
                "type": "text",
                "text": _TEXT_ENCODER.encode(fields),
                "annotations": {"audience": ["user"], "priority": 0},
            },
        ],
        "structuredContent": fields,
        "isError": False,
    }


def error_result(text: str) -> Message:
    """Return a CallToolResult that tells the model what it can mend."""
    return {"content": [_text_block(text)], "isError": True}


def _advise(error: BackgroundrError) -> str:
    if isinstance(error, UnknownTask):
        if error.known:
            return "%s list_background_tasks shows them all." % error
        return "%s run_background_task starts one." % error
    if isinstance(error, AmbiguousName):
        return "%s." % error
    if isinstance(error, InvalidValue):
        return "%s. Nothing was changed; correct it and call again." % error
    return str(error)
