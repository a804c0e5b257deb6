"""backgroundr: an MCP server and a library for long-running shell commands.

`python -m backgroundr` serves the Model Context Protocol on stdin and stdout. The library
is `TaskManager`; it needs no MCP. Importing this package starts nothing.
"""

from .cancel import CancelToken
from .errors import (
    BackgroundrError,
    Cancelled,
    InvalidValue,
    ManagerClosed,
    SpawnFailed,
    UnknownTask,
)
from .manager import TaskManager
from .status import TaskOutput, TaskPage, TaskStatus
from .version import __version__

__all__ = [
    "BackgroundrError",
    "CancelToken",
    "Cancelled",
    "InvalidValue",
    "ManagerClosed",
    "SpawnFailed",
    "TaskManager",
    "TaskOutput",
    "TaskPage",
    "TaskStatus",
    "UnknownTask",
    "__version__",
]
