"""The Model Context Protocol on top of JSON-RPC: one table of methods, two eras.

Legacy: the revisions with a handshake (`initialize`). Modern: the revision without, where
each request carries its own `_meta`. The era is decided once a request, from the request
alone, so a client may probe with one and go on with the other; results get the shape of
their era in one place.
"""

from __future__ import annotations

from .board import UI_EXTENSION
from .handlers import Caller
from .jsonrpc import (
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    Call,
    Deferred,
    RpcError,
    is_id,
)
from .manager import TaskManager
from .resources import OUTPUT_ARGUMENT, OUTPUT_TEMPLATE, Resources, UnknownCursor, UnknownResource
from .schema import check
from .subscriptions import MAX_LISTENS, RESOURCE_LIST, SUBSCRIPTION_ID, Subscriptions
from .tools import INSTRUCTIONS
from .version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple, Union

    from .handlers import Report
    from .jsonrpc import Connection, Message
    from .schema import Schema
    from .tool import ToolBase

    Result = Union[Message, Deferred, Call]

LEGACY_VERSIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
MODERN_VERSION = "2026-07-28"
# The one revision with JSON-RPC batches: 2025-03-26, basic, "Batching".
BATCH_VERSION = "2025-03-26"

LEGACY = "legacy"
MODERN = "modern"
_LEGACY_ONLY = (LEGACY,)
_MODERN_ONLY = (MODERN,)
_BOTH = (LEGACY, MODERN)

# MCP 2026-07-28, basic/versioning.
UNSUPPORTED_VERSION = -32022
_META = "io.modelcontextprotocol/"

# MCP, server/resources, "Error Handling"; 2026-07-28 has INVALID_PARAMS in its place.
_RESOURCE_NOT_FOUND = -32002

# MCP 2026-07-28, server/utilities/caching: what is the same for everybody for as long as the
# process lives, and what may be another thing at any moment and is this client's alone.
_FIXED = {"ttlMs": 3600 * 1000, "cacheScope": "public"}
_CHANGING = {"ttlMs": 0, "cacheScope": "private"}


class _Method:
    """A row of the table.

    handler: called with the McpHandler and the call. eras: in which the method exists.
    params: the schema of its parameters. caching: what its result has to say of that in the
    modern era. before_initialize: it may come before the handshake.
    """

    def __init__(
        self,
        handler: Callable[[McpHandler, Call], Result],
        eras: Tuple[str, ...],
        params: Optional[Schema] = None,
        caching: Optional[Message] = None,
        before_initialize: bool = False,
    ) -> None:
        self.handler = handler
        self.eras = eras
        self.params = params or {}
        self.caching = caching or {}
        self.before_initialize = before_initialize


