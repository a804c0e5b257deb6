"""What a server may write: the shape of each message, and how messages follow each other.

Each message is checked twice. Against shapes of our own, which say what this server promises;
and against the official schema of its revision, where the schemas stand beside the checkout.
"""

from __future__ import annotations

import functools
import json
import threading
from pathlib import Path

from .json_schema import Validator

LEGACY_VERSIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
MODERN_VERSION = "2026-07-28"
BATCH_VERSION = "2025-03-26"
META = "io.modelcontextprotocol/"
SUBSCRIPTION = META + "subscriptionId"

# Used where they are, never copied. Without them our own shapes are all there is.
SCHEMAS = Path(__file__).resolve().parent.parent.parent / "shared" / "schema"

LEGACY = ("legacy",)
MODERN = ("modern",)
BOTH = LEGACY + MODERN


def _era(revision):
    return "modern" if revision == MODERN_VERSION else "legacy"


# ---------------------------------------------------------------- our own shapes

TEXT = {"type": "string"}
WHOLE = {"type": "integer"}
NUMBER = {"type": "number"}
FLAG = {"type": "boolean"}
OBJECT = {"type": "object"}
ID = {"type": ["string", "integer"]}


def _object(required, optional=None, closed=False):
    """Return the shape of an object with these members; closed: and with no others."""
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
        "additionalProperties": not closed,
    }


def _list(items, **limits):
    return {"type": "array", "items": items, **limits}


def _message(members, optional=None):
    return _object({"jsonrpc": {"const": "2.0"}, **members}, optional, closed=True)


RESULT_MESSAGE = _message({"id": ID, "result": OBJECT})
ERROR_MESSAGE = _message(
    {"error": _object({"code": WHOLE, "message": TEXT}, {"data": True}, closed=True)}, {"id": ID}
)
NOTIFICATION_MESSAGE = _message({"method": TEXT}, {"params": _object({}, {"_meta": OBJECT})})

IMPLEMENTATION = _object({"name": TEXT, "version": TEXT}, {"title": TEXT})
CAPABILITIES = _object(
    {},
    {
        "tools": _object({}, {"listChanged": FLAG}),
        "resources": _object({}, {"listChanged": FLAG, "subscribe": FLAG}),
        "prompts": _object({}, {"listChanged": FLAG}),
        "completions": OBJECT,
        "logging": OBJECT,
    },
)
TOOL_SCHEMA = _object(
    {"type": {"const": "object"}}, {"properties": OBJECT, "required": _list(TEXT)}
)
TOOL = _object(
    {"name": TEXT, "description": TEXT, "inputSchema": TOOL_SCHEMA},
    {
        "title": TEXT,
        "outputSchema": TOOL_SCHEMA,
        "annotations": _object(
            {},
            {
                "title": TEXT,
                "readOnlyHint": FLAG,
                "destructiveHint": FLAG,
                "idempotentHint": FLAG,
                "openWorldHint": FLAG,
            },
        ),
    },
)
OF_A_RESOURCE = {"title": TEXT, "description": TEXT, "mimeType": TEXT, "size": WHOLE}
RESOURCE = _object({"uri": TEXT, "name": TEXT}, OF_A_RESOURCE)
TEMPLATE = _object({"uriTemplate": TEXT, "name": TEXT}, OF_A_RESOURCE)
CONTENTS = {
    "anyOf": [
        _object({"uri": TEXT, "text": TEXT}, {"mimeType": TEXT, "blob": False}),
        _object({"uri": TEXT, "blob": TEXT}, {"mimeType": TEXT, "text": False}),
    ]
}
# The kinds that this server writes; there are others.
CONTENT = {
    "anyOf": [
        _object({"type": {"const": "text"}, "text": TEXT}),
        _object({"type": {"const": "resource_link"}, "uri": TEXT, "name": TEXT}, OF_A_RESOURCE),
        _object({"type": {"const": "resource"}, "resource": CONTENTS}),
    ]
}
NEXT = {"nextCursor": TEXT}
EMPTY = _object({}, {"_meta": OBJECT}, closed=True)

