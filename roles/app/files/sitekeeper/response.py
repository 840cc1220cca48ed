"""An answer whose head goes out together with the first of its body.

Gunicorn sends them one after the other. A worker that is killed in between leaves half an answer, which a proxy has
passed on already and so cannot ask for again. Sent at once, an answer is there whole or not at all: on a Unix socket
the kernel takes half of the send buffer in one piece (104 KiB as Linux comes), and keeps it when the sender dies.
"""

from __future__ import annotations

from typing import Any

from gunicorn.http import wsgi

#: What is longer is not in one piece for the kernel either: it is neither copied here, nor is a file read.
ONE_PIECE = 96 * 1024


class _Gathered(bytearray):
    """Stands in for the connection while one write puts together what it sends."""

    sendall = bytearray.extend


class WholeResponse(wsgi.Response):
    """Gunicorn's answer, with its head and the first of its body in one piece."""

    sock: Any
    headers_sent: bool

    def write(self, arg: bytes) -> None:
        """Send a part of the body, and with the first one the head.

        Raises:
            TypeError: it is no bytes. Nothing was sent then, and an error can still be answered.
        """
        if self.headers_sent or (isinstance(arg, bytes) and len(arg) > ONE_PIECE):
            super().write(arg)
            return
        connection, self.sock = self.sock, _Gathered()
        try:
            super().write(arg)
        except BaseException:
            self.headers_sent = False
            raise
        finally:
            gathered, self.sock = self.sock, connection
        self.sock.sendall(gathered)

    def write_file(self, respiter: Any) -> None:
        """Send a file; one that is small and says how long it is in one piece, too."""
        if self.response_length is not None and self.response_length <= ONE_PIECE and not self.headers_sent:
            left = self.response_length
            while part := respiter.filelike.read(left):
                self.write(part)
                left -= len(part)
            return
        super().write_file(respiter)


def answer_whole() -> None:
    """Let Gunicorn answer with it: `wsgi.create` takes what has this name in its module, and there is no setting."""
    wsgi.Response = WholeResponse