class McpHandler:
    """Answers MCP requests about the tasks of one manager.

    tools: the table, by name. subscriptions: who listens. It speaks to one client; the only
    state of its own is which handshake revision that client agreed to, None before.
    """

    def __init__(
        self, manager: TaskManager, tools: Mapping[str, ToolBase], subscriptions: Subscriptions
    ) -> None:
        self._manager = manager
        self._tools = tools
        self._resources = Resources(manager)
        self._subscriptions = subscriptions
        self._negotiated: Optional[str] = None
        self._server_info = {"name": "backgroundr", "title": "backgroundr", "version": __version__}
        self._capabilities: Dict[str, Any] = {
            "tools": {},
            "resources": {"subscribe": True, "listChanged": True},
            "completions": {},
        }

    # ------------------------------------------------ what a Connection asks

    def call(self, call: Call) -> Result:
        """Return the result of a request in the shape of its era. Raises RpcError."""
        era = self._era(call)
        row = _METHODS.get(call.method)
        if row is None:
            raise RpcError(METHOD_NOT_FOUND, "Method not found: %s" % call.method[:100])
        if era not in row.eras:
            raise RpcError(METHOD_NOT_FOUND, _WRONG_ERA[era] % call.method)
        if era == LEGACY and self._negotiated is None and not row.before_initialize:
            # An error of any kind tells a client that probes which era to speak.
            raise RpcError(
                INVALID_PARAMS,
                "Not initialized: send initialize first, or name protocol version %s in _meta"
                % MODERN_VERSION,
            )
        problems = check(call.params, row.params, "")
        if problems:
            raise RpcError(INVALID_PARAMS, "Invalid params: %s" % "; ".join(problems))
        try:
            result = row.handler(self, call)
        except UnknownResource as error:
            code = _RESOURCE_NOT_FOUND if era == LEGACY else INVALID_PARAMS
            raise RpcError(code, str(error), {"uri": error.uri}) from None
        except UnknownCursor:
            raise RpcError(INVALID_PARAMS, "There is no page with this cursor") from None
        if era == LEGACY or isinstance(result, Call):
            return result
        if isinstance(result, Deferred):
            return result.then(lambda finished: self._modern_result(finished, row))
        return self._modern_result(result, row)

    def notify(self, connection: Connection, method: str, params: Any) -> None:
        """Act on a cancellation; every other notification needs no action."""
        if method == "notifications/cancelled" and isinstance(params, dict):
            connection.cancel(params.get("requestId"))

    def batches_allowed(self) -> bool:
        """Only in the one revision that has them."""
        return self._negotiated == BATCH_VERSION

    # ------------------------------------------------ eras

    def _era(self, call: Call) -> str:
        """Return the era of a request, having checked its envelope. Raises RpcError."""
        meta = call.params.get("_meta", {})
        if not isinstance(meta, dict):
            raise RpcError(INVALID_PARAMS, '"_meta" must be an object')
        if _META + "protocolVersion" not in meta:
            if _META + "clientCapabilities" in meta or _META + "clientInfo" in meta:
                raise RpcError(INVALID_PARAMS, "protocolVersion is missing in _meta")
            return LEGACY
        version = meta[_META + "protocolVersion"]
        if not isinstance(version, str):
            raise RpcError(INVALID_PARAMS, "protocolVersion in _meta must be a string")
        if call.in_batch:
            raise RpcError(
                INVALID_REQUEST, "Invalid request: revision %s has no batches" % MODERN_VERSION
            )
        if version != MODERN_VERSION:
            raise RpcError(
                UNSUPPORTED_VERSION,
                "Unsupported protocol version",
                {"supported": [MODERN_VERSION], "requested": version},
            )
        problems = check(meta, _ENVELOPE, "")
        if problems:
            raise RpcError(INVALID_PARAMS, "Invalid _meta: %s" % "; ".join(problems))
        return MODERN

    def _modern_result(self, result: Message, row: _Method) -> Message:
        return {
            "resultType": "complete",
            **result,
            **row.caching,
            "_meta": {**result.get("_meta", {}), _META + "serverInfo": self._server_info},
        }

    # ------------------------------------------------ methods

    def _initialize(self, call: Call) -> Result:
        if call.in_batch:  # MCP 2025-03-26, basic/lifecycle, "Initialization"
            raise RpcError(INVALID_REQUEST, "Invalid request: initialize must not be in a batch")
        requested = call.params["protocolVersion"]
        # An unknown one is answered with the latest that has a handshake, and the client
        # decides: MCP 2025-11-25, basic/lifecycle, "Version Negotiation".
        self._negotiated = requested if requested in LEGACY_VERSIONS else LEGACY_VERSIONS[-1]
        self._subscriptions.subscribe(RESOURCE_LIST)
        return {
            "protocolVersion": self._negotiated,
            "capabilities": self._capabilities,
            "serverInfo": self._server_info,
            "instructions": INSTRUCTIONS,
        }

    def _discover(self, call: Call) -> Result:
        return {
            "supportedVersions": [MODERN_VERSION],
            # Handshake revisions know no extensions of a server.
            "capabilities": {**self._capabilities, "extensions": {UI_EXTENSION: {}}},
            "instructions": INSTRUCTIONS,
        }

    def _ping(self, call: Call) -> Result:
        return {}

    def _list_tools(self, call: Call) -> Result:
        _refuse_cursor(call)
        # The same for every client, whatever was called before: MCP 2026-07-28, server/tools.
        return {"tools": [tool.describe() for tool in self._tools.values()]}

    def _call_tool(self, call: Call) -> Result:
        name = call.params["name"]
        arguments = call.params.get("arguments") or {}
        tool = self._tools.get(name)
        if tool is None:
            raise RpcError(
                INVALID_PARAMS,
                "Unknown tool: %s. The tools are %s" % (name[:100], ", ".join(self._tools)),
            )
        return tool.call(self._manager, arguments, Caller(call.cancel, _report(call)))

    def _list_resources(self, call: Call) -> Result:
        resources, cursor = self._resources.page(call.params.get("cursor"))
        return {"resources": resources, **({} if cursor is None else {"nextCursor": cursor})}

    def _list_resource_templates(self, call: Call) -> Result:
        _refuse_cursor(call)
        return {"resourceTemplates": self._resources.templates()}

    def _read_resource(self, call: Call) -> Result:
        return {"contents": [self._resources.read(call.params["uri"])]}

    def _subscribe(self, call: Call) -> Result:
        self._resources.check(call.params["uri"])
        self._subscriptions.subscribe(call.params["uri"])
        return {}

    def _unsubscribe(self, call: Call) -> Result:
        self._subscriptions.unsubscribe(call.params["uri"])
        return {}

    def _listen(self, call: Call) -> Result:
        """Open a subscription: MCP 2026-07-28, basic/patterns/subscriptions.

        There is no answer while it is open; the server's end is the one thing that closes it.
        """
        wanted = call.params["notifications"]
        uris: List[Optional[str]] = []
        granted: Dict[str, Any] = {}
        if "resourceSubscriptions" in wanted:
            asked = dict.fromkeys(wanted["resourceSubscriptions"])
            uris += [uri for uri in asked if self._resources.has(uri)]
            granted["resourceSubscriptions"] = list(uris)
        if wanted.get("resourcesListChanged"):
            uris.append(RESOURCE_LIST)
            granted["resourcesListChanged"] = True
        closed = self._modern_result({"_meta": {SUBSCRIPTION_ID: call.id}}, _METHODS[call.method])
        call.cancel.add_callback(lambda: self._subscriptions.stop(call.id))
        if not self._subscriptions.listen(call.id, uris, granted, lambda: call.answer(closed)):
            raise RpcError(
                INVALID_REQUEST,
                "There are %d open subscriptions, which is the most; cancel one first"
                % MAX_LISTENS,
            )
        return call

    def _complete(self, call: Call) -> Result:
        ref = call.params["ref"]
        argument = call.params["argument"]
        if ref["type"] != "ref/resource" or ref.get("uri") != OUTPUT_TEMPLATE:
            raise RpcError(
                INVALID_PARAMS,
                "There is nothing to complete but the template %s" % OUTPUT_TEMPLATE,
            )
        if argument["name"] != OUTPUT_ARGUMENT:
            raise RpcError(
                INVALID_PARAMS,
                "%s has no argument but %s" % (OUTPUT_TEMPLATE, OUTPUT_ARGUMENT),
            )
        return {"completion": self._resources.complete(argument["value"])}


