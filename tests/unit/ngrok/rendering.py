"""Renders the role's templates as Ansible does, without a host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

ROLE = Path(__file__).resolve().parents[3] / "roles" / "ngrok"
TOKEN = "2testtokenTESTTOKENtesttoken_3testtokenTESTTOKEN"
DOMAIN = "site.example.com"


def _trusted(value: Any) -> Any:
    """Mark every string in `value` as a template, as Ansible does for what it reads from a role."""
    if isinstance(value, str):
        return trust_as_template(value)
    if isinstance(value, dict):
        return {key: _trusted(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_trusted(item) for item in value]
    return value


def render(template: str, **settings: Any) -> str:
    """Render a template of the role with its defaults, a token and a domain, changed by `settings`."""
    variables: dict[str, Any] = {"ansible_managed": "Ansible managed"}
    for part in ("defaults", "vars"):
        variables |= _trusted(yaml.safe_load((ROLE / part / "main.yml").read_text(encoding="utf-8")))
    variables |= {"ngrok_authtoken": TOKEN, "ngrok_domain": DOMAIN, **settings}
    source = (ROLE / "templates" / template).read_text(encoding="utf-8")
    return Templar(loader=DataLoader(), variables=variables).template(trust_as_template(source))
