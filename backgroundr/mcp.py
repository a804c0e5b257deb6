"""The Model Context Protocol on top of JSON-RPC: one table of methods, two eras.

Legacy: the revisions with a handshake (`initialize`). Modern: the revision without, where
each request carries its own `_meta`. The era is decided once a request, from the request
alone, so a client may probe with one and go on with the other; results get the shape of
their era in one place.
"""

from __future__ import annotations

from .jsonrpc import INVALID_PARAMS, METHOD_NOT_FOUND, Deferred, RpcError
from .manager import TaskManager
from .tools import INSTRUCTIONS, Tool
from .version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Optional, Tuple, Union

    from .jsonrpc import Call, Connection, Message

    Result = Union[Message, Deferred]

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

# MCP 2026-07-28, server/utilities/caching. What is cacheable here is the same for everybody
# for as long as the process lives.
_CACHING = {"ttlMs": 3600 * 1000, "cacheScope": "public"}


class _Method:
    """A row of the table. handler: called with the McpHandler and the call."""

    def __init__(
        self,
        handler: Callable[[McpHandler, Call], Result],
        eras: Tuple[str, ...],
        cacheable: bool = False,
        before_initialize: bool = False,
    ) -> None:
        self.handler = handler
        self.eras = eras
        self.cacheable = cacheable
        self.before_initialize = before_initialize


class McpHandler:
    """Answers MCP requests about the tasks of one manager.

    tools: the table, by name. It speaks to one client; the only state is which handshake
    revision that client agreed to, None before.
    """

    def __init__(self, manager: TaskManager, tools: Dict[str, Tool]) -> None:
        self._manager = manager
        self._tools = tools
        self._negotiated: Optional[str] = None
        self._server_info = {"name": "backgroundr", "title": "backgroundr", "version": __version__}
        # tools/list must not depend on who asks: MCP 2026-07-28, server/tools.
        self._capabilities: Dict[str, Any] = {"tools": {}}

    # ------------------------------------------------ what a Connection asks

    def call(self, call: Call) -> Result:
        """Return the result of a request in the shape of its era. Raises RpcError."""
        era = self._era(call)
        row = _METHODS.get(call.method)
        if row is None or era not in row.eras:
            raise RpcError(METHOD_NOT_FOUND, "Method not found: %s" % call.method[:100])
        if era == LEGACY and self._negotiated is None and not row.before_initialize:
            # An error of any kind tells a client that probes which era to speak.
            raise RpcError(
                INVALID_PARAMS,
                "Not initialized: send initialize first, or name protocol version %s in _meta"
                % MODERN_VERSION,
            )
        result = row.handler(self, call)
        if era == LEGACY:
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
            return LEGACY
        version = meta[_META + "protocolVersion"]
        if not isinstance(version, str):
            raise RpcError(INVALID_PARAMS, "protocolVersion in _meta must be a string")
        if version != MODERN_VERSION:
            raise RpcError(
                UNSUPPORTED_VERSION,
                "Unsupported protocol version",
                {"supported": [MODERN_VERSION], "requested": version},
            )
        if not isinstance(meta.get(_META + "clientCapabilities"), dict):
            raise RpcError(INVALID_PARAMS, "clientCapabilities in _meta must be an object")
        return MODERN

    def _modern_result(self, result: Message, row: _Method) -> Message:
        return {
            "resultType": "complete",
            **result,
            **(_CACHING if row.cacheable else {}),
            "_meta": {**result.get("_meta", {}), _META + "serverInfo": self._server_info},
        }

    # ------------------------------------------------ methods

    def _initialize(self, call: Call) -> Result:
        requested = call.params.get("protocolVersion")
        if not isinstance(requested, str):
            raise RpcError(INVALID_PARAMS, "protocolVersion must be a string")
        # An unknown one is answered with the latest that has a handshake, and the client
        # decides: MCP 2025-11-25, basic/lifecycle, "Version Negotiation".
        self._negotiated = requested if requested in LEGACY_VERSIONS else LEGACY_VERSIONS[-1]
        return {
            "protocolVersion": self._negotiated,
            "capabilities": self._capabilities,
            "serverInfo": self._server_info,
            "instructions": INSTRUCTIONS,
        }

    def _discover(self, call: Call) -> Result:
        return {
            "supportedVersions": [MODERN_VERSION],
            "capabilities": self._capabilities,
            "instructions": INSTRUCTIONS,
        }

    def _ping(self, call: Call) -> Result:
        return {}

    def _list_tools(self, call: Call) -> Result:
        # Everything fits on one page, so no cursor was ever given out.
        if "cursor" in call.params:
            raise RpcError(INVALID_PARAMS, "There is no page with this cursor")
        return {"tools": [tool.describe() for tool in self._tools.values()]}

    def _call_tool(self, call: Call) -> Result:
        name = call.params.get("name")
        if not isinstance(name, str):
            raise RpcError(INVALID_PARAMS, "name must be a string")
        arguments = call.params.get("arguments")
        if arguments is None:
            arguments = {}
        if not isinstance(arguments, dict):
            raise RpcError(INVALID_PARAMS, "arguments must be an object")
        tool = self._tools.get(name)
        if tool is None:
            raise RpcError(
                INVALID_PARAMS,
                "Unknown tool: %s. The tools are %s" % (name[:100], ", ".join(self._tools)),
            )
        return tool.call(self._manager, arguments, call.cancel)


_METHODS = {
    "initialize": _Method(McpHandler._initialize, _LEGACY_ONLY, before_initialize=True),
    "server/discover": _Method(McpHandler._discover, _MODERN_ONLY, cacheable=True),
    "ping": _Method(McpHandler._ping, _LEGACY_ONLY, before_initialize=True),
    "tools/list": _Method(McpHandler._list_tools, _BOTH, cacheable=True),
    "tools/call": _Method(McpHandler._call_tool, _BOTH),
}