# Beside what a method says of its result.
LEGACY_RESULT = _object({}, {"resultType": False, "ttlMs": False, "cacheScope": False})
MODERN_RESULT = _object(
    {
        "resultType": {"const": "complete"},
        "_meta": _object({META + "serverInfo": IMPLEMENTATION}),
    }
)
CACHEABLE = _object(
    {"ttlMs": {"type": "integer", "minimum": 0}, "cacheScope": {"enum": ["public", "private"]}}
)

# method: (official definition, eras, cacheable, shape of the result). There is no result of
# any other method.
RESULTS = {
    "initialize": (
        "InitializeResult",
        LEGACY,
        False,
        _object(
            {
                "protocolVersion": {"enum": list(LEGACY_VERSIONS)},
                "capabilities": CAPABILITIES,
                "serverInfo": IMPLEMENTATION,
            },
            {"instructions": TEXT},
        ),
    ),
    "server/discover": (
        "DiscoverResult",
        MODERN,
        True,
        _object(
            {"supportedVersions": _list(TEXT, minItems=1), "capabilities": CAPABILITIES},
            {"instructions": TEXT},
        ),
    ),
    "ping": ("EmptyResult", LEGACY, False, EMPTY),
    "tools/list": ("ListToolsResult", BOTH, True, _object({"tools": _list(TOOL)}, NEXT)),
    "tools/call": (
        "CallToolResult",
        BOTH,
        False,
        _object(
            {"content": _list(CONTENT, minItems=1)},
            {"isError": FLAG, "structuredContent": OBJECT},
        ),
    ),
    "resources/list": (
        "ListResourcesResult",
        BOTH,
        True,
        _object({"resources": _list(RESOURCE)}, NEXT),
    ),
    "resources/templates/list": (
        "ListResourceTemplatesResult",
        BOTH,
        True,
        _object({"resourceTemplates": _list(TEMPLATE)}, NEXT),
    ),
    "resources/read": (
        "ReadResourceResult",
        BOTH,
        True,
        _object({"contents": _list(CONTENTS, minItems=1)}),
    ),
    "resources/subscribe": ("EmptyResult", LEGACY, False, EMPTY),
    "resources/unsubscribe": ("EmptyResult", LEGACY, False, EMPTY),
    "completion/complete": (
        "CompleteResult",
        BOTH,
        False,
        _object(
            {
                "completion": _object(
                    {"values": _list(TEXT, maxItems=100)}, {"total": WHOLE, "hasMore": FLAG}
                )
            }
        ),
    ),
    "subscriptions/listen": (
        "SubscriptionsListenResult",
        MODERN,
        False,
        _object({"_meta": _object({SUBSCRIPTION: ID})}),
    ),
}

LEVELS = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"]
FILTER = _object(
    {},
    {
        "toolsListChanged": FLAG,
        "promptsListChanged": FLAG,
        "resourcesListChanged": FLAG,
        "resourceSubscriptions": _list(TEXT),
    },
)
# method: (official definition, eras, shape of the params). A server writes no other.
NOTIFICATIONS = {
    "notifications/progress": (
        "ProgressNotification",
        BOTH,
        _object({"progressToken": ID, "progress": NUMBER}, {"total": NUMBER, "message": TEXT}),
    ),
    "notifications/message": (
        "LoggingMessageNotification",
        BOTH,
        _object({"level": {"enum": LEVELS}, "data": True}, {"logger": TEXT}),
    ),
    "notifications/tools/list_changed": ("ToolListChangedNotification", BOTH, None),
    "notifications/prompts/list_changed": ("PromptListChangedNotification", BOTH, None),
    "notifications/resources/list_changed": ("ResourceListChangedNotification", BOTH, None),
    "notifications/resources/updated": (
        "ResourceUpdatedNotification",
        BOTH,
        _object({"uri": TEXT}),
    ),
    "notifications/subscriptions/acknowledged": (
        "SubscriptionsAcknowledgedNotification",
        MODERN,
        _object({"notifications": FILTER, "_meta": _object({SUBSCRIPTION: ID})}),
    ),
    # It ends a listen, which is the one request that a server may cancel.
    "notifications/cancelled": (
        "CancelledNotification",
        MODERN,
        _object({"requestId": ID}, {"reason": TEXT}),
    ),
}
# The part of a listen's filter that asks for a notification.
LISTENED = {
    "notifications/tools/list_changed": "toolsListChanged",
    "notifications/prompts/list_changed": "promptsListChanged",
    "notifications/resources/list_changed": "resourcesListChanged",
    "notifications/resources/updated": "resourceSubscriptions",
}

