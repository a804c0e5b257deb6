"""A host of MCP Apps for tests: a page that shows the task board of a server, as clients do.

It keeps the board in a sandboxed frame under the policy that an empty `csp` asks for, answers its
requests, and forwards its calls of tools to a real server through a real client.
"""

from __future__ import annotations

import functools
import json
import time

from .client import RpcFailure
from .programs import eventually

# A page is not asked as often as other things: each answer costs it and us a millisecond or more.
soon = functools.partial(eventually, pause_s=0.04)

BOARD = "ui://backgroundr/board"

# What MCP Apps lets a page do that names no domain.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:;"
    " connect-src 'none'; frame-src 'none'; form-action 'none'; base-uri 'none'"
)

STYLES = {
    "--color-background-primary": "light-dark(#fffefa, #1b1d22)",
    "--color-text-primary": "light-dark(#111214, #f1f2f4)",
    "--font-sans": "Helvetica, Arial, sans-serif",
}

# Its own messages carry numbers from 0 on, as those of the official bridge do.
PAGE = """<!doctype html><meta charset="utf-8"><title>Host</title>
<style>
  :root { color-scheme: light dark; }
  body { margin: 0; } iframe { display: block; width: 100%; border: 0; height: 200px; }
</style>
<script>
const seen = [], answers = new Map();
let frame, settings, lastId = 0;

function show(html, given) {
  settings = given;
  document.documentElement.style.colorScheme = settings.context.theme || "light dark";
  frame = document.createElement("iframe");
  frame.setAttribute("sandbox", "allow-scripts");
  frame.srcdoc = html;
  document.body.append(frame);
}

const post = message => frame.contentWindow.postMessage({ jsonrpc: "2.0", ...message }, "*");
const notify = (method, params) => post({ method, params });

function ask(method, params = {}) {
  const id = lastId++;
  post({ id, method, params });
  return new Promise(resolve => answers.set(id, resolve));
}

function answered(message) { post(message); }

addEventListener("message", event => {
  if (event.source !== frame.contentWindow) return;
  const { id, method, params, result, error } = event.data;
  if (!method) {
    answers.get(id)({ result, error });
    return;
  }
  seen.push({ method, params, at: performance.now() });
  const own = {
    "ui/initialize": () => ({ protocolVersion: "2026-01-26", hostInfo: { name: "h", version: "1" },
      hostCapabilities: settings.capabilities, hostContext: settings.context }),
    "ui/message": () => ({}),
    "ui/update-model-context": () => ({}),
    "ui/request-display-mode": () => ({ mode: params.mode }),
  }[method];
  if (id === undefined) {
    if (method === "ui/notifications/size-changed" && !settings.fixed) {
      frame.style.height = params.height + "px";
    }
    if (method === "ui/notifications/initialized" && settings.args) {
      notify("ui/notifications/tool-input", { arguments: settings.args });
      if (settings.result) notify("ui/notifications/tool-result", settings.result);
    }
  } else if (own) post({ id, result: own() });
  else if (settings.silent) return;
  else call(JSON.stringify({ id, method, params }));
});
</script>
"""


