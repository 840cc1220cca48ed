"""Bad settings, one mistake in each case, and what the operator must read of it; hosts that cannot be reached."""

from __future__ import annotations

from pathlib import Path

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
# Encrypted with a password that nobody gives.
VAULT_TEXT = """$ANSIBLE_VAULT;1.1;AES256
38656466626166643863353939336434363239353932306130613062323331386161393633353838
3466316237386462313838623130326166393363303431650a396161636430336166373966353934
39313833666238383065643134386531346332366637656264633231616237383034303539643962
6132356437343461330a393630383732613232356135636265303665353034313130303362616438
36333961353761633234396261346339643031316532643938313133303135386136
"""


class Encrypted(str):
    """Text that is written as `!vault`."""


yaml.SafeDumper.add_representer(Encrypted, lambda dumper, text: dumper.represent_scalar("!vault", str(text), style="|"))

TUNNEL = {"ngrok_authtoken": "a" * 40}
# name of the case -> (bad settings, what the message must say; a regular expression on one line)
CASES = {
    "port-text": ({"app_port": "abc"}, r'app_port +is "abc": must be a whole number from 1024 to 65535'),
    "port-large": ({"app_port": 70000}, r"app_port +is 70000: .* for example 5555"),
    "port-zero": ({"app_port": 0}, r"app_port +is 0:"),
    "port-negative": ({"app_port": -1}, r"app_port +is -1:"),
    "port-boolean": ({"app_port": True}, r"app_port +is true \(a boolean\)"),
    "port-decimal": ({"app_port": 5555.5}, r"app_port +is 5555\.5:"),
    "port-blank": ({"app_port": "5555 "}, r'app_port +is "5555 ":'),
    "port-hexadecimal": ({"app_port": "0x15B3"}, r'app_port +is "0x15B3":'),
    "port-privileged": ({"app_port": 80}, r"app_port +is 80:"),
    "port-reserved": ({"app_port": 4040}, r"app_port +is 4040: .*taken by ngrok"),
    "port-null": ({"app_port": None}, r"app_port +is null:"),
    "workers-zero": ({"app_workers": 0}, r"app_workers +is 0: must be a whole number from 1 to 64"),
    "workers-list": ({"app_workers": [2]}, r"app_workers +is a list of 1:"),
    "threads-many": ({"app_threads": 1000}, r"app_threads +is 1000:"),
    "timeout-zero": ({"app_timeout_seconds": 0}, r"app_timeout_seconds +is 0: .* of seconds from 5 to 300"),
    "graceful-long": (
        {"app_graceful_timeout_seconds": 60, "service_stop_timeout_seconds": 35},
        r"app_graceful_timeout_seconds +is 60: must be less than service_stop_timeout_seconds \(35\)",
    ),
    "memory-order": ({"service_memory_high": "2G"}, r"service_memory_high +is 2G, more than .*_max 1G"),
    "memory-word": ({"service_memory_max": "banana"}, r'service_memory_max +is "banana": must be a size'),
    "memory-fraction": ({"service_memory_max": "1.5GB"}, r'service_memory_max +is "1.5GB"'),
    "memory-small": ({"service_memory_max": "4M"}, r'service_memory_max +is "4M": .*at least 64M'),
    "memory-limits": ({"service_memory_limits": "none"}, r'limits +is "none": must be required or best_effort'),
    "memory-limits-boolean": ({"service_memory_limits": True}, r"service_memory_limits +is true \(a boolean\)"),
    "adopt-boolean": ({"adopt_confirm": True}, r"adopt_confirm +is true \(a boolean\): must be yes or no"),
    "adopt-place": (
        {"adopt_databases": {"/home/ubuntu/site.db": "../site.db"}},
        r"adopt_databases +is a mapping: must be paths of databases on the host, each with its place",
    ),
    "adopt-name": ({"adopt_database": {}}, r"adopt_database +unknown variable .*did you mean adopt_databases"),
    "module-colon": ({"app_module": "app"}, r'app_module +is "app": must be MODULE:CALLABLE'),
    "module-python": ({"app_module": "os:system"}, r'app_module +is "os:system":'),
    "module-argument": ({"app_module": "shop:create(os.environ)"}, r"app_module +is "),
    "address-v6": ({"app_bind_address": "::1"}, r'app_bind_address +is "::1": must be an IPv4 address'),
    "data-elsewhere": ({"app_data_dir": "/srv/data"}, r"app_data_dir +is /srv/data: must be /var/lib/"),
    "module-newline": ({"app_module": "app:app\n"}, r"app_module +has a line break"),
    "path-blank": ({"app_root": "/srv/my app"}, r'app_root +is "/srv/my app"'),
    "path-system": ({"app_root": "/etc"}, r'app_root +is "/etc": must be a path below /srv'),
    "path-up": ({"app_root": "/srv/../etc"}, r"app_root +is "),
    "name-unit-line": (
        {"app_name": "a\nExecStartPost=/bin/sh -c id"},
        r"app_name +has a line break or another control character",
    ),
    "name-dot": ({"app_name": "my.app"}, r'app_name +is "my.app"'),
    "name-root": ({"app_name": "root"}, r'app_name +is "root": .*no name of the system'),
    "name-boolean": ({"app_name": False}, r"app_name +is false \(a boolean\)"),
    "name-direction": ({"app_name": "app\u202egnp"}, r"app_name +has invisible or direction-changing"),
    "user-person": (
        {"ansible_user": "ann", "app_user": "ann"},
        r"app_user +is ann, who logs in here for this run .*: must be a user that .* for example ann-app",
    ),
    "user-of-name": ({"ansible_user": "ann", "app_name": "ann"}, r"app_user +is ann, who logs in here"),
    "user-of-tunnel": (
        {**TUNNEL, "ngrok_domain": "g.example.org", "ansible_user": "ann", "ngrok_user": "ann"},
        r"ngrok_user +is ann, who logs in here for this run .*: must be a user that .* for example ann-ngrok",
    ),
    "user-of-tunnel-system": ({"ngrok_user": "root"}, r'ngrok_user +is "root": must be .* not the system\'s'),
    "user-of-both": (
        {**TUNNEL, "ngrok_domain": "h.example.org", "app_user": "web", "ngrok_user": "web"},
        r"ngrok_user +is web like app_user, .*: must be a user of its own",
    ),
    "user-system": ({"ansible_user": "ubuntu", "app_user": "ubuntu"}, r'app_user +is "ubuntu": must be the name of'),
    "version-number": ({"app_version": 1.10}, r"app_version +is 1.1: must be a tag"),
    "environment-name": ({"app_environment": {"A-B": "x"}}, r"app_environment +'A-B' is not a name"),
    "environment-preload": ({"app_environment": {"LD_PRELOAD": "x"}}, r"app_environment +LD_PRELOAD may not"),
    "environment-line": ({"app_environment": {"A": "1\nB=2"}}, r"app_environment +has a line break"),
    "token-placeholder": (
        {"ngrok_authtoken": "CHANGEME", "ngrok_domain": "a.example.org"},
        r"ngrok_authtoken +is not usable .*is the vault loaded",
    ),
    "token-short": (
        {"ngrok_authtoken": "12345678", "ngrok_domain": "e.example.org"},
        r"ngrok_authtoken +is not usable \(its value is a secret and is not shown\): must be .* 20 to 200 letters",
    ),
    "tunnel-upstream": (
        {"ngrok_upstream_url": "http://127.0.0.1:5555/x"},
        r'ngrok_upstream_url +is "http://127.0.0.1:5555/x": must be .* without a path, for example http://127.0.0.1:5555\n',
    ),
    "tunnel-checksum": (
        {
            **{"ngrok_authtoken": "a" * 40, "ngrok_domain": "c.example.org"},
            **{"ngrok_install_method": "file", "ngrok_agent_file": "/opt/ngrok"},
        },
        r'ngrok_agent_checksum +is empty but ngrok_install_method is file: must be .* for example "9f86d0',
    ),
    "tunnel-policy": (
        {
            **{"ngrok_authtoken": "a" * 40, "ngrok_domain": "d.example.org"},
            **{"ngrok_config_version": 2, "ngrok_pooling_enabled": True},
        },
        r"ngrok_pooling_enabled +is set but ngrok_config_version is 2: must be 3, ",
    ),
    "domain-case": ({"ngrok_domain": "X.example.org"}, r'ngrok_domain +is "X.example.org": .* in lower case'),
    "domain-scheme": ({"ngrok_domain": "http://x.example.org"}, r"ngrok_domain +is .*must be a bare host"),
    "domain-alone": ({"ngrok_domain": "b.example.org"}, r"ngrok_authtoken +is empty but ngrok_domain is set"),
    "token-alone": ({"ngrok_authtoken": "a" * 40}, r"ngrok_domain +is empty but ngrok_authtoken is set"),
    "git-transport": (
        {"app_source_type": "git", "app_source": "ext::sh -c id", "app_version": "v1"},
        r"app_source +is .*https://",
    ),
    "git-option": (
        {"app_source_type": "git", "app_source": "https://example.org/a.git", "app_version": "--upload-pack=x"},
        r'app_version +is "--upload-pack=x"',
    ),
    "git-unversioned": (
        {"app_source_type": "git", "app_source": "https://example.org/a.git"},
        r"app_version +is empty: a git source needs",
    ),
    "source-missing": ({"app_source": "no/such/directory"}, r"app_source +is .*nothing is there"),
    "source-type": ({"app_source_type": "svn"}, r'app_source_type +is "svn": must be one of directory, git'),
    "releases-none": ({"app_keep_releases": 0}, r"app_keep_releases +is 0: .* from 2 to 20"),
    "health-relative": ({"app_health_path": "health"}, r'app_health_path +is "health": .*starts with /'),
    "health-token": ({"app_health_path": "/h?token=x"}, r"app_health_path +is not usable"),
    "timezone": ({"host_timezone": "Mars/Base"}, r'host_timezone +is "Mars/Base"'),
    "text-for-boolean": ({"host_upgrades_enabled": "yes"}, r"host_upgrades_enabled +is .* true or false"),
    "text-for-list": ({"host_packages": "libpq5"}, r"host_packages +is .*a list"),
    "front-other": ({"front": "nginx"}, r'front +is "nginx": must be none or haproxy'),
    "front-boolean": ({"front": True}, r"front +is true \(a boolean\)"),
    "front-half": ({"front_enabled": True}, r"front_enabled +is true, but front is none"),
    "front-elsewhere": (
        {"front": "haproxy", "front_upstream": "/run/other.http"},
        r"front_upstream +is /run/other.http, but the app listens on /run/sitekeeper/",
    ),
    "huge": ({"app_index_url": "https://" + "a" * 100_000}, r"app_index_url +has 100008 characters"),
    "typo": ({"app_prot": 5555}, r"unknown variable app_prot, did you mean app_port\?"),
    "undefined": ({"app_health_path": "{{ nothing_of_the_kind }}"}, r"app_health_path +cannot be evaluated"),
    "vault-plain": ({"app_module": VAULT_TEXT}, r"app_module +is vault text that nothing has decrypted"),
    "vault-locked": (
        {"app_bind_address": Encrypted(VAULT_TEXT)},
        r"app_bind_address +cannot be evaluated \(vault password",
    ),
}


def write_inventory(directory: Path, hosts: dict[str, dict[str, object]], **groups: object) -> Path:
    """Write an inventory of hosts that do not exist, with the repository's own group_vars."""
    base = {"app_source": str(REPOSITORY), "monitor_name": "{{ app_name | default('app') }}"}
    base["monitor_url"] = "http://127.0.0.1:5555/health"
    entries = {
        name: {"ansible_host": f"192.0.2.{number}", **base, **values}
        for number, (name, values) in enumerate(hosts.items(), start=1)
    }
    text = yaml.safe_dump({"all": {"hosts": entries, **groups}})
    (directory / "hosts.yml").write_text(text, encoding="utf-8")
    (directory / "group_vars").symlink_to(REPOSITORY / "group_vars")
    return directory / "hosts.yml"