# MCP 2026-07-28, basic: code: (official definition, shape of the data). The other codes from
# -32020 to -32099 are kept free there, and -32002 is the older revisions'.
MODERN_ERRORS = {
    -32020: ("HeaderMismatchError", True),
    -32021: ("MissingRequiredClientCapabilityError", _object({"requiredCapabilities": OBJECT})),
    -32022: (
        "UnsupportedProtocolVersionError",
        _object({"supported": _list(TEXT, minItems=1), "requested": TEXT}),
    ),
}


# ---------------------------------------------------------------- one message


@functools.lru_cache(maxsize=None)
def official_schema(revision: str) -> dict | None:
    """Return the official schema of a revision, or None where it is not beside the checkout."""
    path = SCHEMAS / revision / "schema.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def result_problems(message: dict, method: str | None, revision: str) -> list[str]:
    """Return what is wrong with an answer that has a result, to `method` at `revision`."""
    definition, eras, cacheable, shape = RESULTS.get(method, (None, (), False, None))
    era = _era(revision)
    if era not in eras:
        return ["%s has no result at %s" % (method, revision)]
    found = _own(message, RESULT_MESSAGE)
    shapes = [shape, LEGACY_RESULT if era == "legacy" else MODERN_RESULT]
    if cacheable and era == "modern":
        shapes.append(CACHEABLE)
    found += _own(message["result"], {"allOf": shapes}, "result")
    whole = "JSONRPCResultResponse" if revision >= LEGACY_VERSIONS[-1] else "JSONRPCResponse"
    found += _official(message, whole, revision)
    return found + _official(message["result"], definition, revision, "result")


def error_problems(message: dict, revision: str) -> list[str]:
    """Return what is wrong with an answer that has an error, at `revision`."""
    found = _own(message, ERROR_MESSAGE)
    # The id is absent where none could be read. JSON-RPC wants null there, which clients
    # reject; the older schemas allow neither.
    with_id = {"id": 0, **message}
    whole = "JSONRPCErrorResponse" if revision >= LEGACY_VERSIONS[-1] else "JSONRPCError"
    found += _official(with_id, whole, revision)
    error = message["error"]
    code = error.get("code") if isinstance(error, dict) else None
    if _era(revision) == "modern" and isinstance(code, int):
        if code in MODERN_ERRORS:
            definition, data = MODERN_ERRORS[code]
            found += _own(error.get("data"), data, "error.data")
            found += _official(message, definition, revision)
        elif code == -32002 or -32099 <= code <= -32020:
            found.append("error.code: %d does not exist at %s" % (code, revision))
    return found


def notification_problems(message: dict, revision: str) -> list[str]:
    """Return what is wrong with a notification, at `revision`."""
    method = _text(message["method"])
    definition, eras, shape = NOTIFICATIONS.get(method, (None, (), None))
    if _era(revision) not in eras:
        return ["%s is no notification of a server at %s" % (method, revision)]
    found = _own(message, NOTIFICATION_MESSAGE)
    if shape is not None:
        found += _own(message.get("params"), shape, "params")
    found += _official(message, "JSONRPCNotification", revision)
    return found + _official(message, definition, revision)


def _own(value, shape, path=""):
    return Validator().problems(value, shape, path)


def _official(value, definition, revision, path=""):
    schema = official_schema(revision)
    if schema is None:
        return []
    place = "$defs" if "$defs" in schema else "definitions"
    rule = {"$ref": "#/%s/%s" % (place, definition)}
    return [
        "%s (%s of %s)" % (problem, definition, revision)
        for problem in Validator(schema).problems(value, rule, path)
    ]


# ---------------------------------------------------------------- how they follow each other


def _decode(line, **hooks):
    """Return the value of a line of strict JSON. Raises ValueError, RecursionError."""
    return json.loads(line.decode("utf-8"), parse_constant=_refuse, **hooks)


def _refuse(constant):
    raise ValueError("%s is not JSON" % constant)


def _once_each(pairs):
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a name stands twice in an object")
    return members


def _text(value):
    """Return a method as it can be looked up in a table."""
    return value if isinstance(value, str) else repr(value)


