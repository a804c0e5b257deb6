"""Marks: the numbers by which the processes of a task are known, whatever becomes of them.

A manager has a base mark, and each tree that it starts one of its own above that. Where a
process carries its mark, and how it is read back, is the business of `proctable`.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional, Sequence

# A path of marks, outermost first, in hexadecimal, joined by ":". It is a path so that a
# backgroundr that runs as a task of another leaves its own tasks findable for both.
ENV_NAME = "BACKGROUNDR_TASK"

# Bit 61, then 41 random bits for the manager, then 20 for the number of the tree. Taken as
# a resource limit that is far above any in use, and below the signed 64 bits of Python's
# `resource`.
_FLAG = 1 << 61
_MANAGER_BITS = 41
_SERIAL_BITS = 20

DEFAULT_TIMER_SLACK_NS = 50000


def new_base_mark() -> int:
    """Return a mark for all that one manager will start."""
    manager = int.from_bytes(os.urandom(8), "big") % (1 << _MANAGER_BITS)
    return _FLAG | manager << _SERIAL_BITS


def tree_mark(base: int, serial: int) -> int:
    """Return the mark of a manager's tree number `serial`, from 0; they repeat after a million."""
    return base + 1 + serial % ((1 << _SERIAL_BITS) - 1)


def base_of(mark: int) -> int:
    """Return the base mark of a tree's mark, or of a base mark itself."""
    return mark >> _SERIAL_BITS << _SERIAL_BITS


def is_mark(number: int) -> bool:
    """Whether a number that stands where a mark may stand is one."""
    return number >> _MANAGER_BITS + _SERIAL_BITS == 1


def timer_slack_of(mark: int) -> int:
    """Return the timer slack in ns that stands for a mark: 10 bits of the manager, 6 of the tree.

    From 1,001 to 66,537, so that no program would notice, and never the 50,000 of everybody
    else (prctl(2), PR_SET_TIMERSLACK). It is not unique, so it may count only for a process
    that has no mark at all; that another one of those has this very slack is left to chance,
    one in 1,024 for each other manager of root that is at work.
    """
    slack = 1001 + ((mark >> _SERIAL_BITS) % 1024 << 6) + mark % 64
    return slack if slack != DEFAULT_TIMER_SLACK_NS else 1001 + (1 << 16)


def timer_slacks_of(mark: int) -> Sequence[int]:
    """Return the timer slack of a tree's mark; of a base mark those of all its trees."""
    serials = range(1, 65) if mark == base_of(mark) else range(1)
    return [timer_slack_of(mark + serial) for serial in serials]


def mark_path(outer: Optional[bytes], mark: int) -> bytes:
    """Return the value of ENV_NAME for a tree whose parent's is `outer`."""
    own = b"%x" % mark
    return outer + b":" + own if outer else own


def marks_in_path(path: bytes) -> Sequence[int]:
    """Return the marks of a value of ENV_NAME, innermost first; none when it is not ours."""
    try:
        return [int(mark, 16) for mark in reversed(path.split(b":"))]
    except ValueError:
        return ()
