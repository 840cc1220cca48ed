"""Who the user of a service may not be, as far as it can be told before a connection is opened."""

from __future__ import annotations

from collections.abc import Mapping


def user_faults(users: Mapping[str, object], connecting: object) -> list[tuple[str, str]]:
    """Return (setting, what is wrong with it) of the users of services.

    The roles take the shell and the home from theirs. For the one who is logged in, that ends the run with a message
    of usermod when packages were installed already.

    Args:
        users: setting -> the user that it names; "app_user", and "ngrok_user" where there is a tunnel.
        connecting: whom the run logs in as; None where only ssh knows.
    """
    found = []
    for setting, user in users.items():
        if user == connecting:
            fault = f"is {user}, who logs in here for this run (ansible_user) and would lose shell and home"
            example = f"{str(user)[:25]}-{setting.partition('_')[0]}"
            found.append((setting, f"{fault}: must be a user that nobody logs in with, for example {example}"))
    if "ngrok_user" in users and users["ngrok_user"] == users.get("app_user"):
        fault = f"is {users['ngrok_user']} like app_user, and the app could read the token of the tunnel"
        found.append(("ngrok_user", f"{fault}: must be a user of its own, for example ngrok"))
    return found
