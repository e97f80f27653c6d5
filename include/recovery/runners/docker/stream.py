"""A command in a container, and its streams, as the Engine sends them: without a TTY, which would change bytes.

The client library reads such a stream beside the buffer that it has read the answer's head into, so what came with the head can be
lost. So the request is made here, and each frame is read exactly.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from recovery.common.errors import ContainerError
from recovery.common.wording import escaped
from recovery.runners.docker.address import EngineAddress
from recovery.runners.docker.engine import ASK_THE_PROXY, Engine

BUFFER = 1 << 18
"""Bytes that are held of a stream, each way."""
STDERR = 2
_HEADER = 8
_SWITCHED = {101, 200}
_FORBIDDEN = 403
_GONE = {404, 409}
"""The container has ended or is paused by now."""
_ANSWERS_WITHIN = 60.0
_ENDS_WITHIN = 10.0
_FLUSHED_WITHIN = 5.0
_PRINTS_AT_MOST = 1 << 23
"""Bytes of a short command: its program is the image's, which may be anybody's."""
_KEEPALIVE = {socket.TCP_KEEPIDLE: 30, socket.TCP_KEEPINTVL: 10, socket.TCP_KEEPCNT: 6}


class NotStarted(ContainerError):
    """The Engine does not start a command: the image may not have it."""


@dataclass(frozen=True)
class Stream:
    """What a command reads and prints."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def pieces(self) -> AsyncIterator[tuple[int, bytes]]:
        """What it prints, piece by piece: the number of the stream, 1 or 2, and bytes.

        Raises:
            ContainerError: if the stream is cut within a frame, or is none.
        """
        while header := await self._header():
            number, size = header[0], int.from_bytes(header[4:])
            if number > STDERR or any(header[1:4]):
                raise ContainerError("The stream from the Engine has no frames.", "Look what answers in the Engine's place.")
            while size:
                piece = await self.reader.read(min(size, BUFFER))
                if not piece:
                    raise _cut()
                size -= len(piece)
                yield number, piece

    async def _header(self) -> bytes:
        """The next one; empty at the end."""
        try:
            return await self.reader.readexactly(_HEADER)
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise _cut() from None
            return b""

    async def close(self) -> None:
        """Close it. The command then reads the end of its input; one that reads nothing does not hold this up."""
        self.writer.close()
        flushed = asyncio.ensure_future(self.writer.wait_closed())
        try:
            await asyncio.wait([flushed], timeout=_FLUSHED_WITHIN)
        finally:
            if not flushed.done():
                self.writer.transport.abort()
        with suppress(OSError):
            await flushed


def _cut() -> ContainerError:
    return ContainerError("The stream from the Engine was cut.", "Look whether the container and the Engine run.", retryable=True)


async def attach(engine: Engine, exec_id: str) -> Stream:
    """Start a command that the Engine has been told of.

    Raises:
        NotStarted: if the Engine can't start it.
        ContainerError: if the Engine refuses, or does not answer in time.
        OSError: if it can't be reached.
    """
    try:
        async with asyncio.timeout(_ANSWERS_WITHIN):
            stream = Stream(*await _connect(engine.address))
            try:
                await _start(stream, f"/v{engine.client.api_version}/exec/{exec_id}/start")
            except BaseException:
                await stream.close()
                raise
            return stream
    except TimeoutError:
        raise ContainerError(
            f"The Engine does not answer within {_ANSWERS_WITHIN:.0f} s.", "Look whether it runs.", retryable=True
        ) from None


async def _start(stream: Stream, path: str) -> None:
    body = json.dumps({"Detach": False, "Tty": False}).encode()
    head = [
        f"POST {path} HTTP/1.1",
        "Host: docker",
        "Connection: Upgrade",
        "Upgrade: tcp",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    ]
    stream.writer.write("\r\n".join([*head, "", ""]).encode() + body)
    await stream.writer.drain()
    try:
        answer = (await stream.reader.readuntil(b"\r\n\r\n")).decode("latin1").split("\r\n")[0]
        status = int(answer.split()[1])
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, IndexError, ValueError) as error:
        raise ContainerError(
            f"The Engine's answer is none: {error}.", "Look what answers in the Engine's place.", retryable=True
        ) from error
    if status not in _SWITCHED:
        said = escaped((await stream.reader.read(BUFFER)).decode("utf-8", "replace").strip())
        kind = ContainerError if status in {_FORBIDDEN, *_GONE} else NotStarted
        next_step = ASK_THE_PROXY if status == _FORBIDDEN else "Read what it said."
        raise kind(f"The Engine does not start a command in the container: {answer}: {said}.", next_step, retryable=status in _GONE)


async def _connect(address: EngineAddress) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if address.socket:
        return await asyncio.open_unix_connection(str(address.socket), limit=BUFFER)
    context = None
    if address.ca and address.certificate:
        context = ssl.create_default_context(cafile=str(address.ca))
        context.load_cert_chain(str(address.certificate), str(address.key))
    reader, writer = await asyncio.open_connection(address.host, address.port, ssl=context, limit=BUFFER)
    connected: socket.socket = writer.get_extra_info("socket")
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # who waits for rows would never learn that the Engine is gone
    for option, value in _KEEPALIVE.items():
        connected.setsockopt(socket.IPPROTO_TCP, option, value)
    return reader, writer


def create(
    engine: Engine, container_id: str, argv: Sequence[str], *, stdin: bool = False, environment: Mapping[str, str] | None = None
) -> str:
    """Tell the Engine of a command to run in a container; its id.

    Args:
        engine: whose container it is.
        container_id: the container's id, and not its name, which may be another one's by now.
        argv: the command. Never a secret: whoever may ask the Engine sees it.
        stdin: the command reads its stream.
        environment: added to the container's. Nobody who asks the Engine sees it.

    Raises:
        ContainerError: if the Engine refuses.
    """
    with engine.errors("Running a command in a container"):
        made = engine.client.exec_create(container_id, list(argv), stdin=stdin, tty=False, environment=dict(environment or {}))
        return str(made["Id"])


def run(engine: Engine, container_id: str, argv: Sequence[str]) -> tuple[int, bytes]:
    """Run a short command in a container: its exit status, and what it printed.

    Raises:
        NotStarted: if the Engine can't start it.
        ContainerError: if the Engine refuses; if the command does not end, or prints more than such a command does; or as
            :meth:`Stream.pieces`.
    """
    exec_id = create(engine, container_id, argv)

    async def output() -> bytes:
        printed = bytearray()
        stream = await attach(engine, exec_id)
        try:
            async for number, piece in stream.pieces():
                printed += piece if number != STDERR else b""
                if len(printed) > _PRINTS_AT_MOST:
                    raise ContainerError(f"{argv[0]} in the container prints without end.", "Look at the program in its image.")
        finally:
            await stream.close()
        return bytes(printed)

    async def to_its_end() -> tuple[int, bytes]:
        printed = await output()
        while (found := engine.client.exec_inspect(exec_id))["Running"]:
            await asyncio.sleep(0.02)
        return int(found["ExitCode"]), printed

    with engine.errors("Running a command in a container"):
        try:
            return asyncio.run(asyncio.wait_for(to_its_end(), _ENDS_WITHIN))
        except TimeoutError:
            raise ContainerError(
                f"{argv[0]} in the container did not end within {_ENDS_WITHIN:.0f} s.",
                "Look whether the machine of the container is overloaded, and at the program in its image.",
                retryable=True,
            ) from None
