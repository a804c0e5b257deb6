"""The checks of what the server writes: they find each kind of fault, and no other."""

from __future__ import annotations

import json

import pytest

from .json_schema import INFORMING, KEYWORDS, UnknownKeyword, Validator
from .messages import (
    BATCH_VERSION,
    LEGACY_VERSIONS,
    META,
    MODERN_VERSION,
    NOTIFICATIONS,
    RESULTS,
    SCHEMAS,
    SUBSCRIPTION,
    Transcript,
    official_schema,
    read_all,
)

LATEST = LEGACY_VERSIONS[-1]
VERSIONS = (*LEGACY_VERSIONS, MODERN_VERSION)
with_official_schemas = pytest.mark.skipif(
    not SCHEMAS.exists(), reason="SKIPPED SCHEMAS: the official ones are not beside the checkout"
)

# ---------------------------------------------------------------- the validator

DOCUMENT = {
    "$defs": {
        "Id": {"type": ["string", "integer"], "description": "any word"},
        "Tree": {"type": "object", "properties": {"child": {"$ref": "#/$defs/Tree"}}},
    }
}
TEXT_OR_BLOB = {
    "anyOf": [
        {"required": ["uri", "text"], "properties": {"uri": {"type": "string"}}},
        {"required": ["uri", "blob"], "properties": {"blob": {"type": "string"}}},
    ]
}


@pytest.mark.parametrize(
    ("value", "schema"),
    [
        ("anything", True),
        (None, {}),
        (5, {"type": "integer"}),
        (5.0, {"type": "integer"}),
        (10**400, {"type": "integer"}),
        (0.5, {"type": "number"}),
        (None, {"type": ["string", "null"]}),
        (1, {"const": 1}),
        (True, {"enum": ["a", True]}),
        ({"a": 1, "b": 2}, {"required": ["a"], "properties": {"a": {"type": "integer"}}}),
        ({"a": 1, "b": 2}, {"additionalProperties": True}),
        ({"a": 1, "b": 2}, {"properties": {"b": {}}, "additionalProperties": {"const": 1}}),
        ({}, {"properties": {"a": False}}),
        ([], {"items": False, "maxItems": 0}),
        ([1, 1], {"items": {"const": 1}, "minItems": 2, "maxItems": 2}),
        ("text", {"minimum": 5, "maxItems": 0, "required": ["a"], "items": False}),
        (5, {"minimum": 5, "maximum": 5}),
        (5, {"allOf": [{"minimum": 1}, {"maximum": 9}]}),
        ({"uri": "x:y", "blob": ""}, TEXT_OR_BLOB),
        ("a", {"$ref": "#/$defs/Id"}),
        ({"child": {"child": {}}}, {"$ref": "#/$defs/Tree"}),
        ("no uri", {"format": "uri", "title": "a", "default": 5, "examples": []}),
    ],
)
def test_a_value_that_conforms_has_no_problems(value, schema):
    """The validator finds nothing wrong with a value that conforms."""
    assert Validator(DOCUMENT).problems(value, schema) == []


