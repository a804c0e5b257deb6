"""Measures what the server costs. Each figure is a ratio to its floor, measured in the same run.

    python tests/bench.py [--json FILE] [--rounds N] [--quick] [NAME ...]

To be run from the root of the checkout, with the interpreter that is to be measured. Needs
POSIX, and nothing but the standard library. The floor is what the same work costs without the
server. Floor and subject alternate within each round, so that what else the machine does meets
both. A figure is the median of its rounds; the ratio has the lowest and the highest beside it.

The exit status is 0 also when a target is missed, 1 when a figure could not be measured.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import functools
import itertools
import json
import os
import platform
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from typing import Callable, Iterable, Iterator, Sequence

SERVER = [sys.executable, "-m", "backgroundr"]
ROUNDS = 7
QUICK_ROUNDS = 2
QUICK_PART = 8  # a quick run does an eighth of the work
FIGURE_DEADLINE_S = 900

MIB = 1024 * 1024
LINE_BYTES = 80
# A task of this runs until it is ended. The shell is replaced, so that there is one process.
SLEEP = "exec sleep 1000"

# The floor of a call: reads a line, takes the JSON apart, answers with a line of JSON that is
# like the one that it was shown first.
ANSWERER = """
import json, sys
result = json.loads(sys.stdin.buffer.readline())["result"]
for line in sys.stdin.buffer:
    answer = {"jsonrpc": "2.0", "id": json.loads(line)["id"], "result": result}
    sys.stdout.write(json.dumps(answer) + "\\n")
    sys.stdout.flush()
