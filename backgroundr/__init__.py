"""backgroundr: an MCP server and a library for long-running shell commands.

`python -m backgroundr` serves the Model Context Protocol on stdin and stdout. The library
is `TaskManager`; it needs no MCP. `serve` serves MCP on streams of a host program, which may add
a `Tool` of its own. Importing this package starts nothing.
"""

from .cancel import CancelToken
from .errors import (
    AmbiguousName,
    BackgroundrError,
    Cancelled,
    InputRefused,
    InvalidValue,
    ManagerClosed,
    NotAllowed,
    SpawnFailed,
    UnknownTask,
)
from .manager import TaskManager
from .service import serve
from .status import TaskInputResult, TaskOutput, TaskPage, TaskStatus
from .tool import Tool
from .version import __version__
from .waiting import TaskWait, WaitEvent

__all__ = [
    "AmbiguousName",
    "BackgroundrError",
    "CancelToken",
    "Cancelled",
    "InputRefused",
    "InvalidValue",
    "ManagerClosed",
    "NotAllowed",
    "SpawnFailed",
    "TaskInputResult",
    "TaskManager",
    "TaskOutput",
    "TaskPage",
    "TaskStatus",
    "TaskWait",
    "Tool",
    "UnknownTask",
    "WaitEvent",
    "__version__",
    "serve",
]