@pytest.mark.parametrize(
    ("value", "schema", "problem"),
    [
        (5, False, "x: must not be there"),
        (5, {"type": "string"}, "x: must be string, is 5"),
        (True, {"type": "integer"}, "x: must be integer, is true"),
        (False, {"type": "number"}, "x: must be number, is false"),
        (1, {"type": "boolean"}, "x: must be boolean, is 1"),
        (5.5, {"type": "integer"}, "x: must be integer, is 5.5"),
        (float("inf"), {"type": "integer"}, "x: must be integer, is Infinity"),
        (None, {"type": ["string", "integer"]}, "x: must be string or integer, is null"),
        ("2", {"const": "2.0"}, 'x: must be "2.0", is "2"'),
        (True, {"const": 1}, "x: must be 1, is true"),
        ("c", {"enum": ["a", "b"]}, 'x: must be "a" or "b", is "c"'),
        ({}, {"required": ["a"]}, "x.a: is required"),
        ({"a": {"b": 5}}, {"properties": {"a": {"properties": {"b": False}}}}, "x.a.b: must not"),
        ({"a": 1, "b": 2}, {"properties": {"a": {}}, "additionalProperties": False}, "x.b: must"),
        ({"a": 1}, {"additionalProperties": {"type": "string"}}, "x.a: must be string, is 1"),
        (["a", 5], {"items": {"type": "string"}}, "x[1]: must be string, is 5"),
        ([1], {"minItems": 2}, "x: must have at least 2 items"),
        ([1], {"maxItems": 0}, "x: must have at most 0 items"),
        (4.5, {"minimum": 5}, "x: must be at least 5, is 4.5"),
        (6, {"maximum": 5}, "x: must be at most 5, is 6"),
        (6, {"allOf": [{"minimum": 5}, {"maximum": 5}]}, "x: must be at most 5, is 6"),
        ({"uri": "x:y", "blob": 5}, TEXT_OR_BLOB, "x.text: is required"),
        (None, {"$ref": "#/$defs/Id"}, "x: must be string or integer, is null"),
        ({"child": {"child": 5}}, {"$ref": "#/$defs/Tree"}, "x.child.child: must be object, is 5"),
    ],
)
def test_a_problem_tells_where_and_what(value, schema, problem):
    """The validator says of each problem where it is, what must be, and what is."""
    (found,) = Validator(DOCUMENT).problems(value, schema, "x")
    assert found.startswith(problem)


def test_all_problems_are_found():
    """The validator goes on after a problem; without a path it speaks of the message."""
    schema = {"type": "array", "items": {"required": ["a", "b"]}, "maxItems": 1}
    assert Validator().problems([{"a": 1}, {}], schema) == [
        "[0].b: is required",
        "[1].a: is required",
        "[1].b: is required",
        "the message: must have at most 1 items",
    ]


@pytest.mark.parametrize("schema", [{"pattern": "^a"}, {"items": {"oneOf": []}}, {"not": {}}])
def test_an_unknown_keyword_is_an_error(schema):
    """The validator refuses a schema that says more than it can check."""
    with pytest.raises(UnknownKeyword):
        Validator().problems(["a"], schema)


def keywords_of(schema):
    """Yield each keyword of a schema and of those inside it, wherever schemas can be."""
    if isinstance(schema, bool):
        return
    yield from schema
    inside = [schema[word] for word in ("items", "additionalProperties") if word in schema]
    for word in ("properties", "definitions", "$defs"):
        inside += schema.get(word, {}).values()
    for word in ("anyOf", "allOf"):
        inside += schema.get(word, [])
    for one in inside:
        yield from keywords_of(one)


@with_official_schemas
@pytest.mark.parametrize("version", VERSIONS)
def test_the_official_schemas_are_understood(version):
    """No official schema uses a keyword that the validator does not know."""
    assert set(keywords_of(official_schema(version))) <= set(KEYWORDS) | INFORMING


@with_official_schemas
@pytest.mark.parametrize("version", VERSIONS)
def test_the_tables_name_what_the_official_schemas_have(version):
    """Each definition of the tables exists; of a server's notifications only some are left out."""
    schema = official_schema(version)
    definitions = schema.get("$defs") or schema["definitions"]
    era = "modern" if version == MODERN_VERSION else "legacy"
    for name, eras, *_ in [*RESULTS.values(), *NOTIFICATIONS.values()]:
        assert era not in eras or name in definitions
    theirs = {one["$ref"].split("/")[-1] for one in definitions["ServerNotification"]["anyOf"]}
    ours = {name for name, eras, _ in NOTIFICATIONS.values() if era in eras}
    # This server asks its client nothing that it could cancel, and has no tasks of the
    # protocol's kind.
    left_out = {"TaskStatusNotification", "ElicitationCompleteNotification"}
    if era == "legacy":
        left_out.add("CancelledNotification")
    assert ours <= theirs <= ours | left_out


