"""Spawn a command so that all that comes of it can be found again and ended. Windows.

A Job Object holds the command and every process that it starts; Windows ends them all when
the last handle to the job closes, which is when this process is gone, however it went.
Imported on Windows only, by `proctree`. Written, not yet run: the project's machines have
no Windows.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, List, Mapping, Optional

# Not in every `subprocess` we support. Values from winbase.h.
_CREATE_SUSPENDED = 0x00000004

# JOBOBJECTINFOCLASS and JOBOBJECT_BASIC_LIMIT_INFORMATION, winnt.h.
_JOB_BASIC_PROCESS_ID_LIST = 3
_JOB_EXTENDED_LIMIT_INFORMATION = 9
_JOB_LIMIT_KILL_ON_JOB_CLOSE = 0x00002000

# A job with more processes than this is still ended whole; only the list is cut.
_MAX_LISTED = 4096


class WindowsMember:
    """A living process of a tree."""

    __slots__ = ("pid",)

    def __init__(self, pid: int) -> None:
        self.pid = pid


class WindowsTree:
    """A command and all that came of it. The methods are those of `proctree.Tree`."""

    exit_fd: Optional[int] = None

    def __init__(self, argv: List[str], cwd: str, env: Mapping[str, str], has_input: bool) -> None:
        assert sys.platform == "win32"
        self._job = _Job()
        # cmd.exe reads the rest of its line as it stands; list2cmdline would escape the
        # quotes in it, which cmd does not understand.
        line = (
            '%s /d /s /c "%s"' % (subprocess.list2cmdline(argv[:1]), argv[-1])
            if argv[1:-1] == ["/d", "/s", "/c"]  # of `shell_argv`, not of an allow-list
            else subprocess.list2cmdline(argv)
        )
        try:
            self._popen = subprocess.Popen(
                line,
                stdin=subprocess.PIPE if has_input else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                cwd=cwd,
                env={**os.environ, **env},
                # Suspended, so that it starts nothing before it is in the job. A group of
                # its own, so that CTRL_BREAK reaches it and not us; no console window.
                creationflags=subprocess.CREATE_NEW_PROCESS_GROUP
                | subprocess.CREATE_NO_WINDOW
                | _CREATE_SUSPENDED,
            )
        except OSError:
            self._job.close()
            raise
        try:
            self._job.adopt_and_resume(self._popen)
        except OSError:
            self._popen.kill()
            self._popen.communicate()
            self._job.close()
            raise
        self.pid = self._popen.pid
        stdout, stderr = self._popen.stdout, self._popen.stderr
        assert stdout is not None
        assert stderr is not None
        # Descriptors of our own: the reader closes them, Popen its file objects.
        self.pipes = {os.dup(stdout.fileno()): "stdout", os.dup(stderr.fileno()): "stderr"}
        stdout.close()
        stderr.close()
        self.input_fd: Optional[int] = None
        if self._popen.stdin is not None:
            self.input_fd = os.dup(self._popen.stdin.fileno())
            self._popen.stdin.close()

    def close_exit_fd(self) -> None:
        """There is none."""

    def wait_exit(self) -> None:
        """Block until the command itself has exited; its handle keeps the pid taken."""
        self._popen.wait()

    def reap(self) -> int:
        """Return the exit code."""
        return self._popen.wait()

    def signal(self, members: List[Any], number: int) -> None:
        """Ask the command to end: CTRL_BREAK, the one such event that reaches a group.

        SIGKILL ends the whole job at once.
        """
        assert sys.platform == "win32"
        if number == 9:
            self._job.terminate()
            return
        try:
            os.kill(self.pid, signal.CTRL_BREAK_EVENT)
        except OSError:
            pass  # gone, or without a console to receive it; the kill after the grace ends it

    def signal_strays(self, members: List[Any], number: int) -> bool:
        """Nothing: the event reaches the whole group."""
        return False

    def shares_timer_slack(self) -> None:
        """There is none."""

    def kill(self, members: List[Any]) -> None:
        """End every process of the job."""
        self._job.terminate()

    def discard(self) -> None:
        """End a tree that nobody has begun to watch."""
        self._job.terminate()
        self._popen.wait()
        self._job.close()
        for fd in (*self.pipes, *([] if self.input_fd is None else [self.input_fd])):
            os.close(fd)

    def members(self) -> List[WindowsMember]:
        """Return the living processes of the job."""
        return [WindowsMember(pid) for pid in self._job.pids()]


class _Job:
    """A Job Object whose processes end when its handle closes."""

    def __init__(self) -> None:
        assert sys.platform == "win32"
        import ctypes
        from ctypes import wintypes

        class BasicLimits(ctypes.Structure):
            _fields_ = [
                ("PerProcessUserTimeLimit", ctypes.c_int64),
                ("PerJobUserTimeLimit", ctypes.c_int64),
                ("LimitFlags", wintypes.DWORD),
                ("MinimumWorkingSetSize", ctypes.c_size_t),
                ("MaximumWorkingSetSize", ctypes.c_size_t),
                ("ActiveProcessLimit", wintypes.DWORD),
                ("Affinity", ctypes.c_size_t),
                ("PriorityClass", wintypes.DWORD),
                ("SchedulingClass", wintypes.DWORD),
            ]

        class ExtendedLimits(ctypes.Structure):
            _fields_ = [
                ("BasicLimitInformation", BasicLimits),
                ("IoInfo", ctypes.c_uint64 * 6),
                ("ProcessMemoryLimit", ctypes.c_size_t),
                ("JobMemoryLimit", ctypes.c_size_t),
                ("PeakProcessMemoryUsed", ctypes.c_size_t),
                ("PeakJobMemoryUsed", ctypes.c_size_t),
            ]

        class ProcessIdList(ctypes.Structure):
            _fields_ = [
                ("NumberOfAssignedProcesses", wintypes.DWORD),
                ("NumberOfProcessIdsInList", wintypes.DWORD),
                ("ProcessIdList", ctypes.c_size_t * _MAX_LISTED),
            ]

        self._ctypes = ctypes
        self._id_list_type = ProcessIdList
        self._kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
        self._kernel32.CreateJobObjectW.restype = wintypes.HANDLE
        handle = self._kernel32.CreateJobObjectW(None, None)
        if not handle:
            raise ctypes.WinError(ctypes.get_last_error())
        self._handle = wintypes.HANDLE(handle)
        limits = ExtendedLimits()
        limits.BasicLimitInformation.LimitFlags = _JOB_LIMIT_KILL_ON_JOB_CLOSE
        self._kernel32.SetInformationJobObject(
            self._handle,
            _JOB_EXTENDED_LIMIT_INFORMATION,
            ctypes.byref(limits),
            ctypes.sizeof(limits),
        )

    def adopt_and_resume(self, popen: subprocess.Popen[bytes]) -> None:
        """Put a suspended process into the job, then let it run. Raises OSError."""
        assert sys.platform == "win32"
        handle = self._ctypes.c_void_p(int(popen._handle))  # type: ignore[attr-defined]
        if not self._kernel32.AssignProcessToJobObject(self._handle, handle):
            raise self._ctypes.WinError(self._ctypes.get_last_error())
        # subprocess has closed the thread's handle that ResumeThread would need.
        self._ctypes.WinDLL("ntdll").NtResumeProcess(handle)

    def terminate(self) -> None:
        self._kernel32.TerminateJobObject(self._handle, 1)

    def pids(self) -> List[int]:
        listed = self._id_list_type()
        self._kernel32.QueryInformationJobObject(
            self._handle,
            _JOB_BASIC_PROCESS_ID_LIST,
            self._ctypes.byref(listed),
            self._ctypes.sizeof(listed),
            None,
        )
        return list(listed.ProcessIdList[: listed.NumberOfProcessIdsInList])

    def close(self) -> None:
        self._kernel32.CloseHandle(self._handle)
