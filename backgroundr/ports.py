"""Who listens on a TCP port of this machine, found by looking and not by connecting: a server
that takes one connection would be used up.

On Linux the kernel is asked for its listening sockets; elsewhere `lsof` or, on Windows,
`netstat` is. Only where there is none of these the port is connected to.
"""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Collection, Dict, FrozenSet, List, Optional

# An answer is due 50 ms after the event. Where a look takes longer, it may take this part of
# one processor.
_INTERVAL_S = 0.02
_SHARE = 0.1
_COMMAND_TIMEOUT_S = 5.0

# Netlink, sock_diag(7). A message: length, type, flags, sequence number, port id.
_NETLINK_SOCK_DIAG = 4
_MESSAGE = struct.Struct("=LHHLL")
_SOCK_DIAG_BY_FAMILY = 20
_REQUEST_AND_DUMP = 0x301
_DONE = 3
_ERROR = 2
# The request: family, protocol (TCP), two unused, states (1 << 10: listening), a socket's id.
_INET_DIAG_REQUEST = struct.Struct("=BBBxI48x")
_TCP = 6
_LISTEN_STATE = 1 << 10
# The answer: family, state, timer, retransmits; local port; 62 bytes more; the inode.
_INET_DIAG_ANSWER = struct.Struct("!4xH62x4s")
# Where that is forbidden or missing, /proc/net/tcp, which takes the kernel a hundred times
# longer. proc(5): number, local and remote address, state (0A: listening), five more
# columns, inode.
_LISTENING = rb"(?m)^ *\d+: [0-9A-F]+:%04X [0-9A-F]+:0000 0A (?:\S+ +){5}(\d+)"
# netstat -ano: protocol, local and remote address, state in the language of the system, pid.
# Who listens has no remote address.
_NETSTAT = r"(?m)^ *TCP +\S+:%d +(?:0\.0\.0\.0|\[::\]):0 +\S+ +(\d+) *\r?$"


class PortHolder:
    """Who listens on a port.

    is_of_task: whether that is one of the processes asked about; None where it cannot be seen.
    pid, program (its name): of who does; None where they cannot be seen.
    """

    __slots__ = ("port", "is_of_task", "pid", "program")

    def __init__(
        self,
        port: int,
        is_of_task: Optional[bool],
        pid: Optional[int] = None,
        program: Optional[str] = None,
    ) -> None:
        self.port = port
        self.is_of_task = is_of_task
        self.pid = pid
        self.program = program


