"""Ask an app how it is: over its port or its Unix socket, straight, as nobody's visitor."""

from __future__ import annotations

import http.client
import socket
import urllib.error
import urllib.request

HEALTH_REQUEST_SECONDS = 5
#: Who asks for the health is no visitor: during a maintenance the app itself answers.
AGENT = "sitekeeper"


class UnixConnection(http.client.HTTPConnection):
    """HTTP over the Unix socket at a path."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        """Connect to the path in place of a host."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def healthy_over_unix(address: str) -> str:
    """Ask ``SOCKET:PATH`` once; return what `healthy` does. A redirect is no answer: there is nowhere to follow it."""
    path, _, target = address.partition(":")
    connection = UnixConnection(path, HEALTH_REQUEST_SECONDS)
    try:
        connection.request("GET", target, headers={"User-Agent": AGENT})
        status = connection.getresponse().status
    except (OSError, ValueError, http.client.HTTPException) as error:
        return f"no answer: {error}"
    finally:
        connection.close()
    return "" if 200 <= status < 300 else f"it answers {status}"


def healthy(url: str) -> str:
    """Ask the URL once; return an empty string for 2xx and the reason otherwise."""
    if url.startswith("unix:"):
        return healthy_over_unix(url.removeprefix("unix:"))
    # Straight to the app: a proxy of the host's environment does not lead back to it.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    direct.addheaders = [("User-Agent", AGENT)]
    try:
        with direct.open(url, timeout=HEALTH_REQUEST_SECONDS) as answer:
            answer.read(1)
            return ""
    except urllib.error.HTTPError as error:
        return f"it answers {error.code}"
    except (OSError, ValueError, http.client.HTTPException) as error:
        return f"no answer: {error}"
