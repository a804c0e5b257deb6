"""The README is true: its examples run, its configurations parse, its claims are the code's."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest

from backgroundr import __version__

from .client import ENVIRONMENT, LEGACY_VERSIONS, MODERN_VERSION, SERVER, Client
from .forms import FORM, PACKAGE, ROOT
from .programs import DEADLINE_S, eventually, free_port, posix_only, shared

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def blocks(language):
    found = [text for name, text in BLOCKS if name == language]
    assert found
    return found


PRINTING_BLOCKS = [text for text in blocks("python") if "print(" in text]
SERVING_BLOCKS = [text for text in blocks("python") if "print(" not in text]


def of_this_form(program):
    return program.replace("from backgroundr", "from " + PACKAGE)


@posix_only
@pytest.mark.parametrize("program", PRINTING_BLOCKS, ids=range(len(PRINTING_BLOCKS)))
def test_each_example_of_the_library_prints_what_it_says(program, tmp_path):
    """The examples run as they stand, and print what stands below them."""
    env = ENVIRONMENT
    if "othertool" in program:
        vendor = tmp_path / "othertool" / "_vendor"
        shutil.copytree(str(ROOT / "backgroundr"), str(vendor / "backgroundr"))
        env = {**env, "PYTHONPATH": str(tmp_path) + os.pathsep + env["PYTHONPATH"]}
    # There asyncio tells of each step that took a tenth of a second; busy machines have such.
    dev_mode = [] if "asyncio" in program else ["-X", "dev"]
    result = subprocess.run(
        [sys.executable, "-W", "error", *dev_mode, "-c", of_this_form(program)],
        env={**env, "PYTHONDEVMODE": ""},
        capture_output=True,
        check=False,
    )
    promised = README[README.index(program) :].split("```text\n", 1)[1].split("```", 1)[0]
    assert result.stdout.decode() == promised
    assert result.stderr == b""


def test_its_own_tool_is_served_beside_ours(tmp_path):
    """The example with a tool is a server of its own, and does what its text says."""
    (program,) = [text for text in SERVING_BLOCKS if "Tool(" in text]
    (tmp_path / "program.py").write_text(of_this_form(program))
    with Client(server=[sys.executable, str(tmp_path / "program.py")]) as client:
        client.open()
        answer = client.send_call("deploy", place="the moon")
        assert client.receive(answer)["content"][0]["text"] == "Deployed to the moon."
        client.start("exit 3")
        assert client.close() == 0


@posix_only
def test_several_clients_are_served_on_a_socket():
    """The example with a port: what one client starts the other sees, until the program ends."""
    (program,) = [text for text in SERVING_BLOCKS if "8910" in text]
    port = free_port()
    with subprocess.Popen(
        [sys.executable, "-c", of_this_form(program).replace("8910", str(port))],
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
    ) as process:
        netcat = "import socket, sys, threading\n" + NETCAT % port
        try:
            with Client(server=[sys.executable, "-c", netcat]) as one:
                one.open()
                one.start("exec sleep 600", name="shared")
                with Client(server=[sys.executable, "-c", netcat]) as other:
                    other.open()
                    assert other.status("shared")["status"] == "running"
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(DEADLINE_S) != 0
        assert process.stderr.read().decode().split()[-1] == "KeyboardInterrupt"


@posix_only
def test_the_commands_that_build_the_forms_build_them(request):
    """The block below "One file" runs as it stands, and writes files that run."""
    if FORM == "single":
        pytest.skip("the single file does not make itself")
    for name in ("backgroundr.py", "backgroundr.pyz"):
        command = [sys.executable, str(request.getfixturevalue("dist") / name), "--version"]
        assert subprocess.check_output(command) == b"backgroundr %s\n" % __version__.encode()


# Connects its standard streams with a port, as soon as somebody listens there.
NETCAT = """
while True:
    try:
        connection = socket.create_connection(("127.0.0.1", %d))
        break
    except ConnectionRefusedError:
        pass

def send():
    for line in sys.stdin.buffer:
        connection.sendall(line)
    connection.shutdown(socket.SHUT_WR)