def _members(value):
    return value if isinstance(value, dict) else {}


def _key(id):
    """Return what distinguishes an id or a token from all others, "1" from 1; None for no id."""
    is_id = isinstance(id, (str, int)) and not isinstance(id, bool)
    return (type(id), id) if is_id else None


class _Request:
    """A request in flight, and how far the server has come with it.

    key: of its id. revision: MODERN_VERSION when it was enveloped, otherwise None. wanted: the
    filter of a listen. acknowledged: the filter that the server agreed to, None before.
    """

    def __init__(self, message: dict) -> None:
        params = _members(message.get("params"))
        meta = _members(params.get("_meta"))
        self.id = message["id"]
        self.key = _key(self.id)
        self.method = _text(message.get("method"))
        self.revision = MODERN_VERSION if META + "protocolVersion" in meta else None
        self.token = _key(meta.get("progressToken"))
        self.progress: float | None = None
        self.wants_messages = META + "logLevel" in meta
        self.is_listen = self.method == "subscriptions/listen" and self.revision is not None
        self.wanted = _members(params.get("notifications"))
        self.acknowledged: dict | None = None


class Transcript:
    """One conversation: told of each line, it says what is wrong with those of the server.

    version: the revision that the client speaks or asks for. It may be told from two threads;
    of a line that the client writes, before that is written.
    """

    def __init__(self, version: str) -> None:
        # _lock owns the rest. _requests: all in flight, the oldest first. An id is mostly
        # there once, but a client may err, and a request that was cancelled stays.
        self._lock = threading.Lock()
        self._requests: list[_Request] = []
        self._is_modern = version == MODERN_VERSION
        self._handshake = version if version in LEGACY_VERSIONS else LEGACY_VERSIONS[-1]

    def wrote(self, data: bytes) -> None:
        """Remember the requests in what the client writes; no matter what else is in it."""
        for line in data.split(b"\n"):
            try:
                message = _decode(line[3:] if line.startswith(b"\xef\xbb\xbf") else line)
            except (ValueError, RecursionError):
                continue
            for one in message if isinstance(message, list) else [message]:
                is_request = isinstance(one, dict) and _key(one.get("id")) is not None
                if is_request and ("method" in one or not ("result" in one or "error" in one)):
                    with self._lock:
                        self._requests.append(_Request(one))

    def read(self, line: bytes) -> tuple[list[dict], list[str]]:
        """Return the messages in a line of the server, and what is wrong with them."""
        found = []
        if not line.endswith(b"\n"):
            found.append("there is no newline at the end")
        if line.endswith(b"\r\n"):
            found.append("there is a carriage return before the newline")
        messages: list = []
        try:
            message = _decode(line, object_pairs_hook=_once_each)
        except (ValueError, RecursionError) as error:
            found.append("it is not JSON: %s" % error)
        else:
            messages = message if isinstance(message, list) else [message]
            with self._lock:
                if isinstance(message, list):
                    found += self._array_problems(message)
                for one in messages:
                    found += self._problems(one)
        shown = line if len(line) <= 200 else line[:200] + b"..."
        return (
            [one for one in messages if isinstance(one, dict)],
            ["%s: in %r" % (problem, shown) for problem in found],
        )

    # ------------------------------------------------ inside, with the lock held

    def _revision(self):
        return MODERN_VERSION if self._is_modern else self._handshake

    def _array_problems(self, messages):
        if self._revision() != BATCH_VERSION:
            return ["there are no arrays at %s" % self._revision()]
        if not messages:
            return ["an array must not be empty"]
        if any("method" in _members(one) for one in messages):
            return ["only answers come in an array"]
        return []

    def _problems(self, message):
        if not isinstance(message, dict):
            return ["it is no object"]
        if ("method" in message) + ("result" in message) + ("error" in message) != 1:
            return ["it is neither an answer nor a notification"]
        if "method" not in message:
            return self._answer_problems(message)
        if "id" in message:
            return ["a server writes no requests"]
        return self._notification_problems(message)

    def _answer_problems(self, message):
        if "id" not in message and "error" in message:
            return error_problems(message, self._revision())
        id = message.get("id")
        key = _key(id)
        requests = [one for one in self._requests if one.key == key]
        if not requests:
            return ["it answers %r, which is no request in flight" % (id,)]
        # Where several have the id, it answers the one that it fits best: a result the oldest,
        # an error the one that should not have used the id again.
        if "error" in message:
            requests.reverse()
        judged = [(self._answer_to(request, message), request) for request in requests]
        found, request = min(judged, key=lambda pair: len(pair[0]))
        self._requests.remove(request)
        if request.method == "initialize":
            version = _members(message.get("result")).get("protocolVersion")
            if version in LEGACY_VERSIONS:
                self._handshake, self._is_modern = version, False
        return found

    def _answer_to(self, request, message):
        revision = request.revision or self._handshake
        if "error" in message:
            return error_problems(message, revision)
        result = _members(message["result"])
        if request.method == "initialize" and result.get("protocolVersion") in LEGACY_VERSIONS:
            revision = result["protocolVersion"]
        found = result_problems(message, request.method, revision)
        if request.is_listen:
            if request.acknowledged is None:
                found.append("a listen is answered before it was acknowledged")
            tag = _members(result.get("_meta")).get(SUBSCRIPTION)
            if _key(tag) != request.key:
                found.append("it is tagged with %r, and answers %r" % (tag, request.id))
        return found

    def _notification_problems(self, message):
        method = _text(message["method"])
        params = _members(message.get("params"))
        revision = self._revision()
        found = []
        if method == "notifications/progress":
            revision, found = self._progress_problems(params)
        elif SUBSCRIPTION in _members(params.get("_meta")) or method.endswith("/acknowledged"):
            revision, found = MODERN_VERSION, self._tagged_problems(method, params)
        elif method == "notifications/cancelled":
            if self._listen(params.get("requestId")) is None:
                found = ["it cancels %r, which is no listen" % params.get("requestId")]
            else:
                revision = MODERN_VERSION
        elif revision == MODERN_VERSION:
            wanted = any(request.wants_messages for request in self._requests)
            if method != "notifications/message" or not wanted:
                found = ["no request asked for it"]
        return found + notification_problems(message, revision)

    def _progress_problems(self, params):
        """Return (revision, problems): progress belongs to a request in flight, and rises."""
        token = params.get("progressToken")
        key = _key(token)
        requests = [
            request
            for request in self._requests
            if request.token is not None and request.token == key
        ]
        if not requests:
            return self._revision(), ["%r is no token of a request in flight" % (token,)]
        request = requests[-1]
        revision = request.revision or self._handshake
        progress = params.get("progress")
        if not isinstance(progress, (int, float)):
            return revision, []  # what its shape says
        last, request.progress = request.progress, progress
        if last is not None and progress <= last:
            return revision, ["progress must rise, and %s comes after %s" % (progress, last)]
        return revision, []

    def _tagged_problems(self, method, params):
        tag = _members(params.get("_meta")).get(SUBSCRIPTION)
        request = self._listen(tag)
        if request is None:
            return ["it is tagged with %r, which is no listen" % (tag,)]
        if method == "notifications/subscriptions/acknowledged":
            if request.acknowledged is not None:
                return ["the listen %r was acknowledged before" % (tag,)]
            request.acknowledged = _members(params.get("notifications"))
            return [
                "%s is acknowledged, which was not asked for" % kind
                for kind, value in request.acknowledged.items()
                if value and not request.wanted.get(kind)
            ]
        if request.acknowledged is None:
            return ["the listen %r was not acknowledged before" % (tag,)]
        if not request.acknowledged.get(LISTENED.get(method, method)):
            return ["it is tagged, and what was acknowledged has no %s" % method]
        return []

    def _listen(self, id):
        key = _key(id)
        requests = [one for one in self._requests if one.is_listen and one.key == key]
        return requests[-1] if requests else None


def read_all(written: bytes, lines, version: str = LEGACY_VERSIONS[-1]) -> list[dict]:
    """Return the messages in the lines of a server, having checked each.

    For a server that is not driven through a Client. written: what it was sent before.
    """
    transcript = Transcript(version)
    transcript.wrote(written)
    read = [transcript.read(line) for line in lines]
    problems = [problem for _, found in read for problem in found]
    assert problems == [], "\n".join(problems)
    return [message for messages, _ in read for message in messages]
