"""What dockerd changes of this machine's network, and how that is taken back without touching what others changed meanwhile."""

from __future__ import annotations

import shlex
import socket
import subprocess
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

from sandbox.containers.errors import EngineError, NoEngine

BRIDGE = "docker0"
"""The bridge that each Engine has."""

_TABLES = ("nat", "filter")
_HOOKS = ("PREROUTING", "FORWARD", "OUTPUT", "POSTROUTING")
"""The firewall's own chains into which Docker puts rules; all other rules of it are in its own chains."""
_FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")


class Network:
    """This machine's network as it was before dockerd started, which leaves bridges, rules and settings behind when it ends.

    Raises:
        NoEngine: if there is no firewall that this process may read; then dockerd can't start either.
    """

    def __init__(self) -> None:
        try:
            self._rules = {table: _rules(table) for table in _TABLES}
        except EngineError as error:
            raise NoEngine(f"dockerd needs a firewall that it may change: {error}") from error
        self._links = _links()
        self._forwarding = _FORWARDING.read_text()

    def restore(self, bridges: Iterable[str]) -> None:
        """Remove the rules, chains and bridges of Docker that were not there, and put two settings back that it changes.

        Args:
            bridges: those of the Engine's networks.

        Raises:
            EngineError: if something of it failed, after all the rest was tried; with what is left.
        """
        its_own = {BRIDGE, *bridges}
        failures = [said for argv in self._commands(its_own) if (said := _failure(argv))]
        if _FORWARDING.read_text() != self._forwarding:
            _FORWARDING.write_text(self._forwarding)
        if failures:
            raise EngineError("Docker's changes of this machine's network are still there in part:\n" + "\n".join(failures))

    def _commands(self, bridges: set[str]) -> Iterator[list[str]]:
        """What is to be run, in this order: a chain is removed once it is empty and no rule jumps to it."""
        for table, before in self._rules.items():
            new = [_words(rule) for rule in _rules(table) if rule not in before]
            for _, *rule in (rule for rule in new if _is_dockers(rule, bridges)):
                yield _iptables("-t", table, "-D", *rule)
            for _, chain in (rule for rule in new if rule[0] == "-N" and _is_chain_of_docker(rule[1])):
                yield _iptables("-t", table, "-X", chain)
            # dockerd lets nothing through any more when it turns forwarding on; no other policy is its work
            for _, chain, *_ in (rule for rule in new if rule[:2] == ["-P", "FORWARD"]):
                yield _iptables("-t", table, *next(rule for rule in before if rule.startswith(f"-P {chain} ")).split())
        for link in sorted((_links() - self._links) & bridges):
            yield ["ip", "link", "delete", link]


def _words(rule: str) -> list[str]:
    """A rule as arguments. iptables lists it quoted as for a shell, but with a backslash before an apostrophe between quotes."""
    return shlex.split(rule.replace("\\'", "'"))


def _is_dockers(rule: list[str], bridges: set[str]) -> bool:
    """Whether Docker made a rule: it is in a chain of Docker, or jumps to one, or is about a bridge."""
    kind, chain, *rest = rule
    if kind != "-A":
        return False
    if _is_chain_of_docker(chain):
        return True
    if chain not in _HOOKS:
        return False
    options = list(pairwise(rest))
    jumps = any(option == "-j" and _is_chain_of_docker(value) for option, value in options)
    return jumps or any(option in ("-i", "-o") and value in bridges for option, value in options)


def _is_chain_of_docker(chain: str) -> bool:
    return chain == "DOCKER" or chain.startswith("DOCKER-")


def _links() -> set[str]:
    return {name for _, name in socket.if_nameindex()}


def _rules(table: str) -> list[str]:
    argv = _iptables("-t", table, "-S")
    done = subprocess.run(argv, capture_output=True, check=False, text=True)
    if done.returncode:
        raise EngineError(_said(argv, done))
    return done.stdout.splitlines()


def _iptables(*arguments: str) -> list[str]:
    return ["iptables", "-w", *arguments]


def _failure(argv: list[str]) -> str:
    """Run a command; what it said if it failed, else nothing."""
    done = subprocess.run(argv, capture_output=True, check=False, text=True)
    return _said(argv, done) if done.returncode else ""


def _said(argv: list[str], done: subprocess.CompletedProcess[str]) -> str:
    return f"{shlex.join(argv)} failed with exit status {done.returncode}: {done.stderr.strip()}"
