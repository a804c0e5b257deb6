"""Who wants to hear of which resources, and the one notifier that gathers changes and tells.

A change is only taken note of. The notifier, a thread that the first change starts, tells
what changed at most ten times a second, and waits while the client does not read: so a
flood of changes, or a client that sleeps, costs no more than the set of what changed.
"""

from __future__ import annotations

import threading

from .jsonrpc import encode_notification

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Dict, FrozenSet, Iterable, List, Optional, Set, Tuple

    from .jsonrpc import Id, LineWriter, Message

    Uri = Optional[str]

# Stands among the URIs for the list of resources itself, which has none that a client could
# name.
RESOURCE_LIST = None

# MCP 2026-07-28, basic/patterns/subscriptions: on every message of a subscription.
SUBSCRIPTION_ID = "io.modelcontextprotocol/subscriptionId"

# How long changes are gathered after some have been told.
_GATHER_S = 0.1
# Each costs a message a change. Known clients have one or two.
MAX_LISTENS = 100


class _Listener:
    """One who listens. id: of the listening call; None for a client of the handshake era.

    finish: ends the listening call.
    """

    def __init__(self, id: Optional[Id], uris: Iterable[Uri], finish: Callable[[], None]) -> None:
        self.id = id
        self.uris = set(uris)
        self.finish = finish

    def message(self, method: str, params: Message) -> bytes:
        """Return a notification for this listener, tagged with the id of its call."""
        if self.id is not None:
            params = {"_meta": {SUBSCRIPTION_ID: self.id}, **params}
        return encode_notification(method, params or None)


class Subscriptions:
    """The listeners of one client. writer: where to tell them. Any thread may call."""

    def __init__(self, writer: LineWriter) -> None:
        self._writer = writer
        # Held while listeners are told and while one comes or goes: so nothing is written for
        # it before its acknowledgement, nor afterwards. Taken before _lock.
        self._telling = threading.Lock()
        # _lock owns the rest; held for nothing slow. _wanted: the URIs of all listeners.
        # _changed: those of which they are still to be told.
        self._lock = threading.Lock()
        self._handshake = _Listener(None, (), lambda: None)
        self._listens: Dict[Id, _Listener] = {}
        self._wanted: FrozenSet[Uri] = frozenset()
        self._changed: Set[Uri] = set()
        self._notifier: Optional[threading.Thread] = None
        # Set when there is a change to tell, and at the end.
        self._wake = threading.Event()
        self._closed = threading.Event()

    def subscribe(self, uri: Uri) -> None:
        """Have the client of a handshake told of changes of `uri`, without a tag."""
        with self._lock:
            self._handshake.uris.add(uri)
            self._update_wanted()

    def unsubscribe(self, uri: Uri) -> None:
        """Undo `subscribe`; nothing happens when there is nothing to undo."""
        with self._telling, self._lock:
            self._handshake.uris.discard(uri)
            self._update_wanted()

    def listen(
        self, id: Id, uris: Iterable[Uri], notifications: Message, finish: Callable[[], None]
    ) -> bool:
        """Add a listener to `uris`, RESOURCE_LIST among them or not, until `stop` or `close`;
        return False, and do nothing, when there are MAX_LISTENS.

        notifications: what it is told first, the kinds of message that it will hear.
        finish: called by `close`, unless the listener was removed before.
        """
        listener = _Listener(id, uris, finish)
        with self._telling:
            with self._lock:
                if len(self._listens) >= MAX_LISTENS:
                    return False
                self._listens[id] = listener
                self._update_wanted()
            self._writer.send(
                listener.message(
                    "notifications/subscriptions/acknowledged", {"notifications": notifications}
                )
            )
        return True

    def stop(self, id: Id) -> None:
        """Remove a listener; nothing is written for it any more, its finish not called."""
        with self._telling, self._lock:
            self._listens.pop(id, None)
            self._update_wanted()

    def changed(self, uris: Tuple[Uri, ...]) -> None:
        """Take note of changes; returns at once."""
        if self._wanted.isdisjoint(uris):
            return
        with self._lock:
            self._changed.update(self._wanted.intersection(uris))
            if self._notifier is None and not self._closed.is_set():
                notifier = threading.Thread(
                    target=self._notify, name="backgroundr-notifier", daemon=True
                )
                try:
                    notifier.start()
                except RuntimeError:
                    return  # no thread is free; the next change tries again
                self._notifier = notifier
        self._wake.set()

    def close(self) -> None:
        """Tell what is still to be told, and finish every listening call."""
        self._closed.set()
        self._wake.set()
        if self._notifier is not None:
            self._notifier.join()
        self._tell()
        with self._telling, self._lock:
            listeners = list(self._listens.values())
            self._listens.clear()
            self._update_wanted()
        for listener in listeners:
            listener.finish()

    def _update_wanted(self) -> None:
        listeners = [self._handshake, *self._listens.values()]
        self._wanted = frozenset(uri for listener in listeners for uri in listener.uris)
        self._changed &= self._wanted

    def _notify(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            # What is told to a client that does not read would only pile up. One that is
            # merely behind is told in its turn.
            late_bytes = self._writer.late_bytes
            while not (self._closed.is_set() or self._writer.flush(_GATHER_S)):
                if self._writer.late_bytes > late_bytes and self._writer.throttle(0):
                    break
            if self._closed.is_set():
                return
            self._tell()
            self._closed.wait(_GATHER_S)

    def _tell(self) -> None:
        """Write to each listener what has changed of what it wants."""
        with self._telling:
            messages: List[bytes] = []
            with self._lock:
                for listener in [self._handshake, *self._listens.values()]:
                    for uri in sorted(listener.uris & self._changed, key=lambda uri: uri or ""):
                        messages.append(_change_message(listener, uri))
                self._changed.clear()
            for message in messages:
                self._writer.send(message)


def _change_message(listener: _Listener, uri: Uri) -> bytes:
    if uri is RESOURCE_LIST:
        return listener.message("notifications/resources/list_changed", {})
    return listener.message("notifications/resources/updated", {"uri": uri})
