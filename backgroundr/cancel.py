"""A way to tell a waiting call that nobody wants its answer any more."""

from __future__ import annotations

import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, List


class CancelToken:
    """Given to a call that may wait; whoever holds it can end the wait, once.

    Safe to use from any thread.
    """

    def __init__(self) -> None:
        # _lock owns _cancelled and _callbacks; never held while a callback runs.
        self._lock = threading.Lock()
        self._cancelled = False
        self._callbacks: List[Callable[[], None]] = []

    @property
    def cancelled(self) -> bool:
        """True from the first `cancel` on."""
        return self._cancelled

    def cancel(self) -> None:
        """Cancel; run what was registered, in this thread. A second call does nothing."""
        with self._lock:
            self._cancelled = True
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def add_callback(self, callback: Callable[[], None]) -> None:
        """Run `callback` at the cancellation, or at once when that is past."""
        with self._lock:
            if not self._cancelled:
                self._callbacks.append(callback)
                return
        callback()

    def remove_callback(self, callback: Callable[[], None]) -> None:
        """Forget `callback`; nothing happens when it is not registered."""
        with self._lock:
            if callback in self._callbacks:
                self._callbacks.remove(callback)
