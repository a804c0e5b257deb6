"""LogFile: all that a task prints, in a file of its own, for as long as that goes well."""

from __future__ import annotations

import os
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional

LOG_BYTES = 1024 * 1024 * 1024
_SUFFIX = ".log"
_REMOVED = "the file was removed or replaced"


class LogFile:
    """The file that the output of one task is written to as it comes, both streams alike.

    path: absolute; None when the file could not be made. ended: why nothing more is written
    to it, in a sentence, or None. No method raises anything; `write` waits for the disk.
    """

    def __init__(self, directory: str, task_id: str, limit_bytes: int) -> None:
        self.path: Optional[str] = os.path.join(directory, task_id + _SUFFIX)
        self.ended: Optional[str] = None
        # On Windows each stream has a thread that writes.
        self._lock = threading.Lock()
        self._limit_bytes = limit_bytes
        self._written_bytes = 0
        self._fd: Optional[int] = None
        # Nobody else's file is written to, whatever name or link stands there; nor is it
        # anybody else's to read.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | getattr(os, "O_BINARY", 0)
        try:
            self._fd = os.open(os.fsencode(self.path), flags, 0o600)
        except (OSError, ValueError) as error:
            self.ended = "It could not be made: %s." % (getattr(error, "strerror", "") or error)
            self.path = None

    def write(self, data: bytes) -> None:
        """Write `data`, or as much as the limit allows and the disk takes."""
        with self._lock:
            if self._fd is None:
                return
            room = self._limit_bytes - self._written_bytes
            try:
                self._write(data[:room])
            except OSError as error:
                self._end("it could not be written: %s" % error.strerror)
                return
            if len(data) > room and self.ended is None:
                self._end("more than the option --log-bytes allows was printed")

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest and self._fd is not None:
            # Less is written than there is when the disk has no room for more; the next try
            # then says so.
            count = os.write(self._fd, rest)
            self._written_bytes += count
            rest = rest[count:]
        if self._fd is not None and not self._is_at_its_path():
            self._end(_REMOVED)

    def _is_at_its_path(self) -> bool:
        assert self._fd is not None
        assert self.path is not None
        try:
            there = os.stat(os.fsencode(self.path), follow_symlinks=False)
        except OSError:
            return False
        return os.path.samestat(there, os.fstat(self._fd))

    def close(self) -> None:
        """Close the file: no more will be printed."""
        with self._lock:
            if self._fd is not None and not self._is_at_its_path():
                self._end(_REMOVED)
            self._close()

    def discard(self) -> None:
        """Close the file and remove it: there is no task that it could be of."""
        with self._lock:
            fd = self._fd
            self._close()
        if fd is not None and self.path is not None:
            try:
                os.unlink(os.fsencode(self.path))
            except OSError:
                pass

    def _end(self, reason: str) -> None:
        self._close()
        self.ended = "It ends after %d bytes: %s." % (self._written_bytes, reason)

    def _close(self) -> None:
        if self._fd is None:
            return
        fd, self._fd = self._fd, None
        try:
            os.close(fd)
        except OSError as error:  # NFS may say only now that the disk is full
            self.ended = "Its end may be missing: %s." % error.strerror
