"""How a server in a container is found from inside it, and from outside: what relays there, and whether an address is its own."""

from __future__ import annotations

import io
import logging
import socket
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from recovery.common.errors import ContainerError
from recovery.common.wording import escaped
from recovery.runners.docker.engine import Container, Engine
from recovery.runners.docker.stream import NotStarted, run

log = logging.getLogger(__name__)

_LOOPBACK = "127.0.0.1"
_ANSWERS_WITHIN = 3.0
_ESTABLISHED = b"01"
_NO_SUCH_PROGRAM = {126, 127}
_SHOWN = 500

# Each relay ends as soon as either side has ended: a server must not go on for a client that is gone. It leaves no process behind that ends
# by a signal: the server is often the first process of its container, and so inherits such a one, and PostgreSQL then takes it for
# one of its own that has crashed, and begins anew. Perl's relay is a single process. Bash waits for its own.
PERL = """use IO::Socket::INET; use Errno;
my $server = IO::Socket::INET->new(PeerAddr => $ARGV[0], PeerPort => $ARGV[1]) or exit 1;
exit 0 if @ARGV > 2;
$SIG{PIPE} = "IGNORE";
$_->blocking(0) for *STDIN, *STDOUT, $server;
my ($up, $down, $fd, $ended) = ("", "", fileno $server, 0);
sub later { $!{EAGAIN} || $!{EINTR} }
while (1) {
  exit 0 if $ended && !length($ended == 1 ? $up : $down);
  my ($read, $write) = ("", "");
  vec($read, 0, 1) = 1 if !$ended && length $up < 262144;
  vec($read, $fd, 1) = 1 if $ended != 2 && length $down < 262144;
  vec($write, $fd, 1) = 1 if length $up;
  vec($write, 1, 1) = 1 if length $down;
  select($read, $write, undef, undef) > 0 or next;
  if (vec($read, 0, 1)) { my $n = sysread STDIN, $up, 65536, length $up; $ended = 1 unless $n || !defined $n && later() }
  if (vec($read, $fd, 1)) { my $n = sysread $server, $down, 65536, length $down; $ended = 2 unless $n || !defined $n && later() }
  if (vec($write, $fd, 1)) { my $n = syswrite $server, $up; defined $n ? substr($up, 0, $n, "") : later() || exit 1 }
  if (vec($write, 1, 1)) { my $n = syswrite STDOUT, $down; defined $n ? substr($down, 0, $n, "") : later() || exit 1 }
}"""
BASH = """trap '' PIPE
exec 3<>"/dev/tcp/$0/$1" 4<&0 || exit 1
cat <&4 >&3 & cat <&3 & wait -n
kill $(jobs -p) 2>/dev/null
wait"""


@dataclass(frozen=True)
class Relay:
    """What passes a stream on in a container."""

    name: str
    """The program."""
    address: str
    """Where the server answers it."""
    argv: Sequence[str]


def addresses(container: Container) -> list[str]:
    """The addresses that a container has in its networks; none where it shares a network, or has none."""
    networks = (container.details["NetworkSettings"]["Networks"] or {}).values()
    return [found for each in networks for key in ("IPAddress", "GlobalIPv6Address") if (found := each.get(key))]


def find_relay(engine: Engine, container: Container, port: int) -> Relay:
    """What in a container can reach its server: at the container's own address, as others do, or else at loopback.

    Its own address comes first, since servers often ask clients at loopback for no password.

    Raises:
        ContainerError: if the image has none of the programs, or nobody answers; or as :func:`recovery.runners.docker.stream.run`.
    """
    missing: dict[str, str] = {}
    for address in (*addresses(container), _LOOPBACK):
        for name, asked, argv in _ways(address, str(port)):
            if name in missing:
                continue
            try:
                status, printed = run(engine, container.id, asked)
            except NotStarted as error:
                missing[name] = error.what
                continue
            if status == 0:
                return Relay(name, address, argv)
            if status in _NO_SUCH_PROGRAM:
                missing[name] = escaped(printed[:_SHOWN].decode("utf-8", "replace").strip())
    if missing.keys() == {"bash", "perl"}:
        log.error("perl: %s; bash: %s", missing["perl"], missing["bash"])
        raise ContainerError(
            f"The address of the container {container.name} can't be reached from here, and its image has neither perl nor bash, by"
            " which its server could be reached from inside.",
            "Let the worker join one of the container's networks, or use an image with bash.",
        )
    raise ContainerError(
        f"Nobody answers at port {port} in the container {container.name}.",
        "Wait until the server has started. Write into the Connection the port that the server has inside the container.",
        retryable=True,
    )


def _ways(address: str, port: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """The programs that may be there: each one's name, a command that only tries it, and the one that relays."""
    yield "perl", ["perl", "-e", PERL, address, port, "try"], ["perl", "-e", PERL, address, port]
    yield "bash", ["bash", "-c", 'exec 3<>"/dev/tcp/$0/$1"', address, port], ["bash", "-c", BASH, address, port]


def direct_address(engine: Engine, container: Container, port: int) -> str | None:
    """The address at which this worker itself reaches a container's server; None if there is none.

    The same address may be another container's where this worker is. So a connection is opened, and looked up from inside the
    container, which has the other end of it. Where that look can't be had, a tunnel may still lead there.

    Raises:
        ContainerError: if the look failed in a way that may pass.
    """
    for address in addresses(container):
        try:
            with closing(socket.create_connection((address, port), _ANSWERS_WITHIN)) as ours:
                if _has_other_end(engine, container, ours, port):
                    return address
        except OSError as error:
            log.info("%s is not reached at %s: %s", container.name, address, error)
            continue
        except ContainerError as error:
            if error.retryable:
                raise
            log.warning("it can't be told whether %s answers at %s: %s", container.name, address, error.what)
            continue
        log.info("what answers at %s is not %s, or can't be told from it", address, container.name)
    return None


def _has_other_end(engine: Engine, container: Container, ours: socket.socket, port: int) -> bool:
    host, source_port = ours.getsockname()[:2]
    expected = {f"{text}:{source_port:04X}".encode() for text in _as_kernel_writes(ip_address(host))}
    _, listed = run(engine, container.id, ["cat", "/proc/net/tcp", "/proc/net/tcp6"])
    rows = (line.split(maxsplit=4) for line in io.BytesIO(listed))  # one after another: the image's cat may print anything
    found = (row[1] for row in rows if len(row) > 4 and row[2] in expected and row[3] == _ESTABLISHED)
    return any(local.endswith(b":%04X" % port) for local in found)


def _as_kernel_writes(address: IPv4Address | IPv6Address) -> list[str]:
    """An address as ``/proc/net/tcp`` and ``/proc/net/tcp6`` have it: words of four bytes, in the processor's order of bytes."""
    shapes = [address.packed]
    if isinstance(address, IPv4Address):
        shapes.append(bytes(10) + b"\xff\xff" + address.packed)
    return ["".join(f"{int.from_bytes(each[at : at + 4], 'little'):08X}" for at in range(0, len(each), 4)) for each in shapes]
