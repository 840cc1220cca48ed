"""What the value of each main variable may look like.

One table, `RULES`: variable name -> rule (what accepts a value, the allowed form in words, an example). Relations
between variables are in `site_check`.
"""

from __future__ import annotations

from plugins.module_utils.drill import FAULTS, are_faults
from plugins.module_utils.site_forms import (
    RESERVED_PORTS,
    Rule,
    are_places,
    decimal_rule,
    is_address,
    is_host_path,
    is_module,
    is_relative_paths,
    is_site_name,
    is_timezone,
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
# A longer path does not fit into a socket's address on every system (unix(7)), and would be cut off.
UNIX_SOCKET = Rule(
    text(r"/run(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+", 103),
    "a path below /run of at most 103 characters",
    "/run/sitekeeper/currents.http",
)
PATHS = Rule(list_of(r"/[A-Za-z0-9._~/?&=%+-]{0,199}"), "a list of paths that start with /", "[/, /login]")
COMMANDS = Rule(list_of(r"[^\x00-\x1f]{1,1000}"), "a list of shell commands, one line each", "[flask db upgrade]")
RELEASE_ID = r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}"
SECONDS = "seconds"
HOST = r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}"
SOURCES = Rule(
    list_of(r"[0-9]{1,3}(\.[0-9]{1,3}){3}(/[0-9]{1,2})?"), "a list of IPv4 addresses and networks", "[127.0.0.0/8]"
)


def are_hosts(value: object) -> bool:
    """Accept a list of hosts of the inventory: one at least, and each once."""
    return isinstance(value, list) and list_of(HOST)(value) and 0 < len(value) == len(set(value))


# No role's own settings: what the site as a whole is, and several roles follow; how a drill or a maintenance is done.
SITE_SWITCHES = frozenset(
    {
        "front",
        "drill_confirm",
        "drill_faults",
        "drill_rate",
        "drill_seconds",
        "drill_report",
        "rollback_release",
        "rollback_database",
        "maintenance",
        "maintenance_minutes",
        "maintenance_message",
        "adopt_confirm",
        "adopt_databases",
        "adopt_outage_seconds",
        "balancer_backends",
        "balancer_target",
        "rolling_batch",
    }
)
_URL = r"https?://[A-Za-z0-9.\[\]:-]+(/[A-Za-z0-9._~/%+-]*)?"