# ---------------------------------------------------------------- conversations

INFO = {"name": "backgroundr", "version": "1"}
RESULT_BODIES = {
    "initialize": {"capabilities": {"tools": {}}, "serverInfo": INFO, "instructions": "Read."},
    "server/discover": {
        "supportedVersions": [MODERN_VERSION],
        "capabilities": {"resources": {"subscribe": True, "listChanged": True}, "completions": {}},
    },
    "ping": {},
    "tools/list": {
        "tools": [{"name": "t", "description": "a tool", "inputSchema": {"type": "object"}}]
    },
    "tools/call": {"content": [{"type": "text", "text": "done"}], "structuredContent": {"a": 1}},
    "resources/list": {"resources": [{"uri": "task:///t1", "name": "t1"}]},
    "resources/templates/list": {
        "resourceTemplates": [{"uriTemplate": "task:///{id}", "name": "t"}],
        "nextCursor": "2",
    },
    "resources/read": {"contents": [{"uri": "task:///t1", "text": ""}]},
    "resources/subscribe": {},
    "resources/unsubscribe": {},
    "completion/complete": {"completion": {"values": ["a"], "total": 1, "hasMore": False}},
    "subscriptions/listen": {"_meta": {META + "serverInfo": INFO, SUBSCRIPTION: 1}},
}
NOTIFICATION_PARAMS = {
    "notifications/progress": {"progressToken": "p", "progress": 0.5, "message": "half"},
    "notifications/message": {"level": "info", "data": "anything"},
    "notifications/tools/list_changed": {},
    "notifications/prompts/list_changed": {},
    "notifications/resources/list_changed": {},
    "notifications/resources/updated": {"uri": "task:///t1"},
    "notifications/subscriptions/acknowledged": {"notifications": {}},
    "notifications/cancelled": {"requestId": 1},
}
ALL_KINDS = {
    "toolsListChanged": True,
    "promptsListChanged": True,
    "resourcesListChanged": True,
    "resourceSubscriptions": ["task:///t1"],
}
ABSENT = object()


def asks(method, id=1, version=LATEST, meta=None, **params):
    """The client writes a request, in the era of `version`."""
    meta = dict(meta or {})
    if version == MODERN_VERSION:
        meta.update({META + "protocolVersion": version, META + "clientCapabilities": {}})
    params = {**params, "_meta": meta} if meta else params
    return ">", {"jsonrpc": "2.0", "id": id, "method": method, "params": params}


def says(message):
    """The server writes a message: an object, or a line as it is."""
    return "<", message


def result(method, id=1, version=LATEST, **changes):
    """The server answers well, but for `changes` of the result; ABSENT takes a member away."""
    body = dict(RESULT_BODIES[method])
    if method == "initialize":
        body["protocolVersion"] = version
    if version == MODERN_VERSION:
        body = {"resultType": "complete", "_meta": {META + "serverInfo": INFO}, **body}
        if RESULTS[method][2]:
            body.update(ttlMs=0, cacheScope="public")
    body.update(changes)
    body = {name: value for name, value in body.items() if value is not ABSENT}
    return says({"jsonrpc": "2.0", "id": id, "result": body})


def error(code, id=1, **more):
    """The server answers with an error; id: ABSENT for none."""
    message = {"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": "No.", **more}}
    if id is ABSENT:
        del message["id"]
    return says(message)


def notes(method, tag=None, **changes):
    """The server writes a notification, good but for `changes`; tag: the id of a listen."""
    params = {**NOTIFICATION_PARAMS[method], **changes}
    if tag is not None:
        params["_meta"] = {SUBSCRIPTION: tag}
    return says({"jsonrpc": "2.0", "method": method, "params": params})


def listens(id=1, **filter):
    return asks("subscriptions/listen", id, MODERN_VERSION, notifications=filter)


