"""The task board: a page for people, which hosts of MCP Apps show in the conversation.

One document with its style and script, which fetches nothing and needs no build step. It speaks
JSON-RPC with the page that holds it, and asks the server, through that, by the tools that models
use. What tasks print is set as text, and never becomes markup.
"""

from __future__ import annotations

from .version import __version__

# MCP Apps 2026-01-26.
UI_EXTENSION = "io.modelcontextprotocol/ui"
BOARD_URI = "ui://backgroundr/board"
BOARD_MIME_TYPE = "text/html;profile=mcp-app"


def board_html() -> str:
    """Return the page, under 40 KB of UTF-8."""
    return _HTML.replace("{{version}}", __version__)


_HTML = r"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Background tasks</title>
<style>
/* The host's variables, or colours of our own. */
:root {
  color-scheme: light dark;
  --bg: var(--color-background-primary, light-dark(#ffffff, #20201e));
  --soft: var(--color-background-secondary, light-dark(#f6f5f2, #2a2a27));
  --text: var(--color-text-primary, light-dark(#1d1c1a, #eceae4));
  --muted: var(--color-text-secondary, light-dark(#62605a, #aaa79e));
  --line: var(--color-border-secondary, light-dark(#e0ded8, #42413d));
  --ring: var(--color-ring-primary, light-dark(#3b76d4, #7fb0ff));
  --info: var(--color-text-info, light-dark(#1a5cb8, #82b4ff));
  --good: var(--color-text-success, light-dark(#1b7a37, #63c97e));
  --warn: var(--color-text-warning, light-dark(#8a5800, #e5b64c));
  --bad: var(--color-text-danger, light-dark(#b3261e, #ff8f85));
  --mono: var(--font-mono, ui-monospace, SFMono-Regular, Menlo, Consolas, monospace);
  --round: var(--border-radius-md, 8px);
  background: var(--bg);
}
* { box-sizing: border-box; }
[hidden] { display: none !important; }
body {
  margin: 0; color: var(--text);
  font: 14px/1.45 var(--font-sans, system-ui, "Segoe UI", Roboto, sans-serif);
  font-variant-numeric: tabular-nums;
}
#app, section { display: flex; flex-direction: column; gap: 10px; }
#app { padding: 14px; }
h1 { margin: 0; font-size: 15px; font-weight: 600; }
.bar { display: flex; flex-wrap: wrap; align-items: center; gap: 6px 8px; }
.grow { flex: 1 1 0; min-width: 0; }
.muted { color: var(--muted); }
.small { font-size: 12px; }
.mono { font-family: var(--mono); font-size: 12px; }
.cut { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
button, input {
  font: inherit; font-size: 13px; color: inherit; border: 1px solid var(--line);
  border-radius: var(--round); background: var(--bg); min-height: 30px; padding: 3px 10px;
}
button { cursor: pointer; white-space: nowrap; }
button:hover { background: var(--soft); }
input { min-width: 9em; }
input::placeholder { color: var(--muted); opacity: 1; }
:focus-visible { outline: 2px solid var(--ring); outline-offset: 1px; }
.danger { color: var(--bad); border-color: color-mix(in srgb, var(--bad) 45%, transparent); }
.plain { border-color: transparent; padding: 3px 6px; margin: 0 -6px; }
#chips button { min-height: 26px; padding: 1px 9px; border-radius: 99px; color: var(--muted); }
#chips [aria-pressed=true] { color: var(--text); background: var(--soft);
  border-color: var(--muted); font-weight: 600; }

/* A state is a word and a colour. */
.state {
  display: inline-flex; align-items: center; gap: 6px; padding: 1px 8px; border-radius: 99px;
  font-size: 12px; font-weight: 500; white-space: nowrap; color: var(--tone, var(--muted));
  border: 1px solid transparent; background: color-mix(in srgb, currentColor 11%, transparent);
}
.state::before { content: ""; width: 7px; height: 7px; border-radius: 50%;
  background: currentColor; }
.running { --tone: var(--info); }
.stopping { --tone: var(--warn); }
.completed { --tone: var(--good); }
.failed, .timed_out { --tone: var(--bad); }
@media (prefers-reduced-motion: no-preference) {
  .running::before { animation: breathe 2s ease-in-out infinite; }
}
@keyframes breathe { 50% { opacity: .3; } }

#tasks {
  list-style: none; margin: 0; padding: 0; max-height: 27rem; overflow: auto;
  border: 1px solid var(--line); border-radius: var(--round);
}
#tasks li + li { border-top: 1px solid var(--line); }
.row {
  display: grid; grid-template-columns: minmax(0, 1fr) auto; gap: 2px 12px; width: 100%;
  padding: 8px 12px; border: 0; border-radius: 0; text-align: left;
}
.row:focus-visible { outline-offset: -2px; }
.end { text-align: right; }
.title { display: flex; gap: 8px; align-items: baseline; min-width: 0; }
.title b { font-weight: 600; }
#empty { padding: 28px 16px; text-align: center; text-wrap: balance; border: 1px dashed var(--line);
  border-radius: var(--round); }
#empty p { margin: 4px 0 0; }

#command {
  margin: 0; padding: 7px 10px; border-radius: var(--round); background: var(--soft);
  white-space: pre-wrap; overflow-wrap: anywhere; max-height: 94px; overflow: auto;
}
#facts { display: flex; flex-wrap: wrap; gap: 2px 16px; margin: 0; font-size: 12px; }
#facts div { display: flex; gap: 6px; min-width: 0; }
#facts dt { color: var(--muted); flex: none; }
#facts dd { margin: 0; min-width: 0; overflow-wrap: anywhere; }
#spark { width: 120px; height: 24px; color: var(--info); border-bottom: 1px solid var(--line); }
#spark path { fill: currentColor; opacity: .6; }
#frame { position: relative; display: flex; flex-direction: column; min-height: 0; }
#log {
  min-height: 8rem; max-height: var(--pane, 23rem); padding: 6px 0;
  overflow: auto; overflow-anchor: none;
  border: 1px solid var(--line); border-radius: var(--round); background: var(--soft);
  font: 12px/18px var(--mono); tab-size: 8; overscroll-behavior: contain;
}
.text { position: relative; min-height: 18px; padding: 0 10px 0 38px; unicode-bidi: isolate;
  white-space: pre-wrap; overflow-wrap: anywhere; }
.stderr { box-shadow: inset 3px 0 var(--bad);
  background: color-mix(in srgb, var(--bad) 6%, transparent); }
.stderr::before { content: "err"; position: absolute; left: 10px; color: var(--bad);
  font-size: 10px; }
.gap { padding: 0 10px; text-align: center; color: var(--muted); }
#jump { position: absolute; right: 16px; bottom: 10px; border-radius: 99px;
  box-shadow: 0 1px 5px rgb(0 0 0 / .2); }
mark { background: light-dark(#ffe58a, #6b5600); color: inherit; }
#alert { padding: 7px 10px; border-radius: var(--round); color: var(--bad);
  background: color-mix(in srgb, var(--bad) 9%, transparent); }
#note:empty { display: none; }
.stale section, .stale #state { opacity: .55; }
.stale ::before { animation: none !important; }

/* Where the host gives an area, and asks for no height. */
.fill, .fill body, .fill #app { height: 100%; }
.fill section, .fill #frame { flex: 1 1 0; min-height: 0; }
.fill #tasks { max-height: none; }
.fill #log { flex: 1 1 0; max-height: none; }
@media (max-width: 480px) {
  #app { padding: 10px; }
  header button { font-size: 12px; padding: 3px 7px; }
  .row { grid-template-columns: minmax(0, 1fr); padding: 8px 10px; }
  .end { text-align: left; }
  .title .grow { display: none; }
  .wide { flex: 1 1 100%; }
}
</style>

<main id="app" spellcheck="false">
  <div id="alert" class="small" role="alert" hidden></div>
  <header class="bar">
    <button id="back" class="plain" aria-label="Back to all tasks" hidden>&#8592; All tasks</button>
    <h1 id="heading" class="grow wide cut" tabindex="-1">Background tasks</h1>
    <span id="state" class="muted small"></span>
    <button id="tell" hidden>Tell the agent</button>
    <button id="expand" class="plain" hidden></button>
  </header>
  <section id="list" aria-labelledby="heading">
    <div class="bar" id="filters">
      <div id="chips" class="bar" role="group" aria-label="Filter by state"></div>
      <input id="filter" class="grow wide" type="search" placeholder="Filter by text"
        aria-label="Filter tasks by text">
    </div>
    <ul id="tasks" aria-label="Tasks" hidden></ul>
    <div id="empty"><b id="empty-title">Connecting</b>
      <p id="empty-text" class="muted small"></p></div>
    <button id="more-tasks" class="plain small muted" hidden></button>
  </section>

  <section id="task" aria-labelledby="heading" hidden>
    <pre id="command" class="mono" tabindex="0" aria-label="Command"></pre>
    <div class="bar">
      <dl id="facts" class="grow wide"></dl>
      <div id="speed" class="bar">
        <span id="rate" class="muted small"></span>
        <svg id="spark" viewBox="0 0 60 20" preserveAspectRatio="none" role="img"
          aria-label="Output a second, the last minute"><path/></svg>
      </div>
    </div>
    <div class="bar" role="group" aria-label="Actions">
      <button id="end" class="danger">End</button>
      <button id="restart">Restart</button>
      <button id="copy">Copy output</button>
      <input id="search" class="grow wide" type="search" placeholder="Search its output"
        aria-label="Search the output of this task">
    </div>
    <div id="found" class="small muted" role="status"></div>
    <div id="frame">
      <div id="log" role="log" aria-live="off" tabindex="0" aria-label="Output">
        <div class="gap"><button id="older" class="plain"></button><span id="top"></span></div>
        <div id="lines"></div>
        <div id="results"></div>
      </div>
      <button id="jump" class="small"></button>
    </div>
    <div id="input-bar" class="bar" role="group" aria-label="Input">
      <input id="input" class="grow wide mono" placeholder="Type to this task"
        aria-label="Input to send to this task">
      <button id="send">Send</button>
      <button id="interrupt">Ctrl-C</button>
      <button id="close">End input</button>
    </div>
  </section>
  <div id="note" class="small muted" role="status"></div>
  <div id="live" class="unseen" aria-live="polite"></div>
</main>

<script>
"use strict";
const $ = id => document.getElementById(id);

// Milliseconds from one call to the next of its kind: while something runs, and else.
const BUSY = 1100, STILL = 2400;
const ANSWER_WITHIN = 10000;
// Bytes of output asked for: the end of a task, what is new, what is older.
const TAIL = 24576, NEWS = 49152, OLDER = 131072;
// Lines kept while following, or found; lines at most.
const LINES = 2000, MOST_LINES = 100000;

// ---- the host: MCP Apps, JSON-RPC by postMessage

const host = { capabilities: {}, context: {} };
const waiting = new Map();
let lastId = 0, ready = false, over = false;

const post = message => window.parent.postMessage({ jsonrpc: "2.0", ...message }, "*");

function request(method, params, within = ANSWER_WITHIN) {
  return new Promise((resolve, reject) => {
    const id = ++lastId;
    const timer = setTimeout(() => {
      waiting.delete(id);
      reject(new Error("no answer within " + within / 1000 + " s"));
    }, within);
    waiting.set(id, { resolve, reject, timer });
    post({ id, method, params });
  });
}

class Refused extends Error {}

/** Call a tool; return its structured content. Throws Refused with what the server says. */
async function tool(name, args, within) {
  const result = await request("tools/call", { name, arguments: args }, within);
  const texts = (result.content || []).map(one => one.text);
  if (result.isError) throw new Refused(texts[0] || "refused");
  return result.structuredContent || JSON.parse(texts.pop());
}

const handlers = {
  __proto__: null,
  "ping": () => {},
  "ui/resource-teardown": () => {
    over = true;
    clearTimeout(timer);
  },
  "ui/notifications/host-context-changed": useContext,
  "ui/notifications/tool-result": result => {
    const id = result.structuredContent?.task_id;
    if (result.isError) note(result.content?.[0]?.text || "");
    else if (id && !view) openTask(id, false);
  },
};

window.addEventListener("message", event => {
  const message = event.data;
  if (event.source !== window.parent || !message || message.jsonrpc !== "2.0" || over) return;
  const { id, method, params, result, error } = message;
  if (method) {
    const handler = handlers[method];
    if (handler) handler(params || {});
    if (id === undefined) return;
    post(handler ? { id, result: {} } : { id, error: { code: -32601, message: "Not found" } });
    return;
  }
  const call = waiting.get(id);
  if (!call) return;
  waiting.delete(id);
  clearTimeout(call.timer);
  if (error) call.reject(new Error(error.message));
  else call.resolve(result || {});
});

/** Take over what the host says of itself; of changes it tells only these. */
function useContext(changed) {
  Object.assign(host.context, changed);
  const { theme, styles, displayMode, availableDisplayModes: modes = [],
    containerDimensions: room = {} } = host.context;
  const root = document.documentElement;
  if (theme) root.style.colorScheme = theme; // its colours are light-dark() values
  for (const [name, value] of Object.entries(styles?.variables || {})) {
    if (value) root.style.setProperty(name, value);
  }
  root.classList.toggle("fill", ["fullscreen", "pip"].includes(displayMode) || "height" in room);
  if (room.maxHeight) {
    root.style.setProperty("--pane", Math.max(120, Math.min(368, room.maxHeight - 270)) + "px");
  }
  const isLarge = displayMode === "fullscreen";
  $("expand").hidden = !isLarge && !modes.includes("fullscreen");
  write($("expand"), isLarge ? "\u2199 Reduce" : "\u2197 Expand");
  askForHeight();
}

let askedHeight = 0;
function askForHeight() {
  if (!ready || over || document.documentElement.classList.contains("fill")) return;
  const height = Math.ceil($("app").getBoundingClientRect().height);
  if (height === askedHeight) return;
  askedHeight = height;
  post({ method: "ui/notifications/size-changed", params: { height } });
}
const sizer = new ResizeObserver(askForHeight);

// Unseen, hidden or scrolled out of the conversation, the page asks for nothing.
let inView = true;
const watcher = new IntersectionObserver(entries => {
  inView = entries.pop().isIntersecting;
  wake();
});
document.addEventListener("visibilitychange", wake);
const isUnseen = () => document.hidden || !inView;

// ---- words

const isAlive = task => task.status === "running" || task.status === "stopping";
const KINDS = {
  All: () => true,
  Running: isAlive,
  Completed: task => task.status === "completed",
  Failed: task => task.status === "failed" || task.status === "timed_out",
  Ended: task => task.status === "terminated",
};

// Controls, marks that turn the direction of text, and what is not seen.
const visible = text => text.replace(
  /[\0-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u{e0000}-\u{e0fff}]/gu,
  one => "\\u" + one.codePointAt(0).toString(16).padStart(4, 0));
const oneLine = text => visible(text.trim().slice(0, 300).replace(/\s*\n\s*/g, " \u23ce "));
const label = task => oneLine(task.name || task.command);
const plural = (count, noun) => count.toLocaleString("en") + " " + noun + (count === 1 ? "" : "s");

function size(bytes) {
  if (bytes < 1000) return plural(bytes, "byte");
  let step = -1;
  do { bytes /= 1000; step++; } while (bytes >= 999.5);
  return (bytes < 9.95 ? bytes.toFixed(1) : Math.round(bytes)) + " " + "KMGTP"[step] + "B";
}

function duration(seconds) {
  if (seconds < 1) return Math.round(seconds * 1000) + " ms";
  if (seconds < 60) return (seconds < 10 ? seconds.toFixed(1) : Math.floor(seconds)) + " s";
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return minutes + " min " + Math.floor(seconds % 60) + " s";
  return Math.floor(minutes / 60) + " h " + minutes % 60 + " min";
}

const clocks = new Map(); // for to make one takes a millisecond
function clock(iso, timeStyle = "medium") {
  const time = new Date(iso), { locale, timeZone } = host.context;
  const dateStyle = Date.now() - time > 432e5 ? "short" : undefined;
  const key = [locale, timeZone, timeStyle, dateStyle].join();
  const make = (...to) => clocks.set(key, new Intl.DateTimeFormat(...to));
  try {
    if (!clocks.has(key)) make(locale, { timeStyle, dateStyle, timeZone });
  } catch { // the host names a place or a language that there is not
    make("en", { timeStyle, dateStyle });
  }
  return clocks.get(key).format(time);
}

function stateText(task) {
  const { status, signal, exit_code: code, processes_left: left, kill_in_seconds: wait } = task;
  const words = [status.replace("_", " ")];
  if (status === "stopping" && wait != null) {
    words.push(wait > 0 ? "SIGKILL in " + Math.ceil(wait) + " s" : "being killed");
  }
  if (signal) words.push("killed by " + signal);
  else if (code != null) words.push("exit code " + code);
  if (left) words.push(left + (left === 1 ? " process" : " processes") + " left");
  return words.join(" \u00b7 ");
}

function element(name, className = "", text = "") {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

/** Set text where it differs: a selection, and screen readers, are left alone. */
function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Focus an element, unless a person is elsewhere in the host meanwhile. */
const focusOn = node => document.hasFocus() && node.focus();

let noteTimer = 0;
function note(text) {
  write($("note"), text);
  clearTimeout(noteTimer);
  noteTimer = setTimeout(() => write($("note"), ""), 8000);
}

// ---- the list

const tasks = new Map(); // by id, as the server told of them last
const rows = new Map(); // by id: {item, ...the nodes whose text changes}
const rates = new Map(); // by id: {total, at, values: bytes a second}
const ending = new Set(); // asked to end, which a list may not know yet
let kind = "All", limit = 50, leftOut = 0, known = false;

for (const name of Object.keys(KINDS)) {
  const chip = element("button");
  chip.dataset.kind = name;
  chip.onclick = () => { kind = name; drawList(); };
  $("chips").append(chip);
}
$("filter").oninput = drawList;
$("more-tasks").onclick = () => { limit = Math.min(10000, limit * 4); wake(); };

function take(list) {
  const now = performance.now();
  const listed = new Set();
  for (const task of list) {
    const id = task.task_id, before = tasks.get(id);
    if (ending.has(id) && task.status === "running") task.status = "stopping";
    listed.add(id);
    if (before && before.status !== task.status) {
      write($("live"), label(task) + ": " + stateText(task));
    } else if (known && !before) write($("live"), "New task: " + label(task));
    const { total, at, values } = rates.get(id) || { values: [] };
    if (at) values.push((task.total_bytes - total) * 1000 / (now - at || 1));
    rates.set(id, { total: task.total_bytes, at: now, values: values.slice(-60) });
    tasks.set(id, task);
  }
  for (const id of tasks.keys()) {
    if (!listed.has(id) && id !== view?.id) {
      tasks.delete(id);
      rates.delete(id);
    }
  }
  known = true;
  if (view) {
    if (!listed.has(view.id)) view.seen = view.found.seen = ""; // how is it, and is it there?
    drawTask();
  }
  drawList();
}

const sorted = () => [...tasks.values()].sort((one, other) =>
  isAlive(other) - isAlive(one) || (one.started_at < other.started_at ? 1 : -1));

function drawList() {
  const every = sorted();
  for (const chip of $("chips").children) {
    const name = chip.dataset.kind, count = every.filter(KINDS[name]).length;
    chip.setAttribute("aria-pressed", name === kind);
    write(chip, name + " " + count);
    chip.hidden = !count && name !== kind && name !== "All";
  }
  const words = $("filter").value.toLowerCase().split(/\s+/);
  const shown = every.filter(KINDS[kind]).filter(task => {
    const text = [task.name, task.command, task.last_line, task.task_id, stateText(task)];
    return words.every(word => text.join(" ").toLowerCase().includes(word));
  });
  if (!view) {
    write($("heading"), "Background tasks");
    $("heading").classList.remove("mono");
    $("state").className = "muted small";
    $("state").hidden = !every.length;
    write($("state"), every.filter(isAlive).length + " running \u00b7 "
      + (every.length + leftOut) + " in all");
  }
  const { message, updateModelContext } = host.capabilities;
  $("tell").hidden = !every.length || !updateModelContext && !(view && message);
  if (view) return;
  const focused = document.activeElement;
  let next = $("tasks").firstElementChild;
  for (const task of shown) {
    const row = rows.get(task.task_id) || newRow(task.task_id);
    drawRow(row, task);
    if (row.item === next) next = next.nextElementSibling;
    else $("tasks").insertBefore(row.item, next);
  }
  while (next) {
    const gone = next;
    next = next.nextElementSibling;
    rows.delete(gone.dataset.id);
    gone.remove();
  }
  if (focused !== document.activeElement && focused.isConnected) focusOn(focused);
  $("filters").hidden = !every.length;
  $("tasks").hidden = !shown.length;
  $("empty").hidden = shown.length > 0;
  if (known) {
    write($("empty-title"), every.length ? "No task matches" : "Nothing runs in the background");
    write($("empty-text"), every.length ? "Clear the filter to see all " + every.length
      : "Dev servers, builds and watchers that the agent starts appear here.");
  }
  $("more-tasks").hidden = !leftOut;
  write($("more-tasks"), "Show more: " + plural(leftOut, "older task"));
}

function newRow(id) {
  const row = { item: element("li"), button: element("button", "row"),
    name: element("b", "cut"), command: element("span", "mono muted cut grow"),
    state: element("span"), last: element("span", "small muted cut"),
    counts: element("span", "end small muted") };
  const title = element("span", "title"), end = element("span", "end");
  title.append(row.name, row.command);
  end.append(row.state);
  row.button.append(title, end, row.last, row.counts);
  row.button.onclick = () => openTask(id);
  row.item.dataset.id = id;
  row.item.append(row.button);
  rows.set(id, row);
  return row;
}

function drawRow(row, task) {
  const lines = plural(task.total_lines, "line");
  const time = (isAlive(task) ? "for " : "ran ") + duration(task.runtime_seconds);
  write(row.name, label(task));
  row.name.classList.toggle("mono", !task.name);
  write(row.command, task.name ? oneLine(task.command) : "");
  row.state.className = "state " + task.status;
  write(row.state, stateText(task));
  write(row.last, task.last_line || (task.total_bytes ? "" : "No output"));
  row.last.classList.toggle("mono", task.total_bytes > 0);
  write(row.counts, time + " \u00b7 since " + clock(task.started_at, "short")
    + (task.total_bytes ? " \u00b7 " + lines + " \u00b7 " + size(task.total_bytes) : ""));
  row.button.setAttribute("aria-label",
    [label(task), stateText(task), time, lines, task.last_line].join(", "));
}

$("tasks").addEventListener("keydown", event => {
  const buttons = [...$("tasks").querySelectorAll(".row")];
  const at = buttons.indexOf(document.activeElement);
  const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: buttons.length - 1 }[event.key];
  if (to === undefined) return;
  buttons[to]?.focus();
  event.preventDefault();
});

// ---- one task

// The task that is open. chunks: the lines of one answer each, and the cursor where it begins;
// loose: lines at the end that may still grow, and come again with the next answer.
let view = null;

function openTask(id, byHand = true) {
  if (view?.id === id) return;
  view = { id, gate: gate() };
  $("search").value = $("input").value = "";
  begin({});
  setSearch("");
  switchTo("task");
  drawTask();
  if (byHand) $("heading").focus();
}

function switchTo(name) {
  for (const section of ["list", "task"]) $(section).hidden = section !== name;
  $("back").hidden = name === "list";
  drawList();
}

function closeTask() {
  const { id } = view;
  view = null;
  switchTo("list");
  focusOn(rows.get(id)?.button || $("filter"));
  wake();
}
$("back").onclick = closeTask;

function drawTask() {
  const task = tasks.get(view.id);
  for (const id of ["state", "command", "facts"]) $(id).hidden = !task;
  if (!task) return write($("heading"), view.id);
  const alive = isAlive(task);
  write($("heading"), label(task));
  $("heading").classList.toggle("mono", !task.name);
  $("state").className = "state " + task.status;
  write($("state"), stateText(task));
  write($("command"), visible(task.command));
  const facts = {
    Started: clock(task.started_at),
    Ended: task.ended_at && clock(task.ended_at),
    "Run time": duration(task.runtime_seconds),
    Output: plural(task.total_lines, "line") + ", " + size(task.total_bytes),
    In: visible(task.cwd),
    Process: String(task.pid),
    Task: task.task_id,
    "Restarted as": task.replaced_by,
    "Log file": task.log_file && visible(task.log_file),
  };
  for (const [name, value] of Object.entries(facts)) {
    const node = $(name) || newFact(name);
    write(node, value || "");
    node.parentNode.hidden = !value;
  }
  const canEnd = alive || task.processes_left > 0;
  if (!canEnd && document.activeElement === $("end")) focusOn($("heading"));
  $("end").hidden = !canEnd;
  write($("end"), task.status === "stopping" ? "Kill now" : alive ? "End" : "End what is left");
  $("input-bar").hidden = !(task.input_open && task.interactive);
  $("interrupt").hidden = !task.pty;
  write($("close"), task.pty ? "Ctrl-D" : "End input");
  const { values = [] } = rates.get(view.id) || {};
  $("speed").hidden = !alive || values.length < 3;
  const most = Math.max(...values, 1), step = 60 / Math.max(20, values.length);
  const points = values.map((value, at) =>
    60 - (values.length - 1 - at) * step + " " + (20 - 18 * value / most).toFixed(1));
  $("spark").firstChild.setAttribute("d", points.length
    ? "M" + points[0].split(" ")[0] + " 20L" + points.join("L") + "L60 20" : "");
  write($("rate"), size(Math.round(values.at(-1) || 0)) + "/s");
}

function newFact(name) {
  const pair = element("div"), value = element("dd");
  value.id = name;
  pair.append(element("dt", "", name), value);
  $("facts").append(pair);
  return value;
}

const DID_NOT_WORK = "That did not work: ";

/** Do something, for the open task if there is one. */
async function act(button, work) {
  if (button.ariaBusy) return; // not disabled: it would lose the focus
  button.ariaBusy = "true";
  try {
    await work(view?.id);
  } catch (error) {
    if (!(error instanceof Stale)) note(DID_NOT_WORK + error.message);
  }
  button.ariaBusy = null;
  wake();
}
const onClick = (id, work) => { $(id).onclick = () => act($(id), work); };

// ---- its output, each byte once

class Stale extends Error {}

/** Return a page of output of the open task. Throws Stale when it is not open any more. */
async function read(args) {
  const reader = view;
  await reader.gate();
  if (over || reader !== view) throw new Stale();
  const page = await tool("read_task_output", { task_id: reader.id, stream: "marked", ...args });
  if (reader !== view) throw new Stale();
  tasks.set(view.id, { ...tasks.get(view.id), ...page });
  drawTask();
  return page;
}

/** Return what changes when there is more to read. */
const stamp = task => task.total_bytes + " " + task.output_open;

/** Bring the open task up to date. */
async function follow() {
  const task = tasks.get(view.id) || {}, now = stamp(task);
  if (view.query) return search(now);
  if (now === view.seen) return;
  if (!view.next || view.follow && task.total_bytes - view.reached > NEWS) {
    // Begin anew at its end; what comes before can be asked for.
    const page = await read({ before: "end", max_bytes: TAIL });
    if (view.next && !view.follow) return; // somebody has begun to read what is there
    begin(page);
    add(page);
  } else if (view.follow || view.count < MOST_LINES) {
    const page = await read({ cursor: view.next, max_bytes: NEWS });
    add(page);
    if (page.more) Object.assign(view, { seen: "", reached: total(view.next) });
  }
}

function begin(page) {
  Object.assign(view, { chunks: [], loose: [], count: 0, unread: 0, follow: true, seen: "",
    next: page.previous_cursor, first: page.previous_cursor, older: page.more });
  $("lines").replaceChildren();
}

function add(page) {
  for (const node of view.loose) node.remove();
  const nodes = linesOf(page);
  view.loose = nodes.splice(nodes.length - page.unfinished_lines);
  if (page.skipped_bytes && view.chunks.length) {
    nodes.unshift(element("div", "gap", size(page.skipped_bytes) + " are missing, no longer kept"));
  }
  $("lines").append(...nodes, ...view.loose);
  if (nodes.length || !view.chunks.length) view.chunks.push({ nodes, begin: view.next });
  view.next = page.next_cursor;
  view.seen = stamp(page);
  view.reached = page.total_bytes;
  view.count += nodes.length;
  view.unread += nodes.length;
  toEnd();
}

// Shows what comes before the first line, and leaves what is seen where it is.
onClick("older", async () => {
  view.follow = false;
  const { first } = view, page = await read({ before: first, max_bytes: OLDER });
  if (view.first !== first) return; // it was dropped meanwhile
  const pane = $("log"), fromEnd = pane.scrollHeight - pane.scrollTop;
  const nodes = linesOf(page);
  $("lines").prepend(...nodes);
  // Without lines all that was before is gone.
  Object.assign(view, { first: nodes.length ? page.previous_cursor : first, older: page.more,
    count: view.count + nodes.length });
  view.chunks.unshift({ nodes, begin: view.first });
  drawTop();
  if ($("older").hidden && !view.query) pane.focus();
  pane.scrollTop = pane.scrollHeight - fromEnd;
});

/** Return the lines of a page as nodes. All of it is text: nothing becomes markup. */
function linesOf(page, query) {
  const texts = page.output.split("\n");
  let at = 0;
  return page.streams.flatMap(([stream, count]) => texts.slice(at, at += count).map(text => {
    const node = element("div", "text " + stream);
    node.append(...highlighted(text, query));
    return node;
  }));
}

/** Say what is above the first line. */
function drawTop() {
  const { first = "0+0", older, count, query } = view;
  const { total_bytes: printed, retained_bytes: retained } = tasks.get(view.id) || {};
  const before = total(first), kept = older ? Math.max(0, before - printed + retained) : 0;
  $("older").hidden = !kept || count >= MOST_LINES || !!query;
  write($("older"), "Show earlier output (" + size(kept) + ")");
  write($("top"), query ? "" : printed === 0 ? "No output yet"
    : before > kept ? size(before - kept) + " before this are no longer kept" : "");
}

const total = cursor => cursor.split("+").reduce((sum, part) => sum + Number(part), 0);

/** When following, show the end, and drop the oldest answers beyond LINES. */
function toEnd() {
  if (view.follow) {
    while (view.count > LINES && view.chunks.length > 1) {
      const { nodes } = view.chunks.shift();
      for (const node of nodes) node.remove();
      view.count -= nodes.length;
      view.first = view.chunks[0].begin;
      view.older = true;
    }
    view.unread = 0;
  }
  if (view.follow || view.chunks.length < 2) drawTop();
  keepEnd();
  drawJump();
}

let lastTop = 0;
function keepEnd() {
  if (!view?.follow) return;
  const pane = $("log");
  pane.scrollTop = pane.scrollHeight;
  lastTop = pane.scrollTop; // told of later, and a person may be faster
}
new ResizeObserver(keepEnd).observe($("log"));

function drawJump() {
  $("jump").hidden = view.follow;
  write($("jump"), "\u2193 " + (view.unread ? plural(view.unread, "new line") : "Follow the end"));
}

$("log").addEventListener("scroll", () => {
  if (!view) return;
  const { scrollTop, scrollHeight, clientHeight } = $("log");
  if (scrollHeight - scrollTop - clientHeight < 8) Object.assign(view, { follow: true, unread: 0 });
  else if (scrollTop < lastTop) view.follow = false; // the pane itself never scrolls up
  lastTop = scrollTop;
  drawJump();
});
$("jump").onclick = () => {
  view.follow = true;
  toEnd();
  $("log").focus();
};

// ---- searching it

$("search").oninput = () => setSearch($("search").value);

function setSearch(query) {
  Object.assign(view, { query, follow: true, found: { count: 0, searched: 0 } });
  $("results").replaceChildren();
  $("results").hidden = $("found").hidden = !query;
  $("lines").hidden = !!query;
  write($("found"), "Searching");
  toEnd();
  wake();
}

/** Look in all that is kept, then in what comes. */
async function search(now) {
  const { query, found } = view;
  if (found.count >= LINES || now === found.seen && !found.more) return;
  const low = query.toLowerCase();
  const contains = [query, low, query.toUpperCase(), low[0].toUpperCase() + low.slice(1)];
  const page = await read({ contains, max_bytes: NEWS,
    ...(found.next ? { cursor: found.next } : {}) });
  if (view.found !== found) return;
  const count = found.count + page.matched_lines;
  Object.assign(found, { count, next: page.next_cursor, seen: stamp(page),
    more: page.more && count < LINES, searched: found.searched + page.read_lines });
  $("results").append(...linesOf(page, query));
  write($("found"), count.toLocaleString("en") + " of " + plural(found.searched, "line")
    + (count === 1 ? " matches" : " match") + (count >= LINES
      ? "; no more are shown" : found.more ? ", searching on" : ""));
  toEnd();
}

function highlighted(text, query) {
  if (!query) return [text];
  const pattern = "(" + query.replace(/[^\w\s]/g, "\\$&") + ")";
  return text.split(new RegExp(pattern, "gi"))
    .map((part, index) => index % 2 ? element("mark", "", part) : part);
}

// ---- what a person can do

$("end").onclick = async event => {
  if (event.detail > 1) return; // a double click is no second one
  const id = view.id, task = tasks.get(id) || {}, kill = task.status === "stopping";
  ending.add(id);
  if (isAlive(task)) task.status = "stopping";
  drawTask();
  note(kill ? "Killing it" : "Asked it to end");
  wake();
  try {
    const answer = await tool("end_background_task",
      { task_id: id, ...(kill ? { signal: "SIGKILL" } : {}) }, 60000);
    Object.assign(tasks.get(id) || {}, answer);
    note(answer.summary.split("\n")[0]);
    if (view) drawTask();
  } catch (error) {
    note(DID_NOT_WORK + error.message);
  }
  ending.delete(id);
  wake();
};

onClick("restart", async id => {
  const made = await tool("restart_background_task", { task_id: id }, 60000);
  if (view?.id === id) openTask(made.task_id);
  note("Restarted as " + made.task_id);
});

onClick("copy", async () => {
  const nodes = [...(view.query ? $("results") : $("lines")).children];
  const text = nodes.map(node => node.textContent).join("\n");
  // The old way: in a sandbox there is no other.
  const area = element("textarea", "unseen");
  area.value = text;
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  $("copy").focus();
  if (!copied) throw new Error("the host does not let this page copy");
  note("Copied " + plural(nodes.length, "line"));
});

const send = args => async id => {
  const { unwritten_bytes: left } = await tool("send_task_input", { task_id: id, ...args });
  if (left) note(size(left) + " not taken: the program does not read");
};
// No form: in a sandbox none is ever submitted.
onClick("send", async id => {
  const input = $("input").value;
  await send({ input })(id);
  if ($("input").value === input) $("input").value = "";
});
$("input").addEventListener("keydown", event => {
  if (event.key === "Enter" && !event.isComposing) $("send").click();
});
onClick("interrupt", send({ keys: ["ctrl-c"] }));
onClick("close", send({ close: true }));

const inWords = task => task.task_id + (task.name ? " (" + oneLine(task.name) + ")" : "") + ": "
  + stateText(task) + ", " + duration(task.runtime_seconds) + ": "
  + oneLine(task.command);

onClick("tell", async id => {
  const { message, updateModelContext } = host.capabilities;
  const tail = visible([...$("lines").children].slice(-40).map(node => node.textContent).join("\n")
    .slice(-6000));
  if (updateModelContext) {
    await request("ui/update-model-context", { content: [{ type: "text",
      text: "Background tasks, as the person sees them now:\n"
        + sorted().slice(0, 30).map(task => "- " + inWords(task)).join("\n") }] });
  }
  if (!id || !message) return note("The agent sees how things are with your next message");
  // Longer than any row of backquotes in it: nothing in it can end the quotation.
  const rows = tail.match(/`+/g) || [];
  const fence = "`".repeat(Math.max(3, ...rows.map(row => row.length + 1)));
  const text = "Background task " + inWords(tasks.get(id)) + (tail
    ? "\n\nThe end of its output:\n\n" + fence + "text\n" + tail + "\n" + fence
    : tasks.get(id).total_bytes ? "" : "\n\nIt has printed nothing.");
  note("Waiting for the host");
  const answer = await request("ui/message",
    { role: "user", content: [{ type: "text", text }] }, 300000);
  if (answer.isError) throw new Error("the host did not take the message");
  note("Told the agent");
});

onClick("expand", async () => {
  const mode = host.context.displayMode === "fullscreen" ? "inline" : "fullscreen";
  useContext({ displayMode: (await request("ui/request-display-mode", { mode })).mode });
});

document.addEventListener("keydown", event => {
  const { key, target } = event, field = target.tagName === "INPUT" ? target : null;
  if (event.isComposing || event.ctrlKey || event.metaKey) return;
  if (key === "Escape" && field?.value) {
    field.value = "";
    field.dispatchEvent(new Event("input"));
  } else if (key === "Escape" && view) closeTask();
  else if (key === "/" && !field) {
    $(view ? "search" : "filter").focus();
    event.preventDefault();
  }
});

// ---- the clockwork

/** Return a function to await before each call, so that none comes too soon. */
function gate() {
  let next = 0;
  return () => {
    const now = performance.now(), at = Math.max(now, next);
    next = at + BUSY;
    return new Promise(done => setTimeout(done, at - now));
  };
}
const listGate = gate();
let timer = 0, looping = false, again = false, failures = 0, beganAt = 0;

/** Look at the server as soon as that may be. */
function wake() {
  again = true;
  clearTimeout(timer);
  loop();
}

async function loop() {
  if (looping || !ready || over || isUnseen()) return;
  looping = true;
  again = false;
  try {
    await refresh();
    failed(null);
  } catch (error) {
    failed(error);
  }
  looping = false;
  if (!over) timer = setTimeout(loop, failures ? Math.min(10000, 500 * 2 ** failures) : pace());
}

function pace() {
  if (again || view?.query && view.found.more) return 0;
  const runs = [...tasks.values()].some(task => isAlive(task) || task.processes_left);
  return beganAt + (runs ? BUSY : STILL) - performance.now();
}

async function refresh() {
  // A task that was opened just now is read at once.
  if (!view || view.next || view.query || !tasks.has(view.id)) {
    await listGate();
    if (over || isUnseen()) return;
    beganAt = performance.now();
    const answer = await tool("list_background_tasks", { limit, full: true });
    leftOut = answer.left_out;
    take(answer.tasks);
  }
  if (!view || over || isUnseen()) return;
  const reader = view;
  try {
    await follow();
  } catch (error) {
    if (over || reader !== view) return;
    if (!(error instanceof Refused)) throw error;
    if (view.query && view.seen) return write($("found"), error.message);
    note("The server no longer knows task " + view.id + ": it was started anew");
    closeTask();
  }
}

/** Say that the server cannot be reached, and why; null: it can. */
function failed(error) {
  failures = error ? failures + 1 : 0;
  $("alert").hidden = !error;
  $("app").classList.toggle("stale", error);
  if (!error) return;
  write($("alert"), "The tasks cannot be read: " + error.message
    + ". Trying again. If the server has ended, so have they.");
  if (!known) write($("empty-title"), "No connection");
}

async function main() {
  sizer.observe($("app"));
  if (window.parent === window) throw new Error("an MCP client that shows MCP Apps does that");
  const answer = await request("ui/initialize", {
    appInfo: { name: "backgroundr", version: "{{version}}" },
    appCapabilities: { availableDisplayModes: ["inline", "fullscreen", "pip"] },
    protocolVersion: "2026-01-26",
  }, 60000);
  host.capabilities = answer.hostCapabilities || {};
  ready = true;
  post({ method: "ui/notifications/initialized", params: {} });
  watcher.observe(document.documentElement);
  wake();
  useContext(answer.hostContext || {});
}
main().catch(error => {
  write($("empty-title"), "Not connected");
  write($("empty-text"), error.message);
});
</script>
</html>
"""
