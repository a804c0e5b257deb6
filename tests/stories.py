"""Stories of the task board, each a test. They run side by side: they wait more than they work."""

from __future__ import annotations

import inspect
from concurrent.futures import ThreadPoolExecutor

import pytest

from .browser import CHROMIUM, Browser
from .client import Client
from .host import Host

STORIES = {}


def story(function):
    """Make a test of a story.

    It may ask for: browser; server, the client of a server of its own; show, which opens the board
    of that in a conversation, with settings of `Host`; tmp_path.
    """
    STORIES[function.__name__] = function

    @pytest.mark.skipif(CHROMIUM is None, reason="SKIPPED BROWSER: chromium is missing")
    def test(stories):
        stories[function.__name__].result()

    test.__name__ = function.__name__
    test.__doc__ = function.__doc__
    return test


@pytest.fixture(scope="module")
def stories(request, tmp_path_factory):
    """{name: future of a story}, of those that were asked for."""
    browser = Browser(tmp_path_factory.mktemp("profile"))
    names = [item.name for item in request.session.items if item.name in STORIES]
    with ThreadPoolExecutor(4) as pool:
        yield {
            name: pool.submit(_tell, STORIES[name], browser, tmp_path_factory.mktemp("story"))
            for name in names
        }
    browser.close()


def _tell(function, browser, directory):
    """Run a story, and close what it has opened."""
    hosts = []
    with Client() as client:
        client.open()

        def show(**settings):
            hosts.append(Host(browser, client, **settings))
            return hosts[-1]

        props = {"browser": browser, "server": client, "show": show, "tmp_path": directory}
        try:
            function(**{name: props[name] for name in inspect.signature(function).parameters})
        finally:
            for host in hosts:
                host.close()
