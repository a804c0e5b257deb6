"""Fixtures: a manager, and a client with a real server, that end what a test leaves."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys

import pytest

from backgroundr import TaskManager

from .client import ENVIRONMENT, LEGACY_VERSIONS, MODERN_VERSION, SERVER, Client
from .forms import FORM, PACKAGE, ROOT
from .stories import stories as stories  # a fixture


@pytest.fixture(scope="session", autouse=True)
def elsewhere(tmp_path_factory):
    """Python looks into the current directory first: be where no checkout is, but to test that."""
    here = os.getcwd()
    if FORM != "package":
        os.chdir(str(tmp_path_factory.mktemp("elsewhere")))
    yield
    os.chdir(here)


def pytest_configure(config):
    config.addinivalue_line("markers", "shared: runs on a server or manager of many tests")


def is_shared(request):
    return request.node.get_closest_marker("shared") is not None


@pytest.fixture(scope="module")
def shared_manager():
    with TaskManager() as manager:
        yield manager


@pytest.fixture
def manager(request):
    if not is_shared(request):
        with TaskManager() as manager:
            yield manager
        return
    manager = request.getfixturevalue("shared_manager")
    yield manager
    for task in manager.list():
        if not task.is_final:
            manager.end(task.task_id, signal="SIGKILL")


@pytest.fixture(scope="session")
def shared_clients():
    """{revision: a client that has opened its connection}, of those that were asked for."""
    clients = {}
    yield clients
    for client in clients.values():
        client.close()


def opened(request, version):
    """For fixtures: a client that has opened its connection, and its end, or its tidying."""
    if not is_shared(request):
        with Client(version) as client:
            client.open()
            yield client
        return
    clients = request.getfixturevalue("shared_clients")
    if version not in clients:
        clients[version] = Client(version)
        clients[version].open()
    yield clients[version]
    try:
        clients[version].tidy()
    except BaseException:
        clients.pop(version).process.kill()  # the next test gets another
        raise


@pytest.fixture(params=[LEGACY_VERSIONS[-1], MODERN_VERSION])
def client(request):
    """A client that has opened its connection; the test runs in each era."""
    yield from opened(request, request.param)


@pytest.fixture
def legacy_client(request):
    """For what does not depend on the era."""
    yield from opened(request, LEGACY_VERSIONS[-1])


@pytest.fixture
def modern_client(request):
    """For what only the modern era has."""
    yield from opened(request, MODERN_VERSION)


@pytest.fixture(scope="session")
def dist(tmp_path_factory):
    """Where the README's commands have written the single file and the zip application."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    (commands,) = [text for text in blocks if "amalgamate" in text]
    directory = tmp_path_factory.mktemp("built")
    here = "%s -m %s" % (shlex.quote(sys.executable), PACKAGE)
    subprocess.run(
        ["sh", "-e", "-c", commands.replace("python3 -m backgroundr", here)],
        cwd=str(directory),
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return directory / "dist"


@pytest.fixture(scope="session", autouse=True)
def demo_process(request):
    """--demo, where a test wants it. It takes seconds, in which the tests before that one run."""
    if not any("demo" in item.fixturenames for item in request.session.items):
        yield None
        return
    with subprocess.Popen(
        SERVER + ["--demo"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
    ) as process:
        yield process
        process.kill()


@pytest.fixture(scope="session")
def demo(demo_process):
    """(exit status, stdout, stderr) of --demo, which is run once."""
    out, err = demo_process.communicate(timeout=60)
    return demo_process.returncode, out.decode(), err.decode()