"""
# The floor of starting tasks: prints how many seconds so many starts of a command took.
STARTER = """
import subprocess, sys, time
def start(command):
    return subprocess.Popen(
        command, shell=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
start("true").communicate()
began = time.perf_counter()
children = [start(sys.argv[1]) for _ in range(int(sys.argv[2]))]
print(time.perf_counter() - began)
for child in children:
    child.kill()
    child.communicate()
"""
# Prints which modules the server loads that are not its own.
IMPORTS = """
import sys
before = set(sys.modules)
import runpy, backgroundr.cli, backgroundr.server
print(*(name for name in set(sys.modules) - before if name.split(".")[0] != "backgroundr"))
"""
# The floor of the idle server's memory: imports what it is told, says so, and waits.
IDLER = """
import sys
for name in sys.argv[1:]:
    __import__(name)
for line in sys.stdin.buffer:
    sys.stdout.write("{}\\n")
    sys.stdout.flush()
"""
# Prints 200 lines a second, by the clock, until it is ended.
PRINTER = """
import sys, time
due = time.monotonic()
while True:
    print("%.3f a line such as a busy dev server prints for each request" % due, flush=True)
    due += 0.005
    time.sleep(max(0, due - time.monotonic()))
"""


class Broken(Exception):
    """A figure could not be measured: the server did not do what it should."""


class Effort:
    """How much to do. rounds: of each figure. quick: an eighth of the work."""

    def __init__(self, rounds: int, quick: bool) -> None:
        self.rounds = rounds
        self.quick = quick

    def size(self, full: int) -> int:
        """Return how much to do of what a full run does `full` of."""
        return full // QUICK_PART if self.quick else full

    def few(self) -> int:
        """Return how many rounds a figure gets that takes long and varies little."""
        return min(self.rounds, 3)


class Target:
    """What is aimed at. of: "ratio" or "measured", the median of which is judged. word:
    "at least", "at most" or "under" the limit."""

    def __init__(self, of: str, word: str, limit: float) -> None:
        self.of = of
        self.word = word
        self.limit = limit

    def is_met_by(self, value: float) -> bool:
        if self.word == "at least":
            return value >= self.limit
        return value <= self.limit if self.word == "at most" else value < self.limit


class Row:
    """One figure. unit: of `measured` and `floor`, which have a value for each round; floor is
    None for what has no floor. target: None for what is only told."""

    def __init__(
        self,
        name: str,
        what: str,
        unit: str,
        measured: Sequence[float],
        floor: Sequence[float] | None = None,
        target: Target | None = None,
    ) -> None:
        self.name = name
        self.what = what
        self.unit = unit
        self.measured = list(measured)
        self.floor = None if floor is None else list(floor)
        self.target = target
        self.ratios = [mine / least for mine, least in zip(self.measured, self.floor or [])]

    def median(self, of: str) -> float:
        return statistics.median(self.ratios if of == "ratio" else self.measured)

    def verdict(self, quick: bool) -> str:
        """Return "met" or "missed"; "-" without a target, and of a run that is no full one."""
        if self.target is None or quick:
            return "-"
        return "met" if self.target.is_met_by(self.median(self.target.of)) else "missed"

    def cells(self, quick: bool) -> list[str]:
        """Return the row of the table."""
        floor = ratio = target = "-"
        if self.floor is not None:
            floor = with_unit(statistics.median(self.floor), self.unit)
            spread = min(self.ratios), max(self.ratios)
            ratio = "%s [%s, %s]" % tuple(map(number, (self.median("ratio"),) + spread))
        if self.target is not None:
            limit = self.target.limit
            of_ratio = self.target.of == "ratio"
            target = "%s %s" % (
                self.target.word,
                "%g times" % limit if of_ratio else with_unit(limit, self.unit),
            )
        measured = with_unit(self.median("measured"), self.unit)
        return [self.name, self.what, measured, floor, ratio, target, self.verdict(quick)]

    def fields(self, quick: bool) -> dict:
        """Return the row as JSON has it."""
        target = None if self.target is None else vars(self.target)
        return {
            "name": self.name,
            "what": self.what,
            "unit": self.unit,
            "measured": self.measured,
            "floor": self.floor,
            "ratios": self.ratios,
            "target": target,
            "verdict": self.verdict(quick),
        }


COLUMNS = ["name", "what", "measured", "floor", "ratio", "target", ""]


def number(value: float) -> str:
    """Return a number with three digits, or all that stand before the point."""
    return "%.0f" % value if abs(value) >= 100 else "%.3g" % value


def with_unit(value: float, unit: str) -> str:
    return "%s %s" % (number(value), unit)


def table(rows: Iterable[Row], quick: bool) -> str:
    """Return the rows as a table of Markdown that can be read as it is."""
    lines = [COLUMNS] + [row.cells(quick) for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| %s |" % " | ".join(cell.ljust(width) for cell, width in zip(line, widths))
        for line in lines
    )


# ---------------------------------------------------------------- the processes measured

_ids = itertools.count(1)


def request(method: str, params: dict) -> bytes:
    """Return the line of a request, with an id that no other has."""
    message = {"jsonrpc": "2.0", "id": next(_ids), "method": method, "params": params}
    return json.dumps(message).encode() + b"\n"


def call(tool: str, **arguments: object) -> bytes:
    """Return the line that calls a tool."""
    return request("tools/call", {"name": tool, "arguments": arguments})


class Peer:
    """A process that answers each line with a line, and ends with its input."""

    # How what it says unasked begins.
    _UNASKED = b'{"jsonrpc":"2.0","method":'

    def __init__(self, argv: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        self.pid = self._process.pid
        self._stdin = self._process.stdin.fileno()
        self._stdout = self._process.stdout.fileno()
        self._unread = b""

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.__exit__(None, None, None)

    def tell(self, line: bytes) -> None:
        """Write a line that is not answered."""
        while line:
            line = line[os.write(self._stdin, line) :]

    def ask(self, line: bytes) -> bytes:
        """Write a line; return the answer, a line without its end."""
        self.tell(line)
        while True:
            while b"\n" not in self._unread:
                data = os.read(self._stdout, 65536)
                if not data:
                    raise Broken("a process ended without an answer to %r" % line)
                self._unread += data
            answer, _, self._unread = self._unread.partition(b"\n")
            if not answer.startswith(self._UNASKED):
                return answer


class Server(Peer):
    """A server that has been shaken hands with."""

    def __init__(self, *flags: str, prefix: Sequence[str] = ()) -> None:
        """prefix: a command that starts it."""
        super().__init__([*prefix, *SERVER, *flags])
        self.ask(initialize())
        self.tell(b'{"jsonrpc": "2.0", "method": "notifications/initialized"}\n')

    def call(self, tool: str, **arguments: object) -> dict:
        """Call a tool; return the structured result."""
        return structured(self.ask(call(tool, **arguments)))

    def start(self, command: str, **arguments: object) -> str:
        """Start a task; return its id."""
        return self.call("run_background_task", command=command, **arguments)["task_id"]

    def wait(self, task_id: str) -> dict:
        """Wait for the end of a task, which must be a good one; return its status."""
        status = self.call("wait_for_task", task_id=task_id, timeout_seconds=FIGURE_DEADLINE_S)
        if status["status"] != "completed":
            raise Broken("a task ended otherwise: %r" % status)
        return status

    def finish(self, command: str, **arguments: object) -> dict:
        """Start a task and wait for its end; return its status."""
        return self.wait(self.start(command, **arguments))

    def warm_up(self) -> None:
        """Run a first task: it brings the guardian along, the threads, and some modules."""
        self.finish("true")


def initialize() -> bytes:
    return request(
        "initialize",
        {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "bench", "version": "1"},
        },
    )


def structured(answer: bytes) -> dict:
    """Return the structured result in the line that answers a call. Raises Broken."""
    result = json.loads(answer).get("result", {})
    if result.get("isError", True):
        raise Broken("the server answered %r" % answer)
    return result["structuredContent"]


def bare(program: str, *arguments: str) -> list[str]:
    """Return the command line of a Python that runs `program`, a floor."""
    return [sys.executable, "-c", program, *arguments]


@contextlib.contextmanager
def printed_lines() -> Iterator[str]:
    """A directory with a file `l` of 4 MiB: lines of 80 bytes, such as a build prints.

    More is had by naming the file several times: one process writes it all, out of the page
    cache (where it is small enough to stay in the processor's, too). That is the least that a
    generator can do: `head -c` and `yes | head -c` write smaller pieces, and the second takes
    the time of a third process, of which a machine with two processors has none to spare.
    """
    words = ["compile", "link", "error", "warning", "module", "object", "header", "test", "main"]
    chosen = random.Random(1)
    lines = []
    for index in range(4 * MIB // LINE_BYTES + 1):
        text = "[%6d] %s" % (index, " ".join(chosen.choice(words) for _ in range(20)))
        lines.append(text[: LINE_BYTES - 1] + "\n")
    with tempfile.TemporaryDirectory(prefix="backgroundr-bench-") as directory:
        with open(os.path.join(directory, "l"), "w") as file:
            file.write("".join(lines)[: 4 * MIB - 1] + "\n")
        yield directory


def cat_of(mib: int) -> str:
    """Return the command that prints so many MiB, in `printed_lines`."""
    return "cat" + " l" * (mib // 4)


def in_turn(
    rounds: int, subject: Callable[[], float], floor: Callable[[], float]
) -> tuple[list[float], list[float]]:
    """Return what subject and floor measured in each round, after one that is not counted.

    Each is first in every other round, for the first may find the machine colder.
    """
    measured, least = [], []
    for index in range(rounds + 1):
        if index % 2:
            least.append(floor())
            measured.append(subject())
        else:
            measured.append(subject())
            least.append(floor())
    return measured[1:], least[1:]


# ---------------------------------------------------------------- capture


def placements() -> list[tuple[str, str, str, str]]:
    """Return where writers and readers are to run: what to add to a name, a few words, and what
    to put before a writer's command and before a reader's.

    Within a processor a pipe moves several times what it does between two. Which one it is,
    the system decides anew each time, and seldom the same for floor and subject, so that the
    ratio of the first row says more of that than of the server. In the others both are told.
    """
    found = [("", "where the system places them", "", "")]
    if shutil.which("taskset"):
        processors = sorted(os.sched_getaffinity(0))
        first, last = ("taskset -c %d " % processors[index] for index in (0, -1))
        if first != last:
            found.append(("-apart", "writer and reader on two processors", first, last))
        found.append(("-together", "all on one processor", first, first))
    return found


def capture(effort: Effort) -> list[Row]:
    """How fast output is taken, on one stream and on two."""
    rows = []
    mib = effort.size(256)
    with printed_lines() as directory:
        for suffix, place, for_writer, for_reader in placements():
            one = for_writer + cat_of(mib)
            half = for_writer + cat_of(mib // 2)
            piped = one + " | %scat >/dev/null" % for_reader

            def floor(piped: str = piped) -> float:
                # As the server counts a task's time: from the return of Popen to the exit.
                process = subprocess.Popen(["sh", "-c", piped], cwd=directory)
                began = time.monotonic()
                if process.wait() != 0:
                    raise Broken("%s exited with %d" % (piped, process.returncode))
                return mib / (time.monotonic() - began)

            with Server(prefix=for_reader.split()) as server:
                server.warm_up()

                def captured(command: str, server: Server = server) -> float:
                    status = server.finish(command, cwd=directory)
                    if status["total_bytes"] != mib * MIB:
                        raise Broken("not %d MiB were counted: %r" % (mib, status))
                    return mib / status["runtime_seconds"]

                for name, streams, command, limit in (
                    ("capture", "stdout", one, 0.9),
                    ("capture-both", "both streams", "%s & %s >&2; wait" % (half, half), 0.7),
                ):
                    what = "%d MiB of %d-byte lines on %s, %s; floor: `cat FILE` into `cat`"
                    rows.append(
                        Row(
                            name + suffix,
                            what % (mib, LINE_BYTES, streams, place),
                            "MiB/s",
                            *in_turn(effort.rounds, functools.partial(captured, command), floor),
                            target=Target("ratio", "at least", limit),
                        )
                    )
    return rows


# ---------------------------------------------------------------- calls


def round_trips_ms(peer: Peer, task_id: str, count: int) -> list[float]:
    """Return how long each of `count` status calls took, from the write to the line read."""
    lines = [call("get_task_status", task_id=task_id) for _ in range(count)]
    times = []
    for line in lines:
        began = time.perf_counter()
        peer.ask(line)
        times.append((time.perf_counter() - began) * 1000)
    return times


def p99(times: list[float]) -> float:
    return sorted(times)[len(times) * 99 // 100]


def status_row(
    effort: Effort,
    name: str,
    what: str,
    server: Server,
    task_id: str,
    measure: Callable[[list[float]], float],
    target: Target,
    calls: int,
) -> Row:
    """Measure status calls. Whatever the server is to do meanwhile, it does already, and so
    the floor is measured beside it."""
    sample = server.ask(call("get_task_status", task_id=task_id))
    structured(sample)
    with Peer(bare(ANSWERER)) as answerer:
        answerer.tell(sample + b"\n")
        peers = (server, answerer)
        measured, floor = in_turn(
            effort.rounds,
            *(lambda peer=peer: measure(round_trips_ms(peer, task_id, calls)) for peer in peers),
        )
    return Row(name, what + "; floor: a bare loop of JSON", "ms", measured, floor, target)


def status_idle(effort: Effort) -> list[Row]:
    """A status call, when nothing else goes on; and with all on one processor.

    Between two, most of the time goes into waking the other one up, and the less a peer has to
    do, the more often the system leaves it where its client is: so it does the floor.
    """
    rows = []
    processors = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    for suffix, place in (("", ""), ("-together", ", all on one processor")):
        if suffix:
            if len(processors) < 2:
                break
            os.sched_setaffinity(0, processors[:1])  # inherited by all that is started now
        with Server() as server:
            task_id = server.start("for i in 1 2 3 4 5 6 7 8 9 10; do echo line $i of ten; done")
            server.wait(task_id)
            # Soon after the end of a task, each call still looks for what it left behind.
            time.sleep(1.2)
            rows.append(
                status_row(
                    effort,
                    "status-idle" + suffix,
                    "get_task_status of a finished task, idle server, median round trip" + place,
                    server,
                    task_id,
                    statistics.median,
                    Target("ratio", "at most", 3),
                    effort.size(1000),
                )
            )
        if suffix:
            os.sched_setaffinity(0, processors)
    return rows


def status_loaded(effort: Effort, name: str, tasks: int, command: str, does: str) -> list[Row]:
    with Server() as server:
        task_ids = [server.start(command) for _ in range(tasks)]
        while not all(
            server.call("get_task_status", task_id=task_id, tail_lines=0)["total_lines"] > 50
            for task_id in task_ids
        ):
            time.sleep(0.1)
        return [
            status_row(
                effort,
                name,
                "get_task_status while %d tasks %s, 99th percentile" % (tasks, does),
                server,
                task_ids[0],
                p99,
                Target("measured", "under", 10),
                effort.size(400),
            )
        ]


def status_printing(effort: Effort) -> list[Row]:
    """A status call, while many tasks print as dev servers do."""
    command = "exec '%s' -S -c '%s'" % (sys.executable, PRINTER)
    return status_loaded(effort, "status-printing", 20, command, "print 200 lines a second each")


def status_yes(effort: Effort) -> list[Row]:
    """A status call, while some tasks print all they can."""
    return status_loaded(effort, "status-yes", 8, "exec yes", "run `yes`")


# ---------------------------------------------------------------- waits

WORD = {"until_output": ["ready"]}
# Does something after a while, and prints when it did.
SOON = "import os, socket, time; time.sleep(0.1); %s"
EVENTS = {
    "output": ("a line", "print('ready', time.time(), flush=True); time.sleep(1000)"),
    "exited": ("an end", "print('ready', time.time(), flush=True); os._exit(0)"),
    "port": (
        "a port",
        "one = socket.socket(); one.bind(('127.0.0.1', %d)); one.listen();"
        " print('ready', time.time(), flush=True); time.sleep(1000)",
    ),
}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def react(effort: Effort) -> list[Row]:
    """From an event that is waited for to the answer."""
    rows = []
    with Server() as server:
        server.warm_up()
        for reason, (what, code) in EVENTS.items():

            def late_ms(reason: str = reason, code: str = code) -> float:
                arguments: dict[str, object] = {"wait_seconds": 60}
                if reason == "output":
                    arguments["until_output"] = ["ready"]
                if reason == "port":
                    arguments["until_port"] = port = free_port()
                    code %= port
                command = "exec '%s' -S -c \"%s\"" % (sys.executable, SOON % code)
                facts = server.call("run_background_task", command=command, **arguments)
                answered = time.time()
                if facts["reason"] != reason:
                    raise Broken("a wait ended otherwise: %r" % facts)
                if not facts["output"]:  # the port was there before it was told
                    facts = server.call("wait_for_task", task_id=facts["task_id"], **WORD)
                server.call("end_background_task", task_id=facts["task_id"], grace_seconds=0)
                return (answered - float(facts["output"].split()[1])) * 1000

            count = effort.size(24)
            times = [[late_ms() for _ in range(count)] for _ in range(effort.few())]
            rows.append(
                Row(
                    "react-" + reason,
                    "from %s that is waited for to the answer, the slowest of %d" % (what, count),
                    "ms",
                    list(map(max, times)),
                    None,
                    Target("measured", "under", 50),
                )
            )
    return rows


# ---------------------------------------------------------------- starts


def start(effort: Effort) -> list[Row]:
    """From the start of the server to its first answer; of the single files too, once built."""
    pairs = effort.size(80) // 8

    def first_answer_ms(argv: list[str]) -> float:
        line = initialize()
        began = time.perf_counter()
        with Peer(argv) as peer:
            peer.ask(line)
            return (time.perf_counter() - began) * 1000

    def bare_ms() -> float:
        began = time.perf_counter()
        subprocess.check_call(bare("pass"))
        return (time.perf_counter() - began) * 1000

    def row(name: str, argv: list[str], target: Target | None) -> Row:
        measured, floor = [], []
        for _ in range(effort.rounds):
            mine, least = in_turn(pairs, lambda: first_answer_ms(argv), bare_ms)
            measured.append(statistics.median(mine))
            floor.append(statistics.median(least))
        what = "`%s` to its answer to initialize; floor: `python -c pass`"
        what %= " ".join(["python"] + argv[1:])
        return Row(name, what, "ms", measured, floor, target)

    rows = [row("start", SERVER, Target("ratio", "at most", 1.6))]
    for path in ("dist/backgroundr.py", "dist/backgroundr.pyz"):
        if os.path.exists(path):
            name = "start-" + path.rsplit(".", 1)[1]
            rows.append(row(name, [sys.executable, path], None))
    return rows


def tasks(effort: Effort) -> list[Row]:
    """Starting many tasks, one after the other.

    They sleep, for the server has work with the end of a task, which the floor has not, and
    with short ones that would fall into the time of the next start. The first task is not
    among them: it starts the guardian too, once a server.
    """
    count = effort.size(200)

    def through_server_ms() -> float:
        lines = [call("run_background_task", command=SLEEP) for _ in range(count)]
        with Server("--max-tasks", "1000") as server:
            server.warm_up()
            began = time.perf_counter()
            answers = [server.ask(line) for line in lines]
            taken = time.perf_counter() - began
            for answer in answers:
                structured(answer)
            return taken * 1000 / count

    def bare_ms() -> float:
        argv = bare(STARTER, SLEEP, str(count))
        taken = subprocess.check_output(argv, stdin=subprocess.DEVNULL)
        return float(taken) * 1000 / count

    return [
        Row(
            "tasks",
            "a start of a task, of %d that sleep; floor: a bare loop of Popen" % count,
            "ms",
            *in_turn(effort.rounds, through_server_ms, bare_ms),
            target=Target("ratio", "at most", 1.5),
        )
    ]


# ---------------------------------------------------------------- memory and processor, of Linux


def memory_kib(pid: int) -> dict[str, float]:
    """Return what a process has resident, and what of it is its own, in KiB.

    The second only where it may be read. The file that has both counts the pages; the other,
    on machines with many processors, has been known to be some MiB off.
    """
    try:
        with open("/proc/%d/smaps_rollup" % pid) as file:
            lines = [line.split() for line in file if line.endswith(" kB\n")]
    except OSError:
        with open("/proc/%d/status" % pid) as file:
            return {"resident": next(float(line.split()[1]) for line in file if "VmRSS" in line)}
    return {
        "resident": sum(float(line[1]) for line in lines if line[0] == "Rss:"),
        "private": sum(float(line[1]) for line in lines if line[0].startswith("Private_")),
    }


def memory_idle(effort: Effort) -> list[Row]:
    """What a server takes that has nothing to do."""
    modules = subprocess.check_output(bare(IMPORTS)).decode().split()
    mine: list[dict] = []
    least: list[dict] = []
    for _ in range(effort.few()):
        with Server() as server, Peer(bare(IDLER, *modules)) as idler:
            # Once it has answered, neither is about to do anything more.
            server.ask(request("ping", {}))
            idler.ask(b"\n")
            mine.append(memory_kib(server.pid))
            least.append(memory_kib(idler.pid))
    return [
        Row(
            "memory-idle-" + kind,
            "%s memory of an idle server; floor: a Python with the same %d modules loaded"
            % (kind, len(modules)),
            "MiB",
            [one[kind] / 1024 for one in mine],
            [one[kind] / 1024 for one in least],
        )
        for kind in mine[0]
    ]


def memory_tasks(effort: Effort) -> list[Row]:
    """What the server takes for each running task."""
    count = effort.size(500)
    costs = []
    for _ in range(effort.few()):
        with Server("--max-tasks", "1000") as server:
            server.warm_up()
            before = memory_kib(server.pid)["resident"]
            for _ in range(count):
                server.start(SLEEP)
            costs.append((memory_kib(server.pid)["resident"] - before) / count)
    return [Row("memory-task", "memory for each of %d running tasks" % count, "KiB", costs)]


def moved_mib(work: Callable[[Server], object]) -> float:
    """Return by how much a server's resident memory grew by some work, after a first task."""
    with Server() as server:
        server.warm_up()
        before = memory_kib(server.pid)["resident"]
        work(server)
        return (memory_kib(server.pid)["resident"] - before) / 1024


def memory_floods(effort: Effort) -> list[Row]:
    """What stays of very much output, of which the last MiB is kept."""
    lines_mib, bytes_mib = effort.size(1024), effort.size(256)
    rounds = effort.few()
    with printed_lines() as directory:

        def moved(command: str) -> float:
            return moved_mib(lambda server: server.finish(command, cwd=directory))

        return [
            Row(
                name,
                "memory that a flood of %s moved; floor: the MiB that is kept" % what,
                "MiB",
                [moved(command) for _ in range(rounds)],
                [1.0] * rounds,
                Target("ratio", "under", 2),
            )
            for name, what, command in (
                ("memory-lines", "%d MiB of lines" % lines_mib, cat_of(lines_mib)),
                (
                    "memory-no-lines",
                    "%d MiB without a newline" % bytes_mib,
                    "head -c %d /dev/zero | tr '\\0' x" % (bytes_mib * MIB),
                ),
            )
        ]


def memory_history(effort: Effort) -> list[Row]:
    """What stays of many tasks that are over."""
    count, at_once = effort.size(2000), 50

    def run_all(server: Server) -> None:
        for _ in range(0, count, at_once):
            started = [server.start("head -c 60000 l", cwd=directory) for _ in range(at_once)]
            for task_id in started:
                server.wait(task_id)

    with printed_lines() as directory:
        moved = [moved_mib(run_all)]
    what = "memory that %d finished tasks of 60 KB each moved" % count
    return [Row("memory-history", what, "MiB", moved, None, Target("measured", "under", 64))]


def children_of(pid: int) -> dict[int, str]:
    """Return {pid: name} of the children of a process."""
    found = {}
    for child in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/stat" % child) as file:
                name, fields = file.read().split("(", 1)[1].rsplit(")", 1)
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields.split()[1]) == pid:
            found[int(child)] = name
    return found


def processor_ms(pid: int) -> float:
    """Return how much time of the processor the threads of a process took.

    In nanoseconds where the kernel tells; /proc/PID/stat counts in ticks, mostly of 10 ms.
    """
    try:
        total = 0
        for thread in os.listdir("/proc/%d/task" % pid):
            with open("/proc/%d/task/%s/schedstat" % (pid, thread)) as file:
                total += int(file.read().split()[0])
        return total / 1e6
    except FileNotFoundError:
        with open("/proc/%d/stat" % pid) as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")


def idle(effort: Effort) -> list[Row]:
    """What time of the processor is taken when nothing happens."""
    count, seconds = 100, effort.size(10)
    taken = []
    for _ in range(effort.few()):
        with Server() as server:
            task_ids = [server.start(SLEEP) for _ in range(count)]
            guardians = [pid for pid, name in children_of(server.pid).items() if "guard" in name]
            if not guardians:
                raise Broken("the server has no guardian")
            watched = [server.pid] + guardians
            for task_id in task_ids[:20]:
                server.tell(call("wait_for_task", task_id=task_id, **WORD, timeout_seconds=3600))
            time.sleep(1)  # for the guardian to have started up
            before = sum(map(processor_ms, watched))
            time.sleep(seconds)
            taken.append(sum(map(processor_ms, watched)) - before)
    what = "processor time of server and guardian in %d s, %d tasks asleep, 20 waits for output"
    what %= seconds, count
    return [Row("idle", what, "ms", taken, None, Target("measured", "under", 10))]


# ---------------------------------------------------------------- the run

FIGURES = {
    "capture": capture,
    "status-idle": status_idle,
    "status-printing": status_printing,
    "status-yes": status_yes,
    "react": react,
    "start": start,
    "tasks": tasks,
    "memory-idle": memory_idle,
    "memory-task": memory_tasks,
    "memory-floods": memory_floods,
    "memory-history": memory_history,
    "idle": idle,
}
OF_LINUX = {"memory-idle", "memory-task", "memory-floods", "memory-history", "idle"}


def allow_descriptors(wanted: int) -> None:
    """Raise this process's limit, which servers inherit: a task takes three descriptors."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("names", metavar="NAME", nargs="*", help=", ".join(FIGURES))
    parser.add_argument("--json", metavar="FILE", help="where to write it all, as JSON")
    parser.add_argument("--rounds", metavar="N", type=int, help="default: %d" % ROUNDS)
    parser.add_argument(
        "--quick", action="store_true", help="an eighth of the work; targets do not apply"
    )
    options = parser.parse_args()
    unknown = set(options.names) - set(FIGURES)
    if unknown:
        parser.error("no such figure: %s" % ", ".join(sorted(unknown)))
    if options.rounds is not None and options.rounds < 1:
        parser.error("argument --rounds: must be at least 1")
    if sys.platform == "win32":
        parser.error("the floors are made with the tools of POSIX")
    effort = Effort(options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS), options.quick)
    allow_descriptors(4096)
    # Bytecode is there where the server is installed; so it is here, from the second start on.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    rows: list[Row] = []
    notes = []
    broken = False
    for name in options.names or FIGURES:
        if name in OF_LINUX and sys.platform != "linux":
            notes.append("%s: not measured, for it looks into /proc, which Linux has." % name)
            continue
        print("measuring %s" % name, file=sys.stderr)
        faulthandler.dump_traceback_later(FIGURE_DEADLINE_S, exit=True)
        try:
            rows += FIGURES[name](effort)
        except Exception:  # the others are still worth their time
            traceback.print_exc()
            notes.append("%s: could not be measured." % name)
            broken = True
        faulthandler.cancel_dump_traceback_later()
    about = {
        "server": subprocess.check_output(SERVER + ["--version"]).decode().strip(),
        "python": platform.python_version(),
        "system": "%s %s" % (platform.system(), platform.release()),
        "processors": os.cpu_count(),
        "rounds": effort.rounds,
        "quick": effort.quick,
    }
    heading = "%(server)s, Python %(python)s, %(system)s, %(processors)d processors" % about
    print("%s, rounds: %d\n" % (heading, effort.rounds))
    print(table(rows, effort.quick))
    print("".join("\n" + note for note in notes), end="\n" if notes else "")
    if options.json:
        about["rows"] = [row.fields(effort.quick) for row in rows]
        with open(options.json, "w") as file:
            json.dump(about, file, indent=1)
            file.write("\n")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
