"""Who the user of an app may not be, as far as it can be told before a connection is opened."""

from __future__ import annotations


def user_faults(user: object, connecting: object) -> list[tuple[str, str]]:
    """Return (setting, what is wrong with it) of the user of the app.

    The role host takes the shell and the home from its user. For the one who is logged in, that ends the run with a
    message of usermod when packages were installed already.

    Args:
        user: the site's app_user.
        connecting: whom the run logs in as; None where only ssh knows.
    """
    if user is None or user != connecting:
        return []
    fault = f"is {user}, who logs in here for this run (ansible_user) and would lose shell and home"
    return [("app_user", f"{fault}: must be a user that nobody logs in with, for example {str(user)[:27]}-app")]
