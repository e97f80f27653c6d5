"""Which tests need a server, and a watch that none starts one without the mark that says so."""

import os
import sys
from pathlib import Path

import pytest

FIXTURES = {"server_folder", "postgres_server", "mongo_server", "s3_server"}
"""Fixtures with a server, or with the folder in which test modules start servers of their own."""
_PROGRAMS = {"initdb": "servers", "postgres": "servers", "mongod": "servers", "weed": "servers", "sandbox.keeper": "airflow"}
"""Programs and modules that are a server, or all of Airflow, and the mark that a test needs to start them."""


class ServerGuard:
    """Fails the test that is running if it asks for a server and is not marked; see ``tests/conftest.py``."""

    def __init__(self):
        self.item = None
        """The test that is running."""

    def install(self):
        """Watch this process from now on: what it starts, and the fixtures that tests ask for by name."""
        sys.addaudithook(self._on_event)
        ask = pytest.FixtureRequest.getfixturevalue

        def getfixturevalue(request, name):
            if name in FIXTURES:
                self.need("servers", f"the fixture {name}")
            return ask(request, name)

        pytest.FixtureRequest.getfixturevalue = getfixturevalue

    def _on_event(self, event, arguments):
        if event == "subprocess.Popen" and self.item is not None:
            _, command, *_ = arguments
            given = [os.fsdecode(word) for word in ([command] if isinstance(command, (str, bytes)) else command)]
            apart = Path(given[0]).name == "unshare"  # which has many words before the program
            words = [Path(word).name for word in given if (word.startswith("/") if apart else word in given[:3])]
            for word in () if "--version" in words else words:
                if word in _PROGRAMS:
                    self.need(_PROGRAMS[word], word)

    def need(self, mark, what):
        """Fail if the running test has not the mark that it needs for something; whoever needs Airflow may have servers, too."""
        if self.item is not None and not any(map(self.item.get_closest_marker, (mark, "airflow"))):
            pytest.fail(f"This test starts or uses {what}, so it needs @pytest.mark.{mark}.", pytrace=True)