class PortWatch:
    """Looks at one port, again and again. interval_s: how long to let pass between."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.interval_s = _INTERVAL_S

    def listeners(self) -> FrozenSet[int]:
        """Return what listens on the port, empty when nothing does.

        Sockets (their inodes) on Linux, pids elsewhere, 0 where it is not known.
        """
        began = time.perf_counter()
        found = _listeners(self.port)
        self.interval_s = max(_INTERVAL_S, (time.perf_counter() - began) / _SHARE)
        return found

    def holder(self, listeners: Collection[int], pids: Collection[int]) -> PortHolder:
        """Return who that is. pids: the processes of a task."""
        if sys.platform == "linux":
            return _holder_of_sockets(self.port, listeners, pids)
        ours = [pid for pid in listeners if pid in pids]
        if ours:
            return PortHolder(self.port, True, ours[0])
        known = [pid for pid in listeners if pid]
        return PortHolder(self.port, False if known else None, known[0] if known else None)


def _holder_of_sockets(port: int, inodes: Collection[int], pids: Collection[int]) -> PortHolder:
    """Look whose the sockets are, first among `pids`, then among all."""
    links = {"socket:[%d]" % inode for inode in inodes}
    seen: Dict[int, Optional[bool]] = {pid: _has_open(pid, links) for pid in pids}
    for pid, has in seen.items():
        if has:
            return PortHolder(port, True, pid, _program_of(pid))
    # Of a process that may not be looked into it is not known that it does not listen.
    is_of_task = None if None in seen.values() else False
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        if pid not in seen and _has_open(pid, links):
            return PortHolder(port, False, pid, _program_of(pid))
    return PortHolder(port, is_of_task)


def _has_open(pid: int, links: Collection[str]) -> Optional[bool]:
    """Whether a process has one of these open; None when it may not be looked into."""
    directory = "/proc/%d/fd" % pid
    try:
        for name in os.listdir(directory):
            try:
                if os.readlink(os.path.join(directory, name)) in links:
                    return True
            except FileNotFoundError:
                pass  # closed since
    except (FileNotFoundError, ProcessLookupError):
        return False
    except OSError:
        return None
    return False


def _program_of(pid: int) -> Optional[str]:
    try:
        with open("/proc/%d/comm" % pid, encoding="utf-8", errors="replace") as file:
            return file.read().rstrip("\n")
    except OSError:
        return None


def _listeners(port: int) -> FrozenSet[int]:
    if sys.platform == "linux":
        try:
            return listeners_of_netlink(port)
        except (OSError, ImportError):  # a server may have lost the access to its own Python
            tables = [_read("/proc/net/tcp"), _read("/proc/net/tcp6")]
        if any(tables):
            pattern = _LISTENING % port
            return frozenset(int(inode) for table in tables for inode in re.findall(pattern, table))
    elif sys.platform == "win32":
        text = _output_of(["netstat", "-ano", "-p", "TCP"], ["netstat", "-ano", "-p", "TCPv6"])
        if text is not None:
            return listeners_of_netstat(text, port)
    else:
        text = _output_of(["lsof", "-nP", "-iTCP:%d" % port, "-sTCP:LISTEN", "-Fp"])
        if text is not None:
            return listeners_of_lsof(text)
    return frozenset((0,)) if _can_connect(port) else frozenset()


if sys.platform == "linux":

    def listeners_of_netlink(port: int) -> FrozenSet[int]:
        """Return the inodes of the sockets that listen on a port. Linux. Raises OSError."""
        import socket

        inodes = set()
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as netlink:
            for family in (socket.AF_INET, socket.AF_INET6):
                request = _INET_DIAG_REQUEST.pack(family, _TCP, 0, _LISTEN_STATE)
                size = _MESSAGE.size + len(request)
                header = _MESSAGE.pack(size, _SOCK_DIAG_BY_FAMILY, _REQUEST_AND_DUMP, 0, 0)
                netlink.send(header + request)
                kind = 0
                while kind != _DONE:
                    data = netlink.recv(65536)
                    while data and kind != _DONE:
                        size, kind, *_ = _MESSAGE.unpack_from(data)
                        if kind == _ERROR:
                            raise OSError("no sock_diag")
                        if kind == _SOCK_DIAG_BY_FAMILY:
                            local_port, inode = _INET_DIAG_ANSWER.unpack_from(data, _MESSAGE.size)
                            if local_port == port:
                                inodes.add(int.from_bytes(inode, sys.byteorder))
                        data = data[size + 3 & ~3 :]
        return frozenset(inodes)


def listeners_of_netstat(text: str, port: int) -> FrozenSet[int]:
    """Return the pids of who listens on a port, from what `netstat -ano` of Windows prints."""
    return frozenset(int(pid) for pid in re.findall(_NETSTAT % port, text))


def listeners_of_lsof(text: str) -> FrozenSet[int]:
    """Return the pids from what `lsof -Fp` prints: a line each, behind a letter "p"."""
    return frozenset(int(line[1:]) for line in text.split() if line[:1] == "p")


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def _output_of(*commands: List[str]) -> Optional[str]:
    """Return what programs print; None where they cannot be run."""
    texts = []
    for command in commands:
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=_COMMAND_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        texts.append(done.stdout.decode("utf-8", "replace"))
    return "".join(texts)


def _can_connect(port: int) -> bool:
    import socket

    for address in ("127.0.0.1", "::1"):
        try:
            socket.create_connection((address, port), timeout=0.5).close()
            return True
        except OSError:
            pass
    return False
