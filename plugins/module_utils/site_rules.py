"""What the value of each main variable may look like.

One table, `RULES`: variable name -> rule (what accepts a value, the allowed form in words, an example). Relations
between variables are in `site_check`.
"""

from __future__ import annotations

from plugins.module_utils.site_forms import (
    RESERVED_PORTS,
    Rule,
    decimal_rule,
    is_address,
    is_host_path,
    is_hostname,
    is_module,
    is_relative_paths,
    is_site_name,
    is_timezone,
    is_token,
    is_user_name,
    is_version,
    list_of,
    number_rule,
    path_rule,
    size_rule,
    text,
    whole,
)

PORT = Rule(
    whole(1024, 65535, RESERVED_PORTS),
    "a whole number from 1024 to 65535 (4040 is taken by ngrok)",
    "5555",
)
NAME = Rule(
    is_site_name,
    "1 to 31 lower-case letters, digits and inner hyphens, a letter first, and no name of the system itself",
    "currents",
)
USER = Rule(is_user_name, "the name of a Unix user that is not the system's", "currents")
ADDRESS = Rule(is_address, "an IPv4 address of the host", "0.0.0.0")
HEALTH_PATH = Rule(
    text(r"/[A-Za-z0-9._~/-]*", 200), "a path that starts with /, without ? and without a host", "/health"
)
UNIT = Rule(text(r"[A-Za-z0-9_@-][A-Za-z0-9_@.-]{0,99}"), "the name of a systemd unit", "currents")
CHECKSUM = Rule(text(r"(sha256:)?[0-9A-Fa-f]{64}|"), "a SHA-256 checksum of 64 hexadecimal digits", '"9f86d0..."')
RELEASES = path_rule("/srv", "/opt", "/var/www")
DATA = path_rule("/var/lib", "/srv")
LOGS = path_rule("/var/log")
CONFIG = path_rule("/etc")
SECONDS = "seconds"
_URL = r"https?://[A-Za-z0-9.\[\]:-]+(/[A-Za-z0-9._~/%+-]*)?"

