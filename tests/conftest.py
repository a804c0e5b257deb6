"""Fixtures: a manager, and a client with a real server, that end what a test leaves."""

from __future__ import annotations

import subprocess

import pytest

from backgroundr import TaskManager

from .client import ENVIRONMENT, LEGACY_VERSIONS, MODERN_VERSION, SERVER, Client


@pytest.fixture
def manager():
    with TaskManager() as manager:
        yield manager


@pytest.fixture(params=[LEGACY_VERSIONS[-1], MODERN_VERSION])
def client(request):
    """A client that has opened its connection; the test runs in each era."""
    with Client(request.param) as client:
        client.open()
        yield client


@pytest.fixture
def legacy_client():
    """For what does not depend on the era."""
    with Client() as client:
        client.open()
        yield client


@pytest.fixture(scope="session")
def demo():
    """(exit status, stdout, stderr) of --demo, which takes seconds and so is run once."""
    process = subprocess.run(
        SERVER + ["--demo"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=ENVIRONMENT,
        timeout=60,
        check=False,
    )
    return process.returncode, process.stdout.decode(), process.stderr.decode()
