"""Renders the role's templates with a token and a domain."""

from __future__ import annotations

from typing import Any

from tests.unit import rendering

ROLE = rendering.ROLES / "ngrok"
TOKEN = "2testtokenTESTTOKENtesttoken_3testtokenTESTTOKEN"
DOMAIN = "site.example.com"


def render(template: str, **settings: Any) -> str:
    """Render a template of the role with its defaults, a token and a domain, changed by `settings`."""
    return rendering.render("ngrok", template, **{"ngrok_authtoken": TOKEN, "ngrok_domain": DOMAIN, **settings})
