"""Run the edge: `python -m tests.edge --directory DIR --token TOKEN --domain NAME`; it prints its ports as JSON."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
from pathlib import Path

from .server import Edge, Settings


def parse(argv: list[str] | None = None) -> Settings:
    """Read the command line. The token may come from the environment variable EDGE_TOKEN instead."""
    parser = argparse.ArgumentParser(prog="python -m tests.edge", description=__doc__)
    parser.add_argument("--directory", type=Path, required=True, help="for ca.pem, edge.pem and ports.json")
    parser.add_argument("--token", default=os.environ.get("EDGE_TOKEN", ""), help="the only token let in")
    parser.add_argument("--domain", action="append", required=True, help="a domain of the account; repeatable")
    parser.add_argument("--name", action="append", help="name or address agents use for the edge; repeatable")
    parser.add_argument("--bind-address", default="127.0.0.1")
    for port in ("agent", "public", "control"):
        parser.add_argument(f"--{port}-port", type=int, default=0, help="0: any free port")
    given = parser.parse_args(argv)
    settings = Settings(given.directory, given.token, given.domain, given.bind_address)
    settings.names = given.name or settings.names
    settings.agent_port, settings.public_port = given.agent_port, given.public_port
    settings.control_port = given.control_port
    return settings


async def serve(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT. `ports.json` appears, complete, once the edge answers."""
    edge = Edge(settings)
    done = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, done.set)
    await edge.start()
    text = json.dumps({**edge.ports, "pid": os.getpid()})
    partial = settings.directory / "ports.json.new"
    partial.write_text(text + "\n")
    partial.replace(settings.directory / "ports.json")
    print(text, flush=True)
    await done.wait()
    await edge.stop()


if __name__ == "__main__":
    asyncio.run(serve(parse()))
