"""What the settings of the front must be to one another and to the app's."""

from __future__ import annotations

from collections.abc import Mapping

from plugins.module_utils.site_forms import as_whole


def front_faults(values: Mapping[str, object]) -> list[tuple[str, str]]:
    """Return (setting, what is wrong with it) of settings that are sound one by one.

    Args:
        values: the settings by name; what is not there is not looked at.
    """
    front, found = values.get("front"), []
    if front is None:
        return []
    enabled = values.get("front_enabled")
    if enabled is not None and enabled is not (front == "haproxy"):
        fault = f"is {str(enabled).lower()}, but front is {front}: remove the line, it follows front"
        found.append(("front_enabled", fault))
    if front != "haproxy":
        return found
    listen, upstream = values.get("service_listen"), values.get("front_upstream")
    if listen == "":
        found.append(("service_listen", "is empty, but front is haproxy: both would want the port; remove the line"))
    elif listen is not None and upstream is not None and listen != upstream:
        fault = f"is {upstream}, but the app listens on {listen} (service_listen): must be the same"
        found.append(("front_upstream", fault))
    port, public = values.get("front_port"), values.get("app_port")
    if port is not None and public is not None and str(port) != str(public):
        # The monitor, the tunnel and the look at the host before a run all go by app_port.
        found.append(("front_port", f"is {port}, but app_port is {public}: set app_port alone, it is the public one"))
    patience = as_whole(values.get("front_server_timeout_seconds"))
    limit = as_whole(values.get("app_request_limit_seconds"))
    if patience is not None and limit is not None and patience < limit:
        fault = f"is {patience}: must be at least app_request_limit_seconds ({limit}), or slow requests are cut off"
        found.append(("front_server_timeout_seconds", fault))
    return found