RULES: dict[str, Rule] = {
    "front": Rule(lambda value: value in ("none", "haproxy"), "none or haproxy", "haproxy"),
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
    "app_timeout_seconds": number_rule(5, 300, 10, SECONDS),
    "app_boot_timeout_seconds": number_rule(5, 600, 60, SECONDS),
    "app_hang_seconds": number_rule(2, 300, 8, SECONDS),
    "app_request_limit_seconds": number_rule(10, 86_400, 300, SECONDS),
    "app_graceful_timeout_seconds": number_rule(1, 300, 30, SECONDS),
    "app_memory_high": size_rule("64M", "800M"),
    "app_memory_max": size_rule("64M", "1G"),
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
    "app_smoke_paths": PATHS,
    "app_root": RELEASES,
    "app_data_dir": DATA,
    "app_log_dir": LOGS,
    "app_runtime_dir": path_rule("/run"),
    "app_config_dir": CONFIG,
    "service_name": NAME,
    "service_user": USER,
    "service_address": ADDRESS,
    "service_port": PORT,
    "service_listen": Rule(
        lambda value: value == "" or UNIX_SOCKET.accepts(value),
        f"{UNIX_SOCKET.allowed}, or nothing",
        UNIX_SOCKET.example,
    ),
    "service_socket_group": Rule(text(r"[a-z_][a-z0-9_-]{0,31}"), "the name of a Unix group", "haproxy"),
    "service_release_dir": RELEASES,
    "service_config_dir": CONFIG,
    "service_health_path": HEALTH_PATH,
    "service_health_timeout_seconds": number_rule(1, 600, 60, SECONDS),
    "service_memory_high": size_rule("64M", "800M"),
    "service_memory_max": size_rule("64M", "1G"),
    "service_memory_limits": Rule(
        lambda value: value in ("required", "best_effort"), "required or best_effort", "best_effort"
    ),
    "service_tasks_max": number_rule(16, 65536, 256),
    "service_open_files_max": number_rule(1024, 1_048_576, 65536),
    "service_restart_delay_milliseconds": number_rule(1, 900, 100, "milliseconds"),
    "service_restart_delay_max_seconds": number_rule(1, 300, 60, SECONDS),
    "service_start_timeout_seconds": number_rule(5, 600, 90, SECONDS),
    "service_watchdog_seconds": number_rule(10, 300, 20, SECONDS),
    "service_stop_timeout_seconds": number_rule(5, 600, 35, SECONDS),
    "service_trial_dir": RELEASES,
    "service_task_timeout_seconds": number_rule(1, 3600, 300, SECONDS),
    "release_name": NAME,
    "release_user": USER,
    "release_root": RELEASES,
    "release_data_dir": DATA,
    "release_config_dir": CONFIG,
    "release_health_path": HEALTH_PATH,
    "release_smoke_paths": PATHS,
    "release_start_timeout_seconds": number_rule(5, 600, 90, SECONDS),
    "release_trial_requests": number_rule(0, 10_000, 200),
    "release_trial_growth_max": size_rule("1M", "20M"),
    "release_watch_seconds": number_rule(0, 3600, 60, SECONDS),
    "release_before_switch": COMMANDS,
    "release_after_switch": COMMANDS,
    "release_hook_timeout_seconds": number_rule(1, 3600, 300, SECONDS),
    "release_databases": Rule(is_relative_paths, "a list of paths below the data directory", "[currents.db]"),
    "release_keep": number_rule(2, 20, 5),
    "rollback_release": Rule(
        text(RELEASE_ID + "|"), "the id of a release, as playbooks/releases.yml shows it", "v1-0f3a"
    ),
    "rollback_database": Rule(lambda value: value in ("yes", "no"), "yes or no, on the command line", "yes"),
    "front_name": NAME,
    "front_address": ADDRESS,
    "front_port": PORT,
    "front_upstream": UNIX_SOCKET,
    "front_config_dir": CONFIG,
    "front_server_maxconn": number_rule(1, 4096, 16),
    "front_maxconn": number_rule(100, 20000, 2000),
    # Shorter than an app's restart, and visitors would get errors in place of a wait.
    "front_queue_timeout_seconds": number_rule(60, 600, 90, SECONDS),
    "front_server_timeout_seconds": number_rule(60, 3600, 300, SECONDS),
    "front_client_timeout_seconds": number_rule(5, 3600, 60, SECONDS),
    "front_request_timeout_seconds": number_rule(1, 300, 10, SECONDS),
    "front_stop_timeout_seconds": number_rule(1, 300, 30, SECONDS),
    "front_trusted_sources": SOURCES,
    "front_health_path": HEALTH_PATH,
    "front_health_timeout_seconds": number_rule(1, 600, 60, SECONDS),
    "front_memory_max": size_rule("64M", "128M"),
    "balancer_name": NAME,
    "balancer_address": ADDRESS,
    "balancer_port": PORT,
    "balancer_health_path": HEALTH_PATH,
    "balancer_check_interval_seconds": number_rule(1, 60, 2, SECONDS),
    "balancer_check_timeout_seconds": number_rule(1, 60, 5, SECONDS),
    "balancer_maxconn": number_rule(100, 100_000, 2000),
    # Shorter than an app's restart, and visitors would get errors in place of a wait.
    "balancer_queue_timeout_seconds": number_rule(60, 600, 90, SECONDS),
    "balancer_connect_timeout_seconds": number_rule(1, 60, 10, SECONDS),
    "balancer_server_timeout_seconds": number_rule(60, 3600, 300, SECONDS),
    "balancer_client_timeout_seconds": number_rule(5, 3600, 60, SECONDS),
    "balancer_request_timeout_seconds": number_rule(1, 300, 10, SECONDS),
    "balancer_stop_timeout_seconds": number_rule(1, 3600, 300, SECONDS),
    "balancer_trusted_sources": SOURCES,
    "balancer_health_timeout_seconds": number_rule(1, 600, 60, SECONDS),
    "balancer_hosts": Rule(list_of(HOST), "a list of hosts of the inventory", "[balance1]"),
    "balancer_drain_seconds": number_rule(0, 3600, 30, SECONDS),
    "balancer_up_seconds": number_rule(0, 3600, 60, SECONDS),
    "balancer_backends": Rule(
        are_hosts,
        "a list of hosts of the inventory, each once",
        "[web1, web2]",
    ),
    "balancer_target": Rule(text(HOST, 253), "the address or the name at which the balancer reaches it", "192.0.2.11"),
    "rolling_batch": number_rule(1, 1000, 1),
    "host_user": USER,
    "host_user_home": path_rule("/var/lib", "/srv", "/home"),
    "host_packages": Rule(list_of(r"[a-z0-9][a-z0-9+.-]+(=[A-Za-z0-9.+:~-]+)?"), "a list of package names", "[libpq5]"),
    "host_timezone": Rule(is_timezone, "a name of the time zone database", "Europe/Vienna"),
    "host_swap_size": size_rule("64M", "1G", zero="no swap"),
    "host_swap_file": Rule(is_host_path, "an absolute path that is not one of the system's", "/swapfile"),
    "host_journal_max_size": size_rule("16M", "500M"),
    # The role ngrok, which can be used alone, has these patterns in its tasks/validate.yml, and looks only after the
    # deploy. tests/unit/ngrok/test_ngrok_validate.py holds both to one table.
    "ngrok_authtoken": Rule(
        text(r"[0-9A-Za-z_-]{20,200}|"),
        "the token of your ngrok account, 20 to 200 letters, digits, - and _, from an encrypted file "
        "(is the vault loaded?)",
        "2abc...",
    ),
    "ngrok_domain": Rule(
        text(r"([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,63}|", 253),
        "a bare host name in lower case, without http:// and without a path",
        "currents.ngrok-free.app",
    ),
    "ngrok_upstream_url": Rule(
        text(r"https?://[A-Za-z0-9._-]+:[0-9]{1,5}"),
        "http:// or https://, a host and a port, without a path",
        "http://127.0.0.1:5555",
    ),
    "ngrok_endpoint_name": Rule(
        text(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"), "1 to 64 letters, digits and ._-, a letter or digit first", "currents"
    ),
    "ngrok_version": Rule(text(r"[0-9][0-9A-Za-z.+~-]{0,30}|"), "a version, or nothing", '"3.20.0"'),
    "ngrok_agent_checksum": Rule(
        text(r"[0-9a-f]{64}|"), "a SHA-256 checksum of 64 hexadecimal digits in lower case", '"9f86d0..."'
    ),
    "ngrok_web_address": Rule(
        text(r"(127(\.[0-9]{1,3}){3}|localhost):[0-9]{1,5}"), "a port of the loopback", "127.0.0.1:4040"
    ),
    "ngrok_connect_url": Rule(text(r"[A-Za-z0-9._-]+:[0-9]{1,5}|"), "HOST:PORT, or nothing", "edge.example.org:443"),
    "ngrok_connect_cas": Rule(
        text(r"trusted|host|/[^\s]+|"), "trusted, host, the path of a PEM file on the host, or nothing", "trusted"
    ),
    "ngrok_service_name": UNIT,
    # Kept free for it: no app may have this name.
    "ngrok_user": Rule(lambda value: value == "ngrok" or is_user_name(value), USER.allowed, "ngrok"),
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
    "monitor_operations_socket": Rule(
        text(r"/run/[A-Za-z0-9._/-]+|", 100),
        "the path of a socket below /run, or nothing",
        "/run/currents/operations.sock",
    ),
    "monitor_maintenance_file": Rule(
        text(r"/etc(/[A-Za-z0-9_-][A-Za-z0-9._-]*){2}|"),
        "a file below /etc/NAME, or nothing",
        "/etc/currents/maintenance.json",
    ),
    "monitor_release_dir": RELEASES,
    "monitor_data_dir": DATA,
    "monitor_log_dir": LOGS,
    # A boolean is no answer: it comes from a file, and this is said for one time, by hand.
    "maintenance": Rule(lambda value: value in ("on", "off"), "on or off, on the command line", "on"),
    "maintenance_minutes": number_rule(1, 1440, 30, "minutes"),
    "maintenance_message": Rule(text(r".*", 500), "one line of at most 500 characters", '"Back at noon."'),
    # A boolean is refused: it comes from a file, and a yes is given for one drill, by hand.
    "drill_confirm": Rule(lambda value: value in ("yes", "no"), "yes or no, on the command line", "yes"),
    "drill_faults": Rule(are_faults, f"one or more of {', '.join(FAULTS)}", "[worker-kill, oom]"),
    "drill_rate": number_rule(1, 50, 5),
    "drill_seconds": number_rule(20, 300, 120, SECONDS),
    "adopt_confirm": Rule(lambda value: value in ("yes", "no"), "yes or no, on the command line", "yes"),
    "adopt_databases": Rule(
        are_places,
        "paths of databases on the host, each with its place below app_data_dir, and no two with the same",
        "{/home/ubuntu/data/site.db: site.db}",
    ),
    "adopt_outage_seconds": number_rule(1, 3600, 10, SECONDS),
    "drill_report": Rule(text(r"[A-Za-z0-9._~/][A-Za-z0-9._/-]*\.json"), "a .json file on this machine", "drill.json"),
}
