"""What the edge says when it refuses: ngrok's error numbers, with messages shaped like its own.

Numbers and meanings: https://ngrok.com/docs/errors/. The messages of 105 and 107 repeat the token, as ngrok's do:
that is what a log must not show.
"""

from __future__ import annotations

import re

TOKEN_SHAPE = re.compile(r"[0-9A-Za-z]{10,}_[0-9A-Za-z]{10,}")


def _end(text: str, number: int) -> str:
    return f"{text}\r\n\r\nERR_NGROK_{number}\r\n"


def auth_error(token: str, wanted: str, sessions: int, sessions_max: int) -> str:
    """Decide what an agent that presents `token` is told; empty when it is let in."""
    if not token:
        return refuse("4018", token, "")
    if not TOKEN_SHAPE.fullmatch(token):
        return refuse("105", token, "")
    if token != wanted:
        return refuse("107", token, "")
    if sessions >= sessions_max:
        return refuse("108", token, "")
    return ""


def refuse(number: str, token: str, url: str) -> str:
    """Return the message of error `number` about `token` or `url`. Raises KeyError for a number not known here."""
    return {
        "105": _end(
            "The authtoken you specified does not look like a proper ngrok tunnel authtoken.\r\n"
            f"Your authtoken: {token}",
            105,
        ),
        "107": _end(
            "The authtoken you specified is properly formed, but it is invalid.\r\n"
            f"Your authtoken: {token}\r\n"
            "This usually happens when:\r\n    - You reset your authtoken",
            107,
        ),
        "108": _end("Your account is limited to 3 simultaneous ngrok agent sessions.", 108),
        "320": _end(f"The domain of '{url}' is reserved for another account.", 320),
        "334": _end(f"The endpoint '{url}' is already online.", 334),
        "4018": _end("Usage of ngrok requires a verified account and authtoken.", 4018),
    }[number]
