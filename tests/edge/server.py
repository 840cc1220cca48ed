"""The edge: agents on a TLS port, visitors on a plain HTTP port, and a control port for the test."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import ssl
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from . import certificates, refusals
from .muxado import Session, Stream

AUTH, BIND, UNBIND, PROXY, SERVER_INFO, HEARTBEAT = 0, 1, 2, 3, 8, 0xFFFFFFFF
HEAD_SECONDS = 10.0
# How the agent begins its own page when the app refuses the connection, and what the page says.
AGENT_PAGE = b"HTTP/1.1 502 Bad Gateway"
AGENT_WORDS = b"Failed to complete tunnel connection"


@dataclass
class Settings:
    """What the edge accepts. Ports of 0 are chosen by the kernel."""

    directory: Path
    token: str
    domains: list[str]
    bind_address: str = "127.0.0.1"
    names: list[str] = field(default_factory=lambda: ["localhost", "127.0.0.1"])
    agent_port: int = 0
    public_port: int = 0
    control_port: int = 0
    sessions_max: int = 3


@dataclass
class Agent:
    """One agent that has been let in, and the endpoints it serves: bind id to host name."""

    session: Session
    binds: dict[str, str] = field(default_factory=dict)


@dataclass
class Record:
    """What has happened so far; the control port shows it."""

    connections: int = 0
    auths: list[str] = field(default_factory=list)  # one entry for each: "ok" or the error's number
    binds: list[str] = field(default_factory=list)
    requests: int = 0


class Edge:
    """An edge that runs in the current event loop between `start` and `stop`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.record = Record()
        self.ports: dict[str, int] = {}
        self.agents: dict[str, Agent] = {}
        self._refuse = {"auth": "", "bind": ""}
        self._servers: dict[str, asyncio.Server] = {}
        self._connected: set[Session] = set()

    async def start(self) -> None:
        """Make the certificates and open the three ports. Raises OSError when one is taken."""
        self.ca_file, _ = certificates.make(self.settings.directory, self.settings.names)
        await self._open_agent_port()
        for name, port, handler, address in (
            ("public", self.settings.public_port, self._visitor, self.settings.bind_address),
            ("control", self.settings.control_port, self._control, "127.0.0.1"),
        ):
            self._servers[name] = await asyncio.start_server(handler, address, port)
            self.ports[name] = self._servers[name].sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close the ports and cut all sessions."""
        for server in self._servers.values():
            server.close()
        self._servers.clear()
        self.drop()

    def drop(self) -> None:
        """Cut every session without a word, as a crash of the edge would."""
        for session in list(self._connected):
            session.abort()

    async def _open_agent_port(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.settings.directory / "edge.pem")
        port = self.ports.get("agent", self.settings.agent_port)
        server = await asyncio.start_server(self._agent, self.settings.bind_address, port, ssl=context)
        self._servers["agent"] = server
        self.ports["agent"] = server.sockets[0].getsockname()[1]

    # --- agents ---

    async def _agent(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.record.connections += 1
        client = secrets.token_hex(16)

        async def accept(stream: Stream) -> None:
            kind = struct.unpack(">I", await stream.reader.readexactly(4))[0]
            if kind == HEARTBEAT:
                while True:
                    await stream.write(await stream.reader.readexactly(4))
            handlers = {AUTH: self._auth, BIND: self._bind, UNBIND: self._unbind, SERVER_INFO: self._server_info}
            answer = handlers[kind](client, session, await _read_json(stream.reader))
            await stream.write(json.dumps(answer).encode())
            await stream.close()

        session = Session(reader, writer, accept)
        self._connected.add(session)
        await session.run()
        self._connected.discard(session)
        self.agents.pop(client, None)

    def _auth(self, client: str, session: Session, request: dict[str, Any]) -> dict[str, Any]:
        token = request["Extra"].get("Authtoken") or ""
        if self._refuse["auth"]:
            error = refusals.refuse(self._refuse["auth"], token, "")
        else:
            error = refusals.auth_error(token, self.settings.token, len(self.agents), self.settings.sessions_max)
        self.record.auths.append(_number(error))
        if not error:
            self.agents[client] = Agent(session)
        extra = {"Version": "test-edge", "Region": "us", "AccountName": "Test", "PlanName": "Free", "Cookie": ""}
        return {"Version": "2", "ClientId": "" if error else client, "Error": error, "Extra": extra}

    def _bind(self, client: str, _session: Session, request: dict[str, Any]) -> dict[str, Any]:
        options = request.get("Opts") or {}
        host = options.get("Hostname") or ""
        url = f"{request['Proto']}://{host}"
        error = ""
        if client not in self.agents:
            error = refusals.refuse("4018", "", url)
        elif self._refuse["bind"]:
            error = refusals.refuse(self._refuse["bind"], "", url)
        elif host not in self.settings.domains:
            error = refusals.refuse("320", "", url)
        elif self._find(host) is not None:
            error = refusals.refuse("334", "", url)
        self.record.binds.append(_number(error))
        number = request.get("Id") or secrets.token_hex(16)
        if not error:
            self.agents[client].binds[number] = host
        answer = {"Id": number, "URL": url, "Proto": request["Proto"], "Opts": options, "Error": error}
        return {**answer, "Extra": {"Token": ""}}

    def _unbind(self, client: str, _session: Session, request: dict[str, Any]) -> dict[str, Any]:
        binds = self.agents[client].binds if client in self.agents else {}
        known = binds.pop(request.get("Id", ""), "")
        return {"Error": "" if known else "no such endpoint", "Extra": None}

    def _server_info(self, _client: str, _session: Session, _request: dict[str, Any]) -> dict[str, Any]:
        return {"Region": "us"}

    def _find(self, host: str) -> tuple[Session, str] | None:
        for agent in self.agents.values():
            for number, bound in agent.binds.items():
                if bound == host:
                    return agent.session, number
        return None

    # --- visitors ---

    async def _visitor(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError, asyncio.TimeoutError):
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), HEAD_SECONDS)
            self.record.requests += 1
            host = _header(head, "host").partition(":")[0].lower()
            found = self._find(host)
            if found is None:
                _error(writer, "404 Not Found", 3200, f"The endpoint {host} is offline.")
            else:
                await self._proxy(*found, head, reader, writer)
        with contextlib.suppress(OSError):
            await writer.drain()
        writer.close()

    async def _proxy(
        self,
        session: Session,
        bind: str,
        head: bytes,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        address = "{}:{}".format(*writer.get_extra_info("peername")[:2])
        header = json.dumps({"Id": bind, "ClientAddr": address, "Proto": "https"}).encode()
        first, _, rest = head.partition(b"\r\n")
        forwarded = f"X-Forwarded-For: {address.rpartition(':')[0]}\r\nX-Forwarded-Proto: https\r\n".encode()
        upload = None
        try:
            stream = await session.open(PROXY)
            await stream.write(struct.pack("<q", len(header)) + header)
            await stream.write(first + b"\r\n" + forwarded + rest)
            upload = asyncio.ensure_future(_upload(reader, stream))
            answer = await stream.reader.read(65536)
            if not answer.startswith(b"HTTP/"):
                came = f"{len(answer)} bytes: {answer[:40]!r}" if answer else "the stream ended"
                _error(writer, "502 Bad Gateway", 3004, f"The upstream gave an invalid or incomplete answer; {came}.")
                return
            if answer.startswith(AGENT_PAGE):
                answer = await _name_agent_error(answer, stream)
            while answer:
                writer.write(answer)
                await writer.drain()
                answer = await stream.reader.read(65536)
        except ConnectionError:
            _error(writer, "502 Bad Gateway", 3004, "The agent went away during the request.")
        finally:
            if upload is not None:
                upload.cancel()

    # --- control ---

    async def _control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError, asyncio.TimeoutError):
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), HEAD_SECONDS)
            length = int(_header(head, "content-length") or 0)
            body = await asyncio.wait_for(reader.readexactly(length), HEAD_SECONDS)
            try:
                method, path = head.split(b" ", 2)[:2]
                await self._command(method.decode(), urlsplit(path.decode()).path, json.loads(body or b"{}"))
            except (KeyError, ValueError) as error:
                _answer(writer, "400 Bad Request", {"error": str(error)})
            else:
                _answer(writer, "200 OK", self.state())
            await writer.drain()
        writer.close()

    async def _command(self, method: str, path: str, body: dict[str, str]) -> None:
        if (method, path) == ("GET", "/state"):
            return
        if (method, path) == ("POST", "/refuse"):
            for kind, number in body.items():
                if kind not in self._refuse:
                    raise KeyError(kind)
                if number:
                    refusals.refuse(number, "", "")
                self._refuse[kind] = number
        elif (method, path) == ("POST", "/drop"):
            self.drop()
        elif (method, path) == ("POST", "/offline"):
            if "agent" in self._servers:
                self._servers.pop("agent").close()
            self.drop()
        elif (method, path) == ("POST", "/online"):
            if "agent" not in self._servers:
                await self._open_agent_port()
        else:
            raise ValueError(f"no such command: {method} {path}")

    def state(self) -> dict[str, Any]:
        """What is online now and what has happened since the start, for the control port."""
        online = sorted(host for agent in self.agents.values() for host in agent.binds.values())
        return {"ports": self.ports, "sessions": len(self.agents), "online": online, **vars(self.record)}


def _number(error: str) -> str:
    return error.rsplit("ERR_NGROK_", 1)[1].strip() if error else "ok"


def _header(head: bytes, name: str) -> str:
    for line in head.decode("latin-1").split("\r\n")[1:]:
        key, _, value = line.partition(":")
        if key.strip().lower() == name:
            return value.strip()
    return ""


def _answer(writer: asyncio.StreamWriter, status: str, body: dict[str, Any]) -> None:
    data = json.dumps(body).encode() + b"\n"
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n"
    writer.write(head.encode() + b"Connection: close\r\n\r\n" + data)


def _error(writer: asyncio.StreamWriter, status: str, number: int, text: str) -> None:
    data = f"{text}\nERR_NGROK_{number}\n".encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(data)}\r\n"
    head += f"ngrok-error-code: ERR_NGROK_{number}\r\nConnection: close\r\n\r\n"
    writer.write(head.encode() + data)


async def _read_json(reader: asyncio.StreamReader) -> dict[str, Any]:
    """Read one JSON object; the agent keeps the stream open behind it, so its end is where it parses."""
    text = b""
    while True:
        part = await reader.read(65536)
        text += part
        try:
            return json.loads(text)
        except ValueError:
            if not part:
                raise ConnectionResetError("the agent sent half a request") from None


async def _name_agent_error(answer: bytes, stream: Stream) -> bytes:
    """Put ERR_NGROK_8012 into the header of the agent's own page: ngrok's edge does, its old agent does not."""
    while b"\r\n\r\n" not in answer and (more := await stream.reader.read(65536)):
        answer += more
    head, _, body = answer.partition(b"\r\n\r\n")
    length = int(_header(head, "content-length") or 0)
    while len(body) < length and (more := await stream.reader.read(65536)):
        body += more
    if AGENT_WORDS in body:
        head += b"\r\nngrok-error-code: ERR_NGROK_8012"
    return head + b"\r\n\r\n" + body


async def _upload(reader: asyncio.StreamReader, stream: Stream) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            await stream.write(data)
        await stream.close()