threading.Thread(target=send).start()
with connection, connection.makefile("rb") as answers:
    for line in answers:
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
"""
LISTENER = """\
import re, socket, sys, time
listener = socket.socket()
listener.bind(("127.0.0.1", int(re.findall("[0-9]{4,5}", " ".join(sys.argv))[0])))
listener.listen()
time.sleep(600)
"""


@posix_only
def test_every_call_is_answered_as_the_text_says(tmp_path):
    """The calls of tools that it shows work; for programs that may be missing others stand in."""
    stand_ins = {
        "npm": "echo ready in 3 s; exec sleep 600",
        "pylsp": "exec %s -c '%s' \"$@\"" % (sys.executable, LISTENER),
        "socat": "exec %s -c '%s' \"$@\"" % (sys.executable, LISTENER),
        "python3": 'exec %s "$@"' % sys.executable,
    }
    for name, script in stand_ins.items():
        (tmp_path / name).write_text("#!/bin/sh\n%s\n" % script)
        (tmp_path / name).chmod(0o755)
    calls = [json.loads(text) for text in blocks("json") if text.startswith('{"name"')]
    with Client(env={"PATH": "%s:%s" % (tmp_path, os.environ["PATH"])}) as client:
        client.open()
        for call in calls:
            port = call["arguments"].get("until_port")
            if port is not None:
                call = json.loads(json.dumps(call).replace(str(port), str(free_port())))
            result = client.call(call["name"], **call["arguments"])
            assert not result.is_error
            assert result.structured["reason"] in ("output", "port")


@posix_only
@pytest.mark.parametrize(
    ("begin", "starts", "ends"),
    [
        (
            "docker ",
            ["docker rm -f web", "docker run --rm --init --name web busybox httpd -f"],
            [],
        ),
        (
            "trap ",
            ["kubectl run web --attach --restart=Never --image=busybox -- httpd -f"],
            ["kubectl delete pod web --ignore-not-found --wait=false"],
        ),
        ("exec srun ", ["srun --job-name=web --time=1:00:00 make all"], []),
    ],
    ids=["docker", "kubectl", "srun"],
)
def test_commands_that_stand_for_something_elsewhere_clean_up(
    manager, tmp_path, begin, starts, ends
):
    """What the lines do before the start, and what at the end of their task."""
    log = tmp_path / "log"
    for name in ("docker", "kubectl", "srun"):
        (tmp_path / name).write_text(
            '#!/bin/sh\necho %s "$@" >>log\ncase $1 in rm|delete) exit;; esac\nexec sleep 600\n'
            % name
        )
        (tmp_path / name).chmod(0o755)

    def calls():
        return log.read_text().splitlines() if log.exists() else []

    (command,) = [text for text in blocks("sh") if text.startswith(begin)]
    env = {"PATH": "%s:%s" % (tmp_path, os.environ["PATH"])}
    task = manager.start(command.strip(), cwd=str(tmp_path), env=env)
    eventually(lambda: calls() == starts, "the start")
    assert manager.end(task.task_id).signal in ("SIGTERM", None)
    assert calls() == starts + ends


def test_every_block_is_tried():
    """No block of commands, of code or of settings stands in the README that no test knows."""
    tried = {
        # `make demo` is what the fixture runs; the next two are run by .ci/run, word by word.
        "sh": ("make demo\n", "python3 -m venv ~/.backgroundr\n", "python3 -m venv .venv\n"),
        "json": ('{\n  "mcpServers"', '{\n  "servers"', '{"name": "'),
        "toml": ("[mcp_servers.backgroundr]",),
    }
    # The first of these by test_ssh, the rest above.
    tried["sh"] += ("exec ssh -tt -S none build-box make all\n",)
    tried["sh"] += ("python3 -m backgroundr.amalgamate\n", "docker ", "trap ", "exec srun ")
    for language, text in BLOCKS:
        assert language in ("text", "python") or text.startswith(tried[language]), text


def generalised(demo):
    """Return the words of a demonstration without what differs from run to run."""
    text = " ".join(demo.split())  # lines are wrapped where an id or a path happens to end
    # How often progress is told is a matter of how quick the machine is.
    text = re.sub(r'Task \S+ \(build\) is running, for \S+ s\. Last line: ".*?" ', "", text)
    for pattern, name in (
        (r"\bt[0-9a-hjkmnp-tv-z]{8}\b", "ID"),
        (r"pid \d+", "pid N"),
        (r"\S*backgroundr-demo-\w+", "DIRECTORY"),
        (r"(?<=in )/\S+?(?=\.|,| Next)", "DIRECTORY"),
        (r"\d{4}-\d\d-\d\dT[\d:.]+Z|\d\d/\w+/\d{4} [\d:]+", "TIME"),
        (r"(port |127\.0\.0\.1:)\d+", r"\1PORT"),
        (r"\d+(\.\d)? (s|ms)\b", "SECONDS"),
        (r"\d+ nodes", "N nodes"),
        (r"\d+ bytes", "N bytes"),
        (r"python[\d.]*(\.exe)? ", "python "),
    ):
        text = re.sub(pattern, name, text)
    return text.split()


@posix_only
def test_the_demonstration_is_the_real_one(demo):
    """What the README shows of --demo is what --demo prints."""
    status, output, _ = demo
    assert status == 0
    assert generalised(blocks("text")[0]) == generalised(output)


def test_every_configuration_starts_the_server(tmp_path):
    """Each client's configuration is well-formed, and the server takes its options."""
    configurations = [json.loads(text) for text in blocks("json")]
    servers = [
        server
        for one in configurations
        for servers in (one.get("mcpServers", {}), one.get("servers", {}))
        for server in servers.values()
    ]
    python = "/home/you/.backgroundr/bin/python"
    starts = [[python, "-I", "-m", "backgroundr"], ["python3", "-I", "/opt/backgroundr.py"]]
    ssh = ["ssh", "-T", "-o", "BatchMode=yes", "build-box", "python3", "-I", "backgroundr.py"]
    starts.append(ssh)  # what it does over there is for test_ssh
    found = []
    for server in servers:
        command = [server["command"], *server["args"]]
        start = next(one for one in starts if command[: len(one)] == one)
        found.append(start)
        flags = [
            str(tmp_path) if word == "/home/you/app" else word for word in command[len(start) :]
        ]
        with Client(flags=flags) as client:
            client.open()
    assert sorted(found) == sorted([starts[0], *starts])
    for text in blocks("toml"):
        assert 'command = "%s"\nargs = ["-I", "-m", "backgroundr"]' % python in text
    commands = re.findall(r"(?:claude|codex|gemini) mcp add[^\n`]*", README)
    assert len(commands) == 3
    for command in commands:
        assert command.endswith(" %s -I -m backgroundr" % python)


