"""A command in a container, and its streams, as the Engine sends them: without a TTY, which would change bytes.

The client library reads such a stream beside the buffer that it has read the answer's head into, so what came with the head can be
lost. So the request is made here, and each frame is read exactly.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from recovery.common.errors import ContainerError
from recovery.runners.docker.address import EngineAddress
from recovery.runners.docker.engine import Engine

BUFFER = 1 << 18
"""Bytes that are held of a stream, each way."""
STDERR = 2
_HEADER = 8
_SWITCHED = {101, 200}
_ENDS_WITHIN = 10.0


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
        """Close it. The command then reads the end of its input."""
        self.writer.close()
        with suppress(OSError):
            await self.writer.wait_closed()


def _cut() -> ContainerError:
    return ContainerError("The stream from the Engine was cut.", "Look whether the container and the Engine run.", retryable=True)


async def attach(engine: Engine, exec_id: str) -> Stream:
    """Start a command that the Engine has been told of.

    Raises:
        ContainerError: if the Engine refuses.
        OSError: if it can't be reached.
    """
    reader, writer = await _connect(engine.address)
    body = json.dumps({"Detach": False, "Tty": False}).encode()
    head = [
        f"POST /v{engine.client.api_version}/exec/{exec_id}/start HTTP/1.1",
        "Host: docker",
        "Connection: Upgrade",
        "Upgrade: tcp",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    ]
    stream = Stream(reader, writer)
    try:
        writer.write("\r\n".join([*head, "", ""]).encode() + body)
        await writer.drain()
        answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin1").split("\r\n")
        if int(answer[0].split()[1]) not in _SWITCHED:
            said = (await reader.read(BUFFER)).decode("utf-8", "replace").strip()
            raise ContainerError(f"The Engine does not start a command in the container: {answer[0]}: {said}.", "Read what it said.")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, IndexError, ValueError) as error:
        await stream.close()
        raise ContainerError(
            f"The Engine's answer is none: {error}.", "Look what answers in the Engine's place.", retryable=True
        ) from error
    except BaseException:
        await stream.close()
        raise
    return stream


async def _connect(address: EngineAddress) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if address.socket:
        return await asyncio.open_unix_connection(str(address.socket), limit=BUFFER)
    context = None
    if address.ca and address.certificate:
        context = ssl.create_default_context(cafile=str(address.ca))
        context.load_cert_chain(str(address.certificate), str(address.key))
    return await asyncio.open_connection(address.host, address.port, ssl=context, limit=BUFFER)


def create(engine: Engine, container_id: str, argv: Sequence[str], *, stdin: bool = False) -> str:
    """Tell the Engine of a command to run in a container; its id.

    Args:
        engine: whose container it is.
        container_id: the container's id, and not its name, which may be another one's by now.
        argv: the command. Never a secret: whoever may ask the Engine sees it.
        stdin: the command reads its stream.

    Raises:
        ContainerError: if the Engine refuses.
    """
    with engine.errors("Running a command in a container"):
        return str(engine.client.exec_create(container_id, list(argv), stdin=stdin, tty=False)["Id"])


def run(engine: Engine, container_id: str, argv: Sequence[str]) -> tuple[int, bytes]:
    """Run a short command in a container: its exit status, and what it printed.

    Raises:
        ContainerError: if it can't be started, or does not end; or as :meth:`Stream.pieces`.
    """
    exec_id = create(engine, container_id, argv)

    async def output() -> bytes:
        stream = await attach(engine, exec_id)
        try:
            return b"".join([piece async for number, piece in stream.pieces() if number != STDERR])
        finally:
            await stream.close()

    async def to_its_end() -> tuple[int, bytes]:
        printed = await output()
        while (found := engine.client.exec_inspect(exec_id))["Running"]:
            await asyncio.sleep(0.02)
        return int(found["ExitCode"]), printed

    with engine.errors("Running a command in a container"):
        return asyncio.run(asyncio.wait_for(to_its_end(), _ENDS_WITHIN))
