"""The multiplexer that ngrok's agent speaks: several byte streams over one TLS connection.

The format is that of the public muxado library (github.com/inconshreveable/muxado, package frame): each frame is a
24-bit length, a 4-bit type, 4 bits of flags, a 31-bit stream number and a body. Each stream begins with a 32-bit type.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Awaitable, Callable

RST, DATA, WINDOW, GOAWAY = range(4)
FIN, SYN = 1, 2
WINDOW_BYTES = 256 * 1024  # what the agent grants to a new stream (muxado's default of the agent's time)
FRAME_BYTES = 16 * 1024
STREAM_MASK = 0x7FFFFFFF
SILENCE_SECONDS = 30.0  # the agent beats every 10 s and gives up after 15 s more: silence for longer is a dead peer


def pack_frame(kind: int, flags: int, stream: int, body: bytes = b"") -> bytes:
    """Build one frame of type `kind` for `stream`."""
    return len(body).to_bytes(3, "big") + bytes([kind << 4 | flags]) + stream.to_bytes(4, "big") + body


def unpack_header(header: bytes) -> tuple[int, int, int, int]:
    """Take the eight bytes of a frame's header apart: length of the body, type, flags, stream number."""
    return (
        int.from_bytes(header[:3], "big"),
        header[3] >> 4,
        header[3] & 0x0F,
        int.from_bytes(header[4:], "big") & STREAM_MASK,
    )


class Stream:
    """One byte stream of a session. Closing it ends our half; the peer's half ends with the end of its data."""

    def __init__(self, session: Session, number: int) -> None:
        self.number = number
        self.reader = asyncio.StreamReader(limit=16 * 1024 * 1024)
        self._session = session
        self._credit = WINDOW_BYTES
        self._credited = asyncio.Event()
        self._broken = False

    async def write(self, data: bytes) -> None:
        """Send `data`, waiting for the peer's window. Raises ConnectionError once the stream or session is dead."""
        while data:
            if self._broken:
                raise ConnectionResetError("the agent closed the stream")
            if self._credit == 0:
                self._credited.clear()
                await self._credited.wait()
                continue
            part = data[: min(self._credit, FRAME_BYTES)]
            data = data[len(part) :]
            self._credit -= len(part)
            await self._session.send(pack_frame(DATA, 0, self.number, part))

    async def close(self) -> None:
        """End our half of the stream. A session that is dead already is no error."""
        if not self._broken:
            with contextlib.suppress(ConnectionError):
                await self._session.send(pack_frame(DATA, FIN, self.number))

    def grant(self, size: int) -> None:
        """The peer has room for `size` more bytes."""
        self._credit += size
        self._credited.set()

    def end(self) -> None:
        """Neither half will carry anything more."""
        self._broken = True
        self._credited.set()
        self.reader.feed_eof()


class Session:
    """The edge's side of a session with one agent: numbers even streams, accepts the agent's odd ones."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        accept: Callable[[Stream], Awaitable[None]],
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._accept = accept
        self._streams: dict[int, Stream] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._last = 0

    async def send(self, frame: bytes) -> None:
        """Write one frame. Raises ConnectionError when the agent is gone."""
        self._writer.write(frame)
        await self._writer.drain()

    async def open(self, kind: int) -> Stream:
        """Open a stream of type `kind` towards the agent."""
        self._last += 2
        stream = self._streams[self._last] = Stream(self, self._last)
        await self.send(pack_frame(DATA, SYN, stream.number))
        await stream.write(struct.pack(">I", kind))
        return stream

    async def run(self) -> None:
        """Handle frames until the agent leaves, falls silent or `abort` is called."""
        try:
            while True:
                header = await asyncio.wait_for(self._reader.readexactly(8), SILENCE_SECONDS)
                length, kind, flags, number = unpack_header(header)
                body = await self._reader.readexactly(length)
                if kind == GOAWAY:
                    return
                await self._handle(kind, flags, number, body)
        except (OSError, asyncio.IncompleteReadError, TimeoutError, asyncio.TimeoutError):
            return
        finally:
            self.abort()
            for stream in self._streams.values():
                stream.end()
            for task in self._tasks:
                task.cancel()

    def abort(self) -> None:
        """Cut the connection at once, as a crashed edge or a broken network does."""
        self._writer.transport.abort()

    async def _handle(self, kind: int, flags: int, number: int, body: bytes) -> None:
        if kind == DATA and flags & SYN:
            stream = self._streams[number] = Stream(self, number)
            task = asyncio.ensure_future(self._serve(stream))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        known = self._streams.get(number)
        if known is None:
            return
        if kind == DATA:
            if body:
                known.reader.feed_data(body)
                # The window is given back at once: the edge has the memory, and the client at its other side is local.
                await self.send(pack_frame(WINDOW, 0, number, struct.pack(">I", len(body))))
            if flags & FIN:
                known.reader.feed_eof()
        elif kind == WINDOW:
            known.grant(int.from_bytes(body, "big"))
        elif kind == RST:
            known.end()
            del self._streams[number]

    async def _serve(self, stream: Stream) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await self._accept(stream)