def _report(call: Call) -> Optional[Report]:
    """Return how to tell of the progress of a call; None when it gave no token for that."""
    token = call.params.get("_meta", {}).get("progressToken")
    if not is_id(token):
        return None

    def report(progress: float, total: float, message: str) -> None:
        call.notify(
            "notifications/progress",
            {"progressToken": token, "progress": progress, "total": total, "message": message},
        )

    return report


def _refuse_cursor(call: Call) -> None:
    if "cursor" in call.params:
        raise UnknownCursor  # all fits on one page, so no cursor was ever given out


# ---------------------------------------------------------------- the table

_WRONG_ERA = {
    LEGACY: "Method not found: %%s exists in revision %s only, which has to be named in _meta"
    % MODERN_VERSION,
    MODERN: "Method not found: %%s does not exist in revision %s" % MODERN_VERSION,
}

_STRING = {"type": "string"}
_BOOLEAN = {"type": "boolean"}


def _params(properties: Schema, *required: str) -> Schema:
    return {"type": "object", "properties": properties, "required": list(required)}


_LOG_LEVELS = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"]

# MCP 2026-07-28, RequestMetaObject. What else is in it is nobody's business here.
_ENVELOPE = _params(
    {
        _META + "clientCapabilities": {"type": "object"},
        _META + "clientInfo": {"type": "object"},
        _META + "logLevel": {"enum": _LOG_LEVELS},
        "progressToken": {"type": ["string", "integer"]},
    },
    _META + "clientCapabilities",
)

_CURSOR_PARAMS = _params({"cursor": _STRING})
_URI_PARAMS = _params({"uri": _STRING}, "uri")
_TOOL_PARAMS = _params({"name": _STRING, "arguments": {"type": ["object", "null"]}}, "name")
_LISTEN_PARAMS = _params(
    {
        "notifications": _params(
            {
                "toolsListChanged": _BOOLEAN,
                "promptsListChanged": _BOOLEAN,
                "resourcesListChanged": _BOOLEAN,
                "resourceSubscriptions": {"type": "array", "items": _STRING},
            }
        )
    },
    "notifications",
)
_COMPLETE_PARAMS = _params(
    {
        "ref": _params({"type": _STRING, "uri": _STRING}, "type"),
        "argument": _params({"name": _STRING, "value": _STRING}, "name", "value"),
    },
    "ref",
    "argument",
)

_METHODS = {
    "initialize": _Method(
        McpHandler._initialize,
        _LEGACY_ONLY,
        _params({"protocolVersion": _STRING}, "protocolVersion"),
        before_initialize=True,
    ),
    "server/discover": _Method(McpHandler._discover, _MODERN_ONLY, caching=_FIXED),
    "ping": _Method(McpHandler._ping, _LEGACY_ONLY, before_initialize=True),
    "tools/list": _Method(McpHandler._list_tools, _BOTH, _CURSOR_PARAMS, _FIXED),
    "tools/call": _Method(McpHandler._call_tool, _BOTH, _TOOL_PARAMS),
    "resources/list": _Method(McpHandler._list_resources, _BOTH, _CURSOR_PARAMS, _CHANGING),
    "resources/templates/list": _Method(
        McpHandler._list_resource_templates, _BOTH, _CURSOR_PARAMS, _FIXED
    ),
    "resources/read": _Method(McpHandler._read_resource, _BOTH, _URI_PARAMS, _CHANGING),
    "resources/subscribe": _Method(McpHandler._subscribe, _LEGACY_ONLY, _URI_PARAMS),
    "resources/unsubscribe": _Method(McpHandler._unsubscribe, _LEGACY_ONLY, _URI_PARAMS),
    "subscriptions/listen": _Method(McpHandler._listen, _MODERN_ONLY, _LISTEN_PARAMS),
    "completion/complete": _Method(McpHandler._complete, _BOTH, _COMPLETE_PARAMS),
}
