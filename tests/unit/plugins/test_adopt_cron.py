"""Which lines of cron are about the app, and that retiring them and bringing them back touches nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible.module_utils.adopt_cron import App, kills, lines_about, marker, restored, retired, tables

from tests.unit.plugins.adopt_tree import Tree

DIRECTORY = "/home/ubuntu/.openclaw/workspace/currents-full-local"
SITE = App(DIRECTORY, ["python3", "app.py"], 5555, "/home/ubuntu", "currents.service", "ubuntu")
MONITOR = 'pkill -f "python3 app.py"\nsleep 2\ncd ~/.openclaw/workspace/currents-full-local && nohup python3 app.py &\n'
SCRIPTS = {
    "/home/ubuntu/site_monitor.sh": MONITOR,
    "/home/ubuntu/look.sh": "wget -q http://localhost:5555/ -O /dev/null\n",
    "/home/ubuntu/weather.sh": "python3 weather.py\n",
}


def about(command, when="*/5 * * * *"):
    return lines_about("/crontab", f"{when} {command}\n", SITE, lambda path: SCRIPTS.get(path, ""))


@pytest.mark.parametrize(
    "command",
    [
        "/home/ubuntu/site_monitor.sh >>/tmp/site_monitor.log 2>&1",
        "~/site_monitor.sh",
        "bash $HOME/site_monitor.sh",
        'pkill -f "python3 app.py"',
        "pkill -9 -f 'python3.*app\\.py'",
        f"cd {DIRECTORY} && nohup python3 app.py &",
        "cd ~/.openclaw/workspace/currents-full-local; python3 app.py &",
        "fuser -k 5555/tcp",
        "curl -f localhost:5555 || systemctl restart currents",
    ],
)
def test_what_starts_or_kills_the_app_is_retired(command):
    (line,) = about(command)
    assert line.acts
    assert not line.agent


@pytest.mark.parametrize("command", [f"tar -czf /backup.tgz {DIRECTORY}", "/home/ubuntu/look.sh"])
def test_what_only_looks_or_saves_stays_and_is_shown(command):
    (line,) = about(command)
    assert not line.acts


@pytest.mark.parametrize(
    "command",
    [
        "/home/ubuntu/weather.sh",
        'pgrep -f "python3 collector.py" || nohup python3 collector.py &',
        f"rm -rf {DIRECTORY}-old && nohup python3 other.py &",
        "nohup python3 other.py --port 15555 &",
        "pkill -f '['",
        "systemctl restart currents-next",
        "pkill currents",
    ],
)
def test_other_peoples_lines_are_none_of_ours(command):
    assert about(command) == []


@pytest.mark.parametrize(
    "command",
    [
        "cd /home/ubuntu/shop && nohup python3 app.py &",
        "python3 /home/ubuntu/report.py --limit 5555",
        "python3 /home/ubuntu/report.py 5555 -n 5555",
        "cd shop && nohup python3 app.py &",
    ],
)
def test_same_words_in_another_directory_and_a_bare_number_are_no_sign(command):
    assert about(command) == []


@pytest.mark.parametrize(
    "command",
    [
        "curl -f http://localhost:5555/ || kill 1",
        "fuser -k -n tcp 5555",
        "gunicorn --port 5555 shop:app",
        "gunicorn --port=5555 shop:app",
        "flask run -p 5555",
        "cd .openclaw/workspace/currents-full-local && nohup python3 app.py &",
    ],
)
def test_port_is_told_by_what_stands_before_it_and_a_directory_from_the_home(command):
    (line,) = about(command)
    assert line.acts


def test_command_with_its_own_path_is_enough():
    app = replace(SITE, argv=["python3", "/opt/wires/app.py"], directory="/srv/elsewhere")
    text = "* * * * * nohup python3 /opt/wires/app.py &"
    assert [line.text for line in lines_about("/t", f"{text}\n", app)] == [text]
    assert lines_about("/t", f"{text}\n", replace(app, argv=["/usr/bin/python3", "app.py"])) == []


def test_app_in_its_users_home_is_started_by_the_line_that_goes_nowhere():
    app = App("/home/ubuntu", ["python3", "app.py"], 5555, "/home/ubuntu", "", "ubuntu")
    mine = ["@reboot nohup python3 app.py &", "@reboot cd ~ && python3 app.py &", "@reboot python3 /home/ubuntu/app.py"]
    others = ["@reboot cd shop && python3 app.py &", "@reboot python3 /home/ubuntu/blog/report.py", "@reboot ~/x.py"]
    found = lines_about("/t", "\n".join([*mine, *others]), app)
    assert [line.text for line in found] == mine


@pytest.mark.parametrize(
    ("owner", "command", "ours"),
    [
        ("bob", "cd /home/bob/shop && nohup python3 app.py &", False),
        ("bob", "pkill -f app.py", False),
        ("bob", "curl -f localhost:5555 || nohup true", False),
        ("bob", "cd ~/.openclaw/workspace/currents-full-local && nohup python3 app.py &", False),
        ("bob", "~/site_monitor.sh", False),
        ("bob", f"cd {DIRECTORY} && nohup python3 app.py &", True),
        ("bob", "cd ~ubuntu/.openclaw/workspace/currents-full-local && nohup python3 app.py &", True),
        ("root", "pkill -f app.py", True),
        ("root", "fuser -k 5555/tcp", True),
        ("root", "~/site_monitor.sh", False),
        ("ubuntu", "~/site_monitor.sh", True),
        ("", "ubuntu ~/site_monitor.sh", True),
        ("", "bob pkill -f app.py", False),
        ("", "root pkill -f app.py", True),
    ],
)
def test_line_of_another_user_has_to_name_the_directory(owner, command, ours):
    found = lines_about("/t", f"* * * * * {command}\n", SITE, lambda path: SCRIPTS.get(path, ""), owner)
    assert bool(found) is ours


def test_app_without_a_unit_has_no_lines_about_one():
    nobody = App(SITE.directory, SITE.argv, SITE.port)
    assert lines_about("/t", "* * * * * systemctl restart \n* * * * * systemctl restart currents\n", nobody) == []


def test_times_comments_and_assignments_are_no_mention():
    assert lines_about("/t", f"55 5 5 5 5 nohup true &\n# {DIRECTORY} pkill\nAPP={DIRECTORY}; pkill\n", SITE) == []


def test_line_of_a_reboot_has_one_field_of_time():
    assert about(f"cd {DIRECTORY} && nohup python3 app.py &", "@reboot")[0].acts


def test_line_about_the_agent_is_told_from_one_about_the_app():
    (line,) = about("pgrep ngrok || nohup ngrok http 5555 &")
    assert (line.acts, line.agent) == (True, True)
    assert not about(f"pkill ngrok; cd {DIRECTORY} && nohup python3 app.py &")[0].agent


@pytest.mark.parametrize(
    ("text", "killed"),
    [
        ("pkill -f app.py; sleep 2", True),
        ('pkill -9 -f "python3 app.py"', True),
        ("pkill -f 'python3 worker.py'", False),
        ("pkill -f '['", False),
        ("pkill app.py", False),
    ],
)
def test_pattern_of_pkill_is_tried_on_the_command(text, killed):
    assert kills(text, "python3 app.py") is killed


TABLE = 'MAILTO=""\n# mine\n0 * * * * a\n0 * * * * b\n\n0 * * * * a\nlast without an end'


def test_retired_lines_come_back_and_no_other_byte_changes():
    gone = retired(TABLE, ["0 * * * * a", "last without an end"], "currents", "2026-02-11")
    assert gone.count(marker("currents")) == 3
    assert gone.count("# Retired 2026-02-11 by sitekeeper: currents.service runs the app now.") == 3
    assert [line for line in gone.split("\n") if not line.startswith("#")] == ['MAILTO=""', "0 * * * * b", ""]
    assert restored(gone, "currents") == TABLE
    assert restored(gone, "other") == gone
    assert restored(TABLE, "currents") == TABLE


def test_what_was_added_meanwhile_stays_when_lines_come_back():
    gone = retired(TABLE, ["0 * * * * b"], "currents", "2026-02-11") + "\n1 * * * * new\n"
    assert restored(gone, "currents") == TABLE + "\n1 * * * * new\n"


def test_a_table_without_the_lines_is_left_as_it_is():
    assert retired("", [""], "currents", "2026-02-11") == ""
    assert retired(TABLE, [], "currents", "2026-02-11") == TABLE


def test_all_tables_of_the_host_are_looked_at_but_no_hidden_file(tmp_path):
    tree = Tree(tmp_path)
    for path in ("var/spool/cron/crontabs/ubuntu", "var/spool/cron/crontabs/.ubuntu.sitekeeper", "etc/cron.d/site"):
        tree.file(path, "")
    tree.file("etc/crontab", "")
    found = [(str(path.relative_to(tmp_path)), user) for path, user in tables(tmp_path)]
    assert found == [("var/spool/cron/crontabs/ubuntu", "ubuntu"), ("etc/crontab", ""), ("etc/cron.d/site", "")]
