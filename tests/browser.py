"""A real browser for tests: Chromium without a window, driven by its own protocol over two pipes.

The Chrome DevTools Protocol: JSON messages, each ended by a NUL, on descriptors 3 and 4
(--remote-debugging-pipe). It clicks, types and takes pictures as a person's hands and eyes would.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import queue
import shutil
import subprocess
import threading

from .programs import DEADLINE_S

CHROMIUM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
# Nothing is asked of the network, and the machine may have no graphics and no bus.
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--no-first-run",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",  # a container may have little of it
    "--disable-extensions",
    "--disable-sync",
    "--force-color-profile=srgb",
    "--force-prefers-reduced-motion",  # or what breathes is painted sixty times a second
    "--hide-scrollbars",
    # A sandboxed frame shares the process of its page, so that one session reaches both.
    "--disable-features=IsolateSandboxedIframes",
    "--remote-debugging-pipe",
]

# What a key says of itself, where that is not its own letter: (code, virtual key, text).
KEYS = {
    "Enter": ("Enter", 13, "\r"),
    "Escape": ("Escape", 27, ""),
    "Tab": ("Tab", 9, ""),
    "ArrowDown": ("ArrowDown", 40, ""),
    "ArrowUp": ("ArrowUp", 38, ""),
    "End": ("End", 35, ""),
    "Home": ("Home", 36, ""),
}


class Browser:
    """One browser process. directory: where it may keep its profile."""

    def __init__(self, directory) -> None:
        their_end, self._commands = os.pipe()
        self._answers, their_other_end = os.pipe()
        # By their names: not every shell can tell of descriptors beyond 9.
        script = 'exec "$@" 3</dev/fd/%d 4>/dev/fd/%d' % (their_end, their_other_end)
        self.process = subprocess.Popen(
            ["sh", "-c", script, "sh", CHROMIUM, *FLAGS, "--user-data-dir=%s" % directory],
            pass_fds=(their_end, their_other_end),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(their_end)
        os.close(their_other_end)
        self._ids = itertools.count(1)
        self._lock = threading.Lock()
        self._waiting: dict[int, queue.Queue] = {}
        self._pages: dict[str, Page] = {}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def command(self, method: str, session: str | None = None, **params: object) -> dict:
        """Send a command, and return its result."""
        message = {"id": next(self._ids), "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        answers: queue.Queue = queue.Queue()
        with self._lock:
            self._waiting[message["id"]] = answers
            data = json.dumps(message).encode() + b"\0"
            while data:
                data = data[os.write(self._commands, data) :]
        answer = answers.get(timeout=DEADLINE_S)
        assert "error" not in answer, "%s: %s" % (method, answer["error"])
        return answer["result"]

    def page(self, html: str, width: int = 720, height: int = 900, on_call=None) -> Page:
        """Open a page. on_call: called with the text that its script hands to `window.call`."""
        # In a window of its own, or it would hide the page before.
        target = self.command("Target.createTarget", url="about:blank", newWindow=True)["targetId"]
        attached = self.command("Target.attachToTarget", targetId=target, flatten=True)
        page = Page(self, target, attached["sessionId"], on_call)
        self._pages[attached["sessionId"]] = page
        page.open(html, width, height)
        return page

    def close(self) -> None:
        """End it, and wait until it is gone."""
        self.command("Browser.close")
        self.process.wait(DEADLINE_S)
        self._reader.join(DEADLINE_S)
        os.close(self._commands)

    def _read(self) -> None:
        with os.fdopen(self._answers, "rb", buffering=0) as answers:
            rest = b""
            while True:
                data = answers.read(1 << 20)
                if not data:
                    break
                *messages, rest = (rest + data).split(b"\0")
                for message in map(json.loads, messages):
                    if "id" in message:
                        self._waiting.pop(message["id"]).put(message)
                    elif message.get("sessionId") in self._pages:
                        self._pages[message["sessionId"]].on_event(message)


class Page:
    """A tab with a document, and frames in it."""

    def __init__(self, browser: Browser, target: str, session: str, on_call) -> None:
        self._browser = browser
        self._target = target
        self._session = session
        self._on_call = on_call
        self._contexts: dict[str, int] = {}  # by frame
        self.complaints: list[str] = []  # what the console says is wrong
        self.fetched: list[str] = []

    def command(self, method: str, **params: object) -> dict:
        return self._browser.command(method, self._session, **params)

    def open(self, html: str, width: int, height: int) -> None:
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.command(domain + ".enable")
        self.command("Runtime.addBinding", name="call")
        # Several windows are open, of which one alone would get what is typed.
        self.command("Emulation.setFocusEmulationEnabled", enabled=True)
        self.resize(width, height)
        self.main_frame = self.command("Page.getFrameTree")["frameTree"]["frame"]["id"]
        self.command("Page.setDocumentContent", frameId=self.main_frame, html=html)

    def resize(self, width: int, height: int, scale: int = 1) -> None:
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=False,
        )

    def close(self) -> None:
        self._browser.command("Target.closeTarget", targetId=self._target)

    def on_event(self, message: dict) -> None:
        """Take note of what the browser tells. On its thread."""
        method, params = message["method"], message["params"]
        if method == "Runtime.executionContextCreated":
            context = params["context"]
            self._contexts[context["auxData"]["frameId"]] = context["id"]
        elif method == "Runtime.bindingCalled" and self._on_call is not None:
            # On a thread of its own: a call may take long, and others come meanwhile.
            threading.Thread(target=self._on_call, args=(params["payload"],), daemon=True).start()
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(params["exceptionDetails"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.complaints.append(json.dumps(params["entry"]))
        elif method == "Network.requestWillBeSent":
            self.fetched.append(params["request"]["url"])

    def inner_frame(self) -> str | None:
        """Return the frame in the document, None while there is none."""
        tree = self.command("Page.getFrameTree")["frameTree"]
        children = tree.get("childFrames", ())
        return children[0]["frame"]["id"] if children else None

    def run(self, expression: str, frame: str | None = None) -> object:
        """Return the value of an expression of JavaScript, awaited."""
        context = self._contexts[frame or self.main_frame]
        answer = self.command(
            "Runtime.evaluate",
            expression=expression,
            contextId=context,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def click(self, x: float, y: float) -> None:
        for kind in ("mousePressed", "mouseReleased"):
            self.command(
                "Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1
            )

    def press(self, key: str) -> None:
        """Press a key: of KEYS, or a character."""
        code, number, text = KEYS.get(key, ("", ord(key[0]), key))
        press = {"key": key, "code": code, "windowsVirtualKeyCode": number}
        self.command("Input.dispatchKeyEvent", type="keyDown", text=text, **press)
        self.command("Input.dispatchKeyEvent", type="keyUp", **press)

    def type(self, text: str) -> None:
        self.command("Input.insertText", text=text)

    def picture(self, path) -> None:
        """Write what is seen to a file, of the format that its name ends with: png or webp."""
        form = str(path).rpartition(".")[2]
        options = {"quality": 75} if form == "webp" else {}
        data = self.command("Page.captureScreenshot", format=form, **options)
        with open(str(path), "wb") as file:
            file.write(base64.b64decode(data["data"]))

    def names(self, frame: str) -> list[tuple[str, str]]:
        """Return what a screen reader finds in a frame: (role, name), in order."""
        nodes = self.command("Accessibility.getFullAXTree", frameId=frame)["nodes"]
        return [
            (node["role"]["value"], node.get("name", {}).get("value", ""))
            for node in nodes
            if not node["ignored"]
        ]