class Host:
    """A conversation that shows the board. client: of the server whose board it is.

    args, result: of the call of a tool that the board is shown for. capabilities, context: more
    of what the host says of itself. hurry: the board waits a tenth of its time between calls.
    silent: no call of a tool is answered.
    """

    def __init__(
        self,
        browser,
        client,
        args=None,
        result=None,
        capabilities=None,
        context=None,
        width=720,
        height=900,
        silent=False,
        hurry=True,
    ) -> None:
        self._client = client
        self._answers: list[tuple[str, dict]] = []
        self.page = browser.page(PAGE, width, height, self._forward)
        (content,) = client.request("resources/read", {"uri": BOARD})["contents"]
        policy = '<meta http-equiv="Content-Security-Policy" content="%s">' % POLICY
        html = content["text"].replace('<meta charset="utf-8">', policy + '<meta charset="utf-8">')
        if hurry:
            for name, ms in (("BUSY", 1100), ("STILL", 2400)):
                assert "%s = %d" % (name, ms) in html
                html = html.replace("%s = %d" % (name, ms), "%s = %d" % (name, ms // 10))
        settings = {
            "args": args or {},
            "result": result,
            "silent": silent,
            "capabilities": {
                "serverTools": {},
                "message": {"text": {}},
                "updateModelContext": {"text": {}, "structuredContent": {}},
                **(capabilities or {}),
            },
            "context": {
                "theme": "light",
                "displayMode": "inline",
                "availableDisplayModes": ["inline", "fullscreen"],
                "containerDimensions": {"maxWidth": width, "maxHeight": 5000},
                "locale": "en-GB",
                "timeZone": "UTC",
                **(context or {}),
            },
        }
        # "</script>" would end the script that says it.
        data = json.dumps([html, settings]).replace("</", "<\\/")
        self.page.run("show(...%s)" % data)
        self.frame = soon(self.page.inner_frame, "the frame of the board")
        # At first it is an empty document.
        soon(
            lambda: self.run("document.readyState === 'complete' && !!document.title"), "the board"
        )

    def _forward(self, payload: str) -> None:
        call = json.loads(payload)
        answer = {"id": call["id"]}
        try:
            answer["result"] = self._client.request(call["method"], call["params"])
            result = answer["result"].get("structuredContent", {})
            self._answers.append((call["params"].get("name", ""), result))
        except RpcFailure as failure:
            answer["error"] = {"code": failure.code, "message": str(failure)}
        except Exception as error:  # the server is gone
            answer["error"] = {"code": -32000, "message": "Connection closed (%r)" % error}
        try:
            self.page.run("answered(%s)" % json.dumps(answer))
        except Exception:
            pass  # the test is over, and its page closed

    # ------------------------------------------------ what is seen

    def run(self, expression: str) -> object:
        """Return the value of an expression in the board."""
        return self.page.run(expression, self.frame)

    def text(self, selector: str) -> str:
        """Return the text that is seen of an element, "" where it is hidden or not there."""
        return self.run(
            "(e => e && e.checkVisibility() ? e.innerText : '')(document.querySelector(%s))"
            % json.dumps(selector)
        )

    def texts(self, selector: str) -> list[str]:
        return self.run(
            "[...document.querySelectorAll(%s)].filter(e => e.checkVisibility({}))"
            ".map(e => e.innerText)" % json.dumps(selector)
        )

    def rows(self) -> list[str]:
        """Return the rows of the list, the words of each in one line."""
        return [" ".join(text.split()) for text in self.texts("#tasks .row")]

    def see(self, words: str, selector: str = "body") -> str:
        """Wait until `words` are seen in an element; return its text then."""

        def seen():
            text = self.text(selector)
            return words in text and text

        return soon(seen, "%r in %s: %s" % (words, selector, self.text(selector)))

    # ------------------------------------------------ what a person does

    def click(self, name: str, selector: str = "button") -> None:
        """Click the element that is seen, and has this text or label."""

        def hit():
            place = self._place(name, selector)
            if place is not None:
                self.page.click(*place)
            # It may have moved away meanwhile.
            return place is not None and self.run("window.wasHit")

        soon(hit, "something to click that says %r" % name)

    def _place(self, name: str, selector: str) -> list[float] | None:
        """Return where in the window an element is, None when it is not seen. `wasHit` will tell
        whether it gets the next click."""
        place = self.run(
            "new Promise(done => setTimeout(() => {"
            "  const e = [...document.querySelectorAll(%s)].find(e => e.checkVisibility()"
            "    && [e.innerText.trim(), e.getAttribute('aria-label')]"
            "      .some(t => t && (t === %s || t.startsWith(%s + ','))));"
            "  if (!e) return done(null);"
            "  e.scrollIntoView({ block: 'nearest' });"
            "  window.wasHit = false;"
            "  addEventListener('click', event => {"
            "    window.wasHit = e.contains(event.target); }, { capture: true, once: true });"
            "  const b = e.getBoundingClientRect();"
            "  done([b.x + b.width / 2, b.y + b.height / 2, innerHeight]); }, 10))"
            % (json.dumps(selector), json.dumps(name), json.dumps(name))
        )
        if place is None:
            return None
        x, y, height = place
        frame_x, frame_y, frame_height = self.page.run(
            "(b => [b.x, b.y, b.height])(frame.getBoundingClientRect())"
        )
        # A frame that has just been resized does not know it yet.
        return [frame_x + x, frame_y + y] if height == frame_height else None

    def type(self, name: str, text: str) -> None:
        """Click the field with this label, and type."""
        self.click(name, "input")
        self.page.type(text)

    # ------------------------------------------------ what the host has heard

    def heard(self, method: str) -> list[dict]:
        """Return the messages of the board with this method, {params, at: ms}."""
        return self.page.run("seen.filter(one => one.method === %s)" % json.dumps(method))

    def calls(self, tool: str) -> list[dict]:
        return [one for one in self.heard("tools/call") if one["params"]["name"] == tool]

    def answers(self, tool: str) -> list[dict]:
        """Return the structured results that the board got from a tool."""
        return [result for name, result in self._answers if name == tool]

    def close(self) -> None:
        """Close the page. Raises AssertionError when its console told of errors."""
        complaints = self.page.complaints
        self.page.close()
        assert complaints == []


def quiet_for(host: Host, seconds: float) -> int:
    """Return how many messages the board sends in so many seconds."""
    before = host.page.run("seen.length")
    time.sleep(seconds)
    return host.page.run("seen.length") - before
