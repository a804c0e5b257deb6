"""Who listens on a port: by looking, never by connecting."""

from __future__ import annotations

import os
import socket
import sys

import pytest

from backgroundr import ports
from backgroundr.ports import PortWatch, listeners_of_lsof, listeners_of_netstat

from .programs import linux_only

IPV4 = ("127.0.0.1", socket.AF_INET)
IPV6 = ("::1", socket.AF_INET6)


@pytest.fixture(params=[IPV4, IPV6])
def listener(request):
    """A socket that listens on a free port."""
    address, family = request.param
    with socket.socket(family) as one:
        try:
            one.bind((address, 0))
        except OSError:
            pytest.skip("no %s here" % address)
        one.listen(1)
        yield one


def no_netlink(port):
    raise OSError("forbidden")


@linux_only
@pytest.mark.parametrize("has_netlink", [True, False])
def test_a_listener_is_seen_and_its_process(monkeypatch, listener, has_netlink):
    """A listening socket is found, with who has it, and its connections are not used up."""
    if not has_netlink:
        monkeypatch.setattr(ports, "listeners_of_netlink", no_netlink)
    watch = PortWatch(listener.getsockname()[1])
    found = watch.listeners()
    assert found == {os.fstat(listener.fileno()).st_ino}
    holder = watch.holder(found, [os.getpid()])
    assert (holder.is_of_task, holder.pid) == (True, os.getpid())
    holder = watch.holder(found, [os.getppid()])
    assert (holder.is_of_task, holder.pid) == (False, os.getpid())
    listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        listener.accept()
    listener.close()
    assert watch.listeners() == frozenset()


@linux_only
@pytest.mark.parametrize("has_netlink", [True, False])
def test_a_connection_is_no_listener(monkeypatch, listener, has_netlink):
    """A port from which somebody is only connected is free."""
    if not has_netlink:
        monkeypatch.setattr(ports, "listeners_of_netlink", no_netlink)
    with socket.create_connection(listener.getsockname()[:2]) as connection:
        assert PortWatch(connection.getsockname()[1]).listeners() == frozenset()


def test_without_a_way_to_look_a_port_is_connected_to(monkeypatch, listener):
    """Where the system shows nothing, a connection tells that somebody listens, not who."""
    monkeypatch.setattr(sys, "platform", "aix")
    monkeypatch.setattr(ports, "_output_of", lambda *commands: None)
    watch = PortWatch(listener.getsockname()[1])
    found = watch.listeners()
    assert found == {0}
    holder = watch.holder(found, [1])
    assert (holder.is_of_task, holder.pid, holder.program) == (None, None, None)
    listener.close()
    assert watch.listeners() == frozenset()


def test_what_lsof_prints_is_read():
    """A line a process and one a descriptor; nothing when nobody listens."""
    assert listeners_of_lsof("p31\nf3\nf4\np4242\nf7\n") == {31, 4242}
    assert listeners_of_lsof("") == frozenset()


def test_what_netstat_of_windows_prints_is_read():
    """Who listens has no remote address; the word for it is in the language of the system."""
    text = (
        "\r\nAktive Verbindungen\r\n\r\n"
        "  Proto  Lokale Adresse         Remoteadresse          Status           PID\r\n"
        "  TCP    0.0.0.0:8000           0.0.0.0:0              ABHÖREN          4711\r\n"
        "  TCP    127.0.0.1:8000         127.0.0.1:50123        HERGESTELLT      99\r\n"
        "  TCP    127.0.0.1:80           0.0.0.0:0              ABHÖREN          7\r\n"
        "  TCP    [::]:8000              [::]:0                 ABHÖREN          4712\r\n"
    )
    assert listeners_of_netstat(text, 8000) == {4711, 4712}
    assert listeners_of_netstat(text, 800) == frozenset()
