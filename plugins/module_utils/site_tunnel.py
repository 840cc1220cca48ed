"""What the settings of the tunnel must be to one another."""

from __future__ import annotations

from collections.abc import Mapping

from plugins.module_utils.site_forms import as_whole


def tunnel_faults(values: Mapping[str, object]) -> list[tuple[str, str]]:
    """Return (setting, what is wrong with it) of settings that are sound one by one.

    The role ngrok asks the same, but only when the site has been deployed.

    Args:
        values: the settings by name; what is not there is not looked at.
    """
    token, domain, found = values.get("ngrok_authtoken"), values.get("ngrok_domain"), []
    if token == "":
        if domain:
            fault = "is empty but ngrok_domain is set (is the vault loaded?): set both or none"
            found.append(("ngrok_authtoken", fault))
        # There is no tunnel, whatever else is set.
        return found
    if token and domain == "":
        wanted = "must be the domain of your account, for example currents.ngrok-free.app"
        found.append(("ngrok_domain", f"is empty but ngrok_authtoken is set: {wanted}"))
    version = as_whole(values.get("ngrok_config_version"))
    if version is not None and version != 3:
        fault = f"is set but ngrok_config_version is {version}: must be 3, which is the default, or remove this line"
        found += [(name, fault) for name in ("ngrok_traffic_policy", "ngrok_pooling_enabled") if values.get(name)]
    if values.get("ngrok_install_method") == "file":
        fault = "is empty but ngrok_install_method is file: must be"
        if values.get("ngrok_agent_file") == "":
            wanted = "the agent's program on this machine, for example /home/me/ngrok"
            found.append(("ngrok_agent_file", f"{fault} {wanted}"))
        if values.get("ngrok_agent_checksum") == "":
            wanted = 'its SHA-256 checksum (sha256sum FILE), for example "9f86d0..."'
            found.append(("ngrok_agent_checksum", f"{fault} {wanted}"))
    return found