RULES: dict[str, Rule] = {
    "app_name": NAME,
    "app_user": USER,
    "app_source_type": Rule(
        lambda value: value in ("directory", "git", "archive", "host_path"),
        "one of directory, git, archive, host_path",
        "git",
    ),
    "app_version": Rule(is_version, "a tag, a branch or a commit, not starting with a hyphen", "v1.4.0"),
    "app_source_checksum": CHECKSUM,
    "app_module": Rule(
        is_module, "MODULE:CALLABLE of your own code, or MODULE:FACTORY()", '"app:app" or "shop.web:create_app()"'
    ),
    "app_port": PORT,
    "app_bind_address": ADDRESS,
    "app_health_path": HEALTH_PATH,
    "app_workers": number_rule(1, 64, 4),
    "app_threads": number_rule(1, 64, 4),
    "app_timeout_seconds": number_rule(5, 300, 30, SECONDS),
    "app_graceful_timeout_seconds": number_rule(1, 300, 30, SECONDS),
    "app_max_requests": number_rule(0, 1_000_000, 2000),
    "app_max_requests_jitter": number_rule(0, 1_000_000, 500),
    "app_python": Rule(
        text(r"(/[A-Za-z0-9._/-]+/)?python3(\.[0-9]{1,2})?"), "a Python of the host", "python3 or python3.12"
    ),
    "app_gunicorn_version": Rule(text(r"[0-9]{1,4}(\.[0-9]{1,4}){1,2}"), "an exact version", '"27.0.1"'),
    "app_index_url": Rule(
        text(_URL + "|"), "an https:// address without a password", "https://pypi.example.org/simple"
    ),
    "app_shared_paths": Rule(is_relative_paths, "a list of paths below the code, without ..", "[uploads, currents.db]"),
    "app_keep_releases": number_rule(2, 20, 5),
    "app_root": RELEASES,
    "app_data_dir": DATA,
    "app_log_dir": LOGS,
    "app_runtime_dir": path_rule("/run"),
    "app_config_dir": CONFIG,
    "service_name": NAME,
    "service_user": USER,
    "service_address": ADDRESS,
    "service_port": PORT,
    "service_release_dir": RELEASES,
    "service_config_dir": CONFIG,
    "service_health_path": HEALTH_PATH,
    "service_health_timeout_seconds": number_rule(1, 600, 60, SECONDS),
    "service_memory_high": size_rule("64M", "800M"),
    "service_memory_max": size_rule("64M", "1G"),
    "service_tasks_max": number_rule(16, 65536, 256),
    "service_open_files_max": number_rule(1024, 1_048_576, 65536),
    "service_restart_delay_seconds": number_rule(1, 300, 1, SECONDS),
    "service_start_timeout_seconds": number_rule(5, 600, 60, SECONDS),
    "service_stop_timeout_seconds": number_rule(5, 600, 35, SECONDS),
    "host_user": USER,
    "host_user_home": path_rule("/var/lib", "/srv", "/home"),
    "host_packages": Rule(list_of(r"[a-z0-9][a-z0-9+.-]+(=[A-Za-z0-9.+:~-]+)?"), "a list of package names", "[libpq5]"),
    "host_timezone": Rule(is_timezone, "a name of the time zone database", "Europe/Vienna"),
    "host_swap_size": size_rule("64M", "1G", zero="no swap"),
    "host_swap_file": Rule(is_host_path, "an absolute path that is not one of the system's", "/swapfile"),
    "host_journal_max_size": size_rule("16M", "500M"),
    "ngrok_authtoken": Rule(
        is_token,
        "the token of your ngrok account, without blanks, from an encrypted file (is the vault loaded?)",
        "2abc...",
    ),
    "ngrok_domain": Rule(
        lambda value: value == "" or is_hostname(value),
        "a bare host name, without http:// and without a path",
        "currents.ngrok-free.app",
    ),
    "ngrok_upstream_url": Rule(text(_URL), "an http:// address", "http://127.0.0.1:5555"),
    "ngrok_endpoint_name": Rule(text(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"), "letters, digits and ._-", "currents"),
    "ngrok_version": Rule(text(r"[0-9][0-9A-Za-z.+~-]{0,30}|"), "a version, or nothing", '"3.20.0"'),
    "ngrok_agent_checksum": CHECKSUM,
    "ngrok_web_address": Rule(
        text(r"(127\.0\.0\.1|localhost|\[::1\]):[0-9]{4,5}"), "a port of the loopback", "127.0.0.1:4040"
    ),
    "ngrok_connect_url": Rule(text(r"[A-Za-z0-9.-]+:[0-9]{1,5}|"), "HOST:PORT, or nothing", "edge.example.org:443"),
    "ngrok_service_name": UNIT,
    "ngrok_user": Rule(text(r"[a-z_][a-z0-9_-]{0,30}"), "the name of a Unix user", "ngrok"),
    "ngrok_restart_delay_seconds": number_rule(1, 300, 2, SECONDS),
    "ngrok_refused_delay_seconds": number_rule(0, 3600, 30, SECONDS),
    "ngrok_memory_max": size_rule("32M", "256M"),
    "logrotate_name": NAME,
    "logrotate_paths": Rule(
        list_of(r"/var/log/[A-Za-z0-9_-][A-Za-z0-9._*-]*(/[A-Za-z0-9_*-][A-Za-z0-9._*-]*)*"),
        "a list of paths below /var/log",
        '["/var/log/currents/*.log"]',
    ),
    "logrotate_user": USER,
    "logrotate_unit": UNIT,
    "logrotate_max_size": Rule(text(r"[1-9][0-9]{0,5}[kMG]"), "a size for logrotate: a number and k, M or G", "10M"),
    "logrotate_keep": number_rule(1, 365, 14),
    "monitor_name": NAME,
    "monitor_service": UNIT,
    "monitor_url": Rule(text(_URL), "an http:// address on the host", "http://127.0.0.1:5555/health"),
    "monitor_host_header": Rule(text(r"[A-Za-z0-9.:-]{0,253}"), "a host name, or nothing", "currents.example.org"),
    # A run must end before cron starts the next one, with two requests and what they decide.
    "monitor_timeout_seconds": decimal_rule(1, 20, "10"),
    "monitor_failures_before_restart": number_rule(1, 10, 2),
    "monitor_start_grace_seconds": decimal_rule(1, 600, "60"),
    "monitor_restart_timeout_seconds": decimal_rule(5, 600, "90"),
    "monitor_release_dir": RELEASES,
    "monitor_data_dir": DATA,
    "monitor_log_dir": LOGS,
}
