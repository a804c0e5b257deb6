"""The README is true: its examples run, its configurations parse, its claims are the code's."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from .client import ENVIRONMENT, LEGACY_VERSIONS, MODERN_VERSION
from .forms import ROOT
from .programs import posix_only, shared

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def blocks(language):
    found = [text for name, text in BLOCKS if name == language]
    assert found
    return found


@posix_only
def test_the_library_example_prints_what_it_says():
    """The example of the library runs as it stands."""
    (program,) = blocks("python")
    output = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-c", program],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        check=True,
    ).stdout.decode()
    promised = README[README.index(program) :].split("```text\n", 1)[1].split("```", 1)[0]
    assert output == promised


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


def test_every_configuration_starts_the_server():
    """Each client's configuration is well-formed and runs python -m backgroundr."""
    configurations = [json.loads(text) for text in blocks("json")]
    servers = [
        entry["backgroundr"]
        for one in configurations
        for entry in (one.get("mcpServers"), one.get("servers"))
        if entry
    ]
    assert len(servers) == 2
    python = "/home/you/.backgroundr/bin/python"
    for server in servers:
        assert [server["command"], *server["args"]] == [python, "-m", "backgroundr"]
    for text in blocks("toml"):
        assert 'command = "%s"\nargs = ["-m", "backgroundr"]' % python in text
    commands = re.findall(r"(?:claude|codex|gemini) mcp add[^\n`]*", README)
    assert len(commands) == 3
    for command in commands:
        assert command.endswith(" %s -m backgroundr" % python)


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
        [sys.executable, "-m", "backgroundr", "--help"],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        check=True,
    ).stdout.decode()
    for option in set(re.findall(r"--\w[\w-]*", text)):
        assert "`%s" % option in README
    for version in (*LEGACY_VERSIONS, MODERN_VERSION):
        assert version in README


@pytest.mark.parametrize("verb", ["demo", "test", "test-all", "check", "bench", "clean"])
def test_every_verb_is_in_the_makefile(verb):
    """The verbs that the README lists are those of the Makefile."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "\n%s:" % verb in makefile
    assert "`make %s`" % verb in README
