"""A tunnel to a server in a container: a Unix socket on this worker, and for each connection to it a relay in the container.

A port of loopback would be open to all users of the worker, and servers often ask loopback for no password. The socket lies in a
folder that only this process's user enters. The relay ends with its connection, so with this process, too, however that ends.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread

from recovery.common.errors import RecoveryError
from recovery.common.wording import escaped
from recovery.runners.docker.engine import Container, Engine
from recovery.runners.docker.private_folder import PrivateFolder
from recovery.runners.docker.relay import Relay
from recovery.runners.docker.stream import BUFFER, STDERR, Stream, attach, create

log = logging.getLogger(__name__)

_PLACE = Path("/tmp")  # noqa: S108 - the path of a socket may have 107 bytes only
_PREFIX = "recovery-reach-"
_WORDS_LOGGED = 4000
"""Bytes that a relay may say in a log: its program is the image's, which may be anybody's."""


class Tunnel:
    """A Unix socket that leads to a server in a container, until it is closed.

    Args:
        engine: whose container it is; used by the tunnel's thread alone from now on.
        container: where the server is.
        relay: what passes the stream on there.
        socket_name: the name of the socket, as clients of that server want it.
    """

    def __init__(self, engine: Engine, container: Container, relay: Relay, socket_name: str) -> None:
        self._engine, self._container, self._relay = engine, container, relay
        self._folder = PrivateFolder(_PLACE, _PREFIX)
        self.socket = self._folder.path / socket_name
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(self.socket))
        listening.listen()
        self._loop = asyncio.new_event_loop()
        self._ended = asyncio.Event()
        self._asks = ThreadPoolExecutor(1, "engine")
        self._thread = Thread(target=self._loop.run_until_complete, args=[self._serve(listening)], name="tunnel", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End all connections, and remove the socket."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._ended.set)
            self._thread.join()
        self._loop.close()
        self._asks.shutdown()
        self._folder.close()

    async def _serve(self, listening: socket.socket) -> None:
        connections: set[asyncio.Task[None]] = set()

        def taken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = self._loop.create_task(self._connection(reader, writer))
            connections.add(task)
            task.add_done_callback(connections.discard)
            task.add_done_callback(lambda _: writer.close())

        server = await asyncio.start_unix_server(taken, sock=listening, limit=BUFFER)
        await self._ended.wait()
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        await asyncio.sleep(0)  # for what is done at their end

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on, until either side ends; what goes wrong is told to the client by the end of its connection."""
        try:
            exec_id = await self._loop.run_in_executor(self._asks, self._create)
            stream = await attach(self._engine, exec_id)
        except (RecoveryError, OSError) as error:
            log.error("The tunnel to %s does not open: %s", self._container.name, error)
            return
        ways = [asyncio.ensure_future(_up(reader, stream)), asyncio.ensure_future(self._down(stream, writer))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            for outcome in await asyncio.gather(*ways, return_exceptions=True):
                if isinstance(outcome, Exception):
                    unforeseen = None if isinstance(outcome, (RecoveryError, OSError)) else outcome
                    log.warning("A connection through the tunnel to %s ended: %s", self._container.name, outcome, exc_info=unforeseen)
            await stream.close()

    def _create(self) -> str:
        return create(self._engine, self._container.id, self._relay.argv, stdin=True)

    async def _down(self, stream: Stream, writer: asyncio.StreamWriter) -> None:
        left = _WORDS_LOGGED
        async for number, piece in stream.pieces():
            if number != STDERR:
                writer.write(piece)
                await writer.drain()
            elif left:
                words, left = piece[:left], max(0, left - len(piece))
                log.warning("%s in %s: %s", self._relay.name, self._container.name, escaped(words.decode("utf-8", "replace").strip()))


async def _up(reader: asyncio.StreamReader, stream: Stream) -> None:
    while piece := await reader.read(BUFFER):
        stream.writer.write(piece)
        await stream.writer.drain()
