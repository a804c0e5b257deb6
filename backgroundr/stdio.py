"""The stdio of a command: pipes, or a terminal, with our ends of them.

Of our own making, for Popen leaks its pipes when it fails for want of descriptors (Python 3.8
to 3.10). POSIX, but for the names of the kinds.
"""

from __future__ import annotations

import os
import struct
import sys

# Not where they are used: by then a server may have lost the access to its own Python.
if sys.platform != "win32":
    import fcntl
    import termios

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Optional, Tuple

# What stdin is.
EMPTY = "empty"
PIPE = "pipe"
TERMINAL = "terminal"  # and stdout and stderr are the same one

# Of a terminal. Wide enough for most tables and log lines.
COLUMNS = 120
ROWS = 40
TERMINAL_ENVIRONMENT = {b"TERM": b"xterm-256color"}  # nearly every system knows this one
# So that backspace takes a whole character. The number on Linux and macOS; Python has no name.
_IUTF8 = 0x4000
# What tells of the terminal that this process was started from.
FOREIGN_SIZE = (b"LINES", b"COLUMNS")


class Stdio:
    """The descriptors of one command.

    child_stdin, child_stdout, child_stderr: for the command. pipes: {descriptor: stream} of
    what is to be read, non-blocking. input_fd: what is to be written, non-blocking, or None.
    """

    def __init__(self, kind: str) -> None:
        """kind: EMPTY, PIPE or TERMINAL. Raises OSError; then nothing is left open."""
        self._child: List[int] = []
        self._own: List[int] = []
        self._terminal_path: Optional[str] = None
        self.input_fd: Optional[int] = None
        try:
            if kind == TERMINAL:
                self._open_terminal()
            else:
                self._open_pipes(kind)
            for fd in self._own:
                os.set_blocking(fd, False)
        except BaseException:
            self.close()
            self.close_child()
            raise

    def _open_pipes(self, kind: str) -> None:
        if kind == PIPE:
            self.child_stdin, self.input_fd = self._pair(os.pipe())
        else:
            self.child_stdin = os.open(os.devnull, os.O_RDWR)
            self._child.append(self.child_stdin)
        self.pipes: Dict[int, str] = {}
        self.child_stdout = self._output_pipe("stdout")
        self.child_stderr = self._output_pipe("stderr")

    def _output_pipe(self, stream: str) -> int:
        ours, childs = os.pipe()
        self._pair((childs, ours))
        self.pipes[ours] = stream
        return childs

    def _open_terminal(self) -> None:
        if sys.platform != "win32":
            ours, childs = os.openpty()
            self._pair((childs, ours))
            modes = termios.tcgetattr(childs)
            modes[0] |= _IUTF8
            termios.tcsetattr(childs, termios.TCSANOW, modes)
            self.pipes = {ours: "stdout"}
            # Closed when the task is over, where reading goes on as long as anybody prints.
            self.input_fd = os.dup(ours)
            self._own.append(self.input_fd)
            fcntl.ioctl(childs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
            self.child_stdin = self.child_stdout = self.child_stderr = childs
            self._terminal_path = os.ttyname(childs)

    def _pair(self, ends: Tuple[int, int]) -> Tuple[int, int]:
        self._child.append(ends[0])
        self._own.append(ends[1])
        return ends

    def argv(self, argv: List[str]) -> List[str]:
        """Return a command that becomes `argv`, with the terminal for its controlling one.

        For the leader of a new session. It gets the terminal by opening it without O_NOCTTY
        (POSIX, General Terminal Interface, leaves that to the system; Linux, macOS and the BSDs
        do so), which Popen itself could do in `preexec_fn` only, and that is not for a process
        with threads.
        """
        if self._terminal_path is None:
            return argv
        return ["/bin/sh", "-c", _TAKE_TERMINAL, self._terminal_path, *argv]

    def close_child(self) -> None:
        """Close the command's ends, when it has them."""
        while self._child:
            os.close(self._child.pop())

    def close(self) -> None:
        """Close our ends, if nobody else has begun to use them."""
        while self._own:
            os.close(self._own.pop())


# Of a line that a terminal puts together it keeps so much, and drops the rest in silence
# (Linux: N_TTY_BUF_SIZE; elsewhere MAX_CANON).
LINE_MODE_BYTES = 4095 if sys.platform == "linux" else 1023


class TerminalModes:
    """How a terminal takes what is typed.

    is_line_mode: it puts lines together, else the program reads keys. has_echo: it shows them.
    """

    def __init__(self, fd: int) -> None:
        """fd: our end of the terminal."""
        self.is_line_mode = self.has_echo = True
        if sys.platform != "win32":
            try:
                local_modes = termios.tcgetattr(fd)[3]
            except termios.error:
                return  # nobody has the other end any more
            self.is_line_mode = bool(local_modes & termios.ICANON)
            self.has_echo = bool(local_modes & termios.ECHO)


# A shell that cannot open it goes on without: the command has it on its stdin even so.
_TAKE_TERMINAL = '{ true <>"$0"; } 2>/dev/null; exec "$@"'