@shared
def test_every_tool_and_argument_is_in_the_table(legacy_client):
    """The table of tools names every tool, argument, and result that the server has."""
    for name, tool in legacy_client.tools().items():
        row = next(line for line in README.split("\n") if line.startswith("| `%s`" % name))
        for argument in tool["inputSchema"]["properties"]:
            assert "`%s`" % argument in row
    status = legacy_client.tools()["get_task_status"]["outputSchema"]["properties"]
    for field in status:
        assert "`%s`" % field in README


def test_every_option_and_revision_is_told():
    """The README names each option of the command line and each revision of the protocol."""
    text = subprocess.run(
        SERVER + ["--help"],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        check=True,
    ).stdout.decode()
    for option in set(re.findall(r"--\w[\w-]*", text)):
        assert "`%s" % option in README
    for version in (*LEGACY_VERSIONS, MODERN_VERSION):
        assert version in README


def test_every_verb_is_in_the_makefile():
    """The verbs that the README lists are those of the Makefile, but one for who writes code."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    verbs = set(re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE).group(1).split())
    assert set(re.findall(r"^\| `make ([a-z-]+)`", README, re.MULTILINE)) == verbs - {"format"}
    assert "\ndemo:\n\t$(PYTHON) -m backgroundr --demo\n" in makefile