def acknowledges(tag=1, **filter):
    return notes("notifications/subscriptions/acknowledged", tag, notifications=filter)


def progress(value, token="p"):
    return notes("notifications/progress", progress=value, progressToken=token)


def calls(token="p", id=1, version=LATEST):
    return asks("tools/call", id, version, {"progressToken": token})


def problems_of(version, steps):
    """Return what is wrong in a conversation; each line may have several problems."""
    transcript = Transcript(version)
    found = []
    for direction, message in steps:
        line = message if isinstance(message, bytes) else json.dumps(message).encode() + b"\n"
        if direction == ">":
            transcript.wrote(line)
        else:
            found += transcript.read(line)[1]
    return found


def rows_of(table):
    """Return each (name, version) where the version's era has the row of the table."""
    return [
        (name, version)
        for name, row in table.items()
        for version in VERSIONS
        if ("modern" if version == MODERN_VERSION else "legacy") in row[1]
    ]


@pytest.mark.parametrize(("method", "version"), rows_of(RESULTS))
def test_each_good_result_passes(method, version):
    """A result of each method is accepted at each revision that has it."""
    steps = [asks(method, 1, version, notifications={}), result(method, 1, version)]
    if method == "subscriptions/listen":
        steps.insert(1, acknowledges())
    assert problems_of(version, steps) == []


@pytest.mark.parametrize(("method", "version"), rows_of(NOTIFICATIONS))
def test_each_good_notification_passes(method, version):
    """A notification of each kind is accepted at each revision that has it."""
    meta = {"progressToken": "p", META + "logLevel": "debug"}
    steps = [asks("tools/call", 2, version, meta)]
    tag = None
    if version == MODERN_VERSION:
        steps += [listens(**ALL_KINDS), acknowledges(**ALL_KINDS)]
        tag = 1 if method.endswith(("list_changed", "updated")) else None
    if not method.endswith("acknowledged"):
        steps.append(notes(method, tag))
    assert problems_of(version, steps) == []


@pytest.mark.parametrize(
    ("version", "steps"),
    [
        pytest.param(LATEST, [error(-32700, ABSENT)], id="an error without an id"),
        pytest.param("2024-11-05", [error(-32600, ABSENT)], id="an error without an id, once"),
        pytest.param(
            LATEST, [asks("resources/read"), error(-32002, data={"uri": "x:y"})], id="a legacy code"
        ),
        pytest.param(
            LATEST,
            [
                asks("tools/list", version=MODERN_VERSION),
                error(-32022, data={"supported": [MODERN_VERSION], "requested": "1"}),
            ],
            id="a modern error on a legacy connection",
        ),
        pytest.param(
            MODERN_VERSION,
            [
                asks("initialize"),
                result("initialize", version="2025-03-26"),
                asks("ping", "a"),
                asks("ping", "b"),
                says([result("ping", "a")[1], result("ping", "b")[1]]),
                notes("notifications/tools/list_changed"),
            ],
            id="a handshake decides the revision",
        ),
        pytest.param(
            LATEST,
            [
                asks("tools/list"),
                asks("tools/list", "1", MODERN_VERSION),
                result("tools/list", "1", MODERN_VERSION),
                result("tools/list"),
            ],
            id="both eras at once",
        ),
        pytest.param(
            LATEST,
            [asks("ping"), result("ping"), asks("tools/list"), result("tools/list")],
            id="an id is used again",
        ),
        pytest.param(
            LATEST,
            [asks("tools/call"), asks("ping"), error(-32600), result("tools/call")],
            id="an id is used twice at once",
        ),
        pytest.param(
            LATEST,
            [
                (">", b'\xef\xbb\xbf{"id":0}\r\nnot json\n{"jsonrpc":"1","id":"x","method":[]}\n'),
                (">", b'{"id":7,"result":{}}\n[1,{"id":null}]\n{"id":1,"id":2,"method":"ping"}\n'),
                error(-32600, 0),
                error(-32600, "x"),
                result("ping", 2),
            ],
            id="whatever the client writes",
        ),
        pytest.param(
            LATEST,
            [calls(0), calls("0", 2), progress(1, 0), progress(-1, "0"), progress(1.5, 0)]
            + [result("tools/call"), progress(0, "0"), calls(0, 3), progress(0, 0)],
            id="progress of several",
        ),
        pytest.param(
            MODERN_VERSION,
            [
                listens("a", **ALL_KINDS),
                listens("b", toolsListChanged=True),
                acknowledges("b"),
                acknowledges("a", resourceSubscriptions=["task:///t1"], toolsListChanged=False),
                notes("notifications/resources/updated", "a"),
                notes("notifications/cancelled", requestId="b"),
            ],
            id="two listen",
        ),
    ],
)
def test_a_good_conversation_passes(version, steps):
    """What a server may do is not complained of."""
    assert problems_of(version, steps) == []


def a_listen(*steps):
    return [listens(toolsListChanged=True), *steps]


TOOLS_CHANGED = "notifications/tools/list_changed"
PING = asks("ping")
PONG = result("ping")


@pytest.mark.parametrize(
    ("words", "version", "steps"),
    [
        # lines
        ("no newline at the end", LATEST, [PING, says(json.dumps(PONG[1]).encode())]),
        ("carriage return", LATEST, [PING, says(json.dumps(PONG[1]).encode() + b"\r\n")]),
        ("not JSON", LATEST, [says(b"Traceback\n")]),
        ("not JSON", LATEST, [says(b"\n")]),
        ("not JSON", LATEST, [PING, says(b"\xef\xbb\xbf" + json.dumps(PONG[1]).encode() + b"\n")]),
        ("not JSON", LATEST, [says(b'"\xff"\n')]),
        ("NaN is not JSON", LATEST, [says(b'{"a":NaN}\n')]),
        ("-Infinity is not JSON", LATEST, [says(b'{"a":-Infinity}\n')]),
        ("stands twice", LATEST, [says(b'{"a":1,"a":1}\n')]),
        # the envelope
        ("no object", LATEST, [says(5)]),
        ("neither an answer nor", LATEST, [says({"jsonrpc": "2.0", "id": 1})]),
        ("neither an answer nor", LATEST, [PING, says({**PONG[1], "error": {}})]),
        ("writes no requests", LATEST, [says({"jsonrpc": "2.0", "id": 1, "method": "ping"})]),
        ("jsonrpc: is required", LATEST, [PING, says({"id": 1, "result": {}})]),
        ('jsonrpc: must be "2.0"', LATEST, [PING, says({**PONG[1], "jsonrpc": "1.0"})]),
        ("extra: must not be there", LATEST, [PING, says({**PONG[1], "extra": 1})]),
        ("no request in flight", LATEST, [PONG]),
        ("no request in flight", LATEST, [PING, PONG, PONG]),
        ("no request in flight", LATEST, [PING, result("ping", "1")]),
        ("no request in flight", LATEST, [PING, result("ping", True)]),
        ("no request in flight", LATEST, [PING, result("ping", None)]),
        ("no request in flight", LATEST, [PING, error(-32600, None)]),
        ("no arrays", LATEST, [PING, says([PONG[1]])]),
        ("no arrays", MODERN_VERSION, [asks("ping"), says([PONG[1]])]),
        ("must not be empty", BATCH_VERSION, [says([])]),
        ("only answers", BATCH_VERSION, [says([notes(TOOLS_CHANGED)[1]])]),
        ("no object", BATCH_VERSION, [PING, says([PONG[1], 5])]),
        # errors
        ("error: must be object", LATEST, [PING, says({"jsonrpc": "2.0", "id": 1, "error": ""})]),
        ("error.code: must be integer", LATEST, [PING, error("-32600")]),
        ("error.message: must be string", LATEST, [PING, error(-32600, message=None)]),
        ("error.more: must not", LATEST, [PING, error(-32600, more=1)]),
        ("-32002 does not exist", MODERN_VERSION, [error(-32002, ABSENT)]),
        ("-32042 does not exist", MODERN_VERSION, [error(-32042, ABSENT)]),
        ("-32099 does not", LATEST, [asks("a", version=MODERN_VERSION), error(-32099)]),
        ("error.data.supported: is", MODERN_VERSION, [error(-32022, ABSENT, data={})]),
        ("error.data: must be object", MODERN_VERSION, [error(-32021, ABSENT)]),
        # results
        ("no/such has no result", LATEST, [asks("no/such"), PONG]),
        ("5 has no result at", LATEST, [(">", {**PING[1], "method": 5}), PONG]),
        ("ping has no result at 2026", LATEST, [asks("ping", version=MODERN_VERSION), PONG]),
        ("discover has no result at", LATEST, [asks("server/discover"), PONG]),
        ("result: must be object", LATEST, [PING, says({**PONG[1], "result": None})]),
        ("result.a: must not be there", LATEST, [PING, result("ping", a=1)]),
        (
            'result.protocolVersion: must be "2024-11-05" or',
            LATEST,
            [asks("initialize"), result("initialize", version=MODERN_VERSION, _meta=ABSENT)],
        ),
        (
            "result.serverInfo.version: is required",
            LATEST,
            [asks("initialize"), result("initialize", serverInfo={"name": "a"})],
        ),
        (
            "result.tools[0].name: must be string, is 5",
            LATEST,
            [asks("tools/list"), result("tools/list", tools=[{"name": 5}])],
        ),
        (
            "result.tools[0].inputSchema.type: is required",
            LATEST,
            [asks("tools/list"), result("tools/list", tools=[{"inputSchema": {}}])],
        ),
        (
            "result.content[0].text: is required",
            LATEST,
            [asks("tools/call"), result("tools/call", content=[{"type": "text"}])],
        ),
        (
            "result.structuredContent: must be object, is []",
            LATEST,
            [asks("tools/call"), result("tools/call", structuredContent=[])],
        ),
        (
            "result.contents: must have at least 1",
            LATEST,
            [asks("resources/read"), result("resources/read", contents=[])],
        ),
        (
            "result.completion.values: must have at most 100",
            LATEST,
            [
                asks("completion/complete"),
                result("completion/complete", completion={"values": ["a"] * 101}),
            ],
        ),
        *(
            (
                "result.%s: must not be there" % name,
                LATEST,
                [asks("tools/list"), result("tools/list", **{name: value})],
            )
            for name, value in (("resultType", "complete"), ("ttlMs", 0), ("cacheScope", "public"))
        ),
        *(
            (
                "result.%s: %s" % (name, words),
                MODERN_VERSION,
                [
                    asks("tools/list", version=MODERN_VERSION),
                    result("tools/list", version=MODERN_VERSION, **{name: value}),
                ],
            )
            for name, value, words in (
                ("resultType", ABSENT, "is required"),
                ("resultType", "task", 'must be "complete"'),
                ("ttlMs", ABSENT, "is required"),
                ("ttlMs", -1, "must be at least 0"),
                ("ttlMs", 0.5, "must be integer"),
                ("cacheScope", ABSENT, "is required"),
                ("cacheScope", "all", 'must be "public" or "private"'),
            )
        ),
        (
            "serverInfo: is required",
            MODERN_VERSION,
            [
                asks("server/discover", version=MODERN_VERSION),
                result("server/discover", version=MODERN_VERSION, _meta={}),
            ],
        ),
        # notifications
        ("is no notification", LATEST, [says({"jsonrpc": "2.0", "method": "notifications/x"})]),
        ("is no notification", LATEST, [says({"jsonrpc": "2.0", "method": ["x"]})]),
        ("is no notification", LATEST, [notes("notifications/cancelled")]),
        ("params.uri: must be string", LATEST, [notes("notifications/resources/updated", uri=5)]),
        ("params.level: must be", LATEST, [notes("notifications/message", level="loud")]),
        ("params: must be object", LATEST, [says({**notes(TOOLS_CHANGED)[1], "params": []})]),
        ("no request asked for it", MODERN_VERSION, [notes(TOOLS_CHANGED)]),
        ("no request asked for it", MODERN_VERSION, [notes("notifications/message")]),
        ("which is no listen", MODERN_VERSION, [calls(), notes("notifications/cancelled")]),
        # progress
        ("no token of a request", LATEST, [progress(1)]),
        ("no token of a request", LATEST, [calls("1"), progress(1, 1)]),
        ("no token of a request", LATEST, [calls(), result("tools/call"), progress(1)]),
        ("1 comes after 1", LATEST, [calls(), progress(1), progress(1)]),
        ("0.5 comes after 1", LATEST, [calls(), progress(1), progress(0.5)]),
        ("progress: must be number, is true", LATEST, [calls(), progress(True)]),
        # listens
        ("which is no listen", MODERN_VERSION, [notes(TOOLS_CHANGED, 1)]),
        ("which is no listen", MODERN_VERSION, a_listen(acknowledges("1"))),
        ("which is no listen", MODERN_VERSION, a_listen(acknowledges(None))),
        ("which is no listen", LATEST, [asks("subscriptions/listen"), acknowledges()]),
        ("was not acknowledged before", MODERN_VERSION, a_listen(notes(TOOLS_CHANGED, 1))),
        ("was acknowledged before", MODERN_VERSION, a_listen(acknowledges(), acknowledges())),
        ("not asked for", MODERN_VERSION, a_listen(acknowledges(resourcesListChanged=True))),
        ("has no notif", MODERN_VERSION, a_listen(acknowledges(), notes(TOOLS_CHANGED, 1))),
        (
            "answered before it was acknowledged",
            MODERN_VERSION,
            a_listen(result("subscriptions/listen", version=MODERN_VERSION)),
        ),
        (
            "tagged with '1', and answers 1",
            MODERN_VERSION,
            a_listen(
                acknowledges(),
                result("subscriptions/listen", version=MODERN_VERSION, _meta={SUBSCRIPTION: "1"}),
            ),
        ),
        (
            "which is no listen",
            MODERN_VERSION,
            a_listen(
                acknowledges(toolsListChanged=True),
                result("subscriptions/listen", version=MODERN_VERSION),
                notes(TOOLS_CHANGED, 1),
            ),
        ),
    ],
)
def test_each_fault_is_found(words, version, steps):
    """A fault is told in the words of the table, and whoever reads them sees the line."""
    found = problems_of(version, steps)
    assert any(words in problem for problem in found), found
    assert problems_of(version, steps[:-1]) == [] or len(steps) == 1
    assert all(": in b'" in problem for problem in found)


@with_official_schemas
def test_the_official_schema_is_asked_too():
    """What only the official schema of the revision knows is found."""
    tool = {**RESULT_BODIES["tools/list"]["tools"][0], "icons": 5}
    for version in VERSIONS:
        steps = [asks("tools/list", 1, version), result("tools/list", 1, version, tools=[tool])]
        words = "result.tools[0].icons: must be array, is 5 (ListToolsResult of %s)" % version
        found = problems_of(version, steps)
        assert any(words in problem for problem in found) == (version >= LATEST)


def test_a_whole_output_is_read():
    """read_all returns the messages of an output, and refuses it when one is wrong."""
    written = json.dumps(PING[1]).encode()
    output = [json.dumps(PONG[1]).encode() + b"\n"]
    assert read_all(written, output) == [PONG[1]]
    with pytest.raises(AssertionError, match="no request in flight"):
        read_all(b"", output)
