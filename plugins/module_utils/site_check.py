"""Find everything that is wrong with the settings of a site, at once, on the controller.

`problems_of` is pure: it takes the values of one host (and of the other hosts, to compare) and returns a list of
`Problem`; `report` makes the text that an operator reads. A value is only ever shown when it is not a secret.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import yaml

from plugins.module_utils import wheelhouse
from plugins.module_utils.site_forms import (
    as_whole,
    environment_faults,
    is_git_url,
    is_host_path,
    parse_size,
)
from plugins.module_utils.site_front import front_faults
from plugins.module_utils.site_neighbours import neighbour_problems
from plugins.module_utils.site_problem import Problem, Settings, Spec, shown
from plugins.module_utils.site_rules import RULES, SITE_SWITCHES
from plugins.module_utils.site_tunnel import tunnel_faults

_FAMILIES = "app service release front host ngrok logrotate monitor drill rollback maintenance adopt balancer rolling"
PREFIXES = tuple(f"{family}_" for family in _FAMILIES.split())
# Settings without a role's specification, or before it: checked here by rule or by relation.
ALSO_KNOWN = frozenset(RULES) | {"app_source", "app_environment", "app_secrets"}
OWN_DIRECTORIES = {"app_data_dir": "/var/lib", "app_log_dir": "/var/log", "app_runtime_dir": "/run"}
ENVIRONMENTS = ("app_environment", "app_secrets")

# Both read plain data only; libyaml's is several times as fast, and this is done once for each host.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_CONTROL = re.compile(r"[\x00-\x1f\x7f\x80-\x9f\u2028\u2029]")
_INVISIBLE = re.compile(r"[\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
_ARCHIVE_URL = re.compile(r"https://[A-Za-z0-9.-]+(:[0-9]{1,5})?/[A-Za-z0-9._~/%+-]+")
_LONGEST_TEXT = 4096
_DEEPEST = 8


def load_specs(roles: Iterable[Path]) -> dict[str, dict[str, object]]:
    """Read the options of `main` in meta/argument_specs.yml of all roles in these directories.

    Raises:
        ValueError: a file is not what Ansible documents; names the file.
    """
    options: dict[str, dict[str, object]] = {}
    for directory in roles:
        for path in sorted(directory.glob("*/meta/argument_specs.yml")):
            try:
                loaded = yaml.load(path.read_text(encoding="utf-8"), Loader=_LOADER)
                main = (loaded.get("argument_specs") or {}).get("main") or {}
                for name, option in (main.get("options") or {}).items():
                    options[str(name)] = {**option, "role": path.parent.parent.name}
            except (yaml.YAMLError, AttributeError, TypeError, UnicodeDecodeError) as error:
                raise ValueError(f"{path} cannot be read as argument specifications: {error}") from error
    return options


def spec_defaults(specs: Spec) -> dict[str, object]:
    """Return the literal defaults of a specification: what the roles use where nothing is set."""
    return {
        name: option["default"]
        for name, option in specs.items()
        if "default" in option and "{{" not in str(option["default"])
    }


def is_setting(name: str, specs: Spec) -> bool:
    """Tell whether a variable is one of the site's settings, or looks like one."""
    return name.startswith(PREFIXES) or name in specs or name in SITE_SWITCHES


def text_fault(value: object, depth: int = 0) -> str | None:
    """Return why a string, or one inside of a list or mapping, can never be written to a configuration file."""
    if isinstance(value, str):
        faults = (
            (
                value.lstrip().startswith("$ANSIBLE_VAULT"),
                "is vault text that nothing has decrypted: give the password, or put !vault before it",
            ),
            (
                len(value) > _LONGEST_TEXT,
                f"has {len(value)} characters: at most {_LONGEST_TEXT} are allowed",
            ),
            (
                _CONTROL.search(value),
                "has a line break or another control character in it: write it on one line",
            ),
            (_INVISIBLE.search(value), "has invisible or direction-changing characters in it: type it anew"),
            ("{{" in value or "{%" in value, "has an unevaluated template in it: write the value itself"),
        )
        return next((fault for bad, fault in faults if bad), None)
    if depth > _DEEPEST:
        return "is nested too deeply"
    items: Iterable[object] = ()
    if isinstance(value, Mapping):
        items = [part for pair in value.items() for part in pair]
    elif isinstance(value, (list, tuple)):
        items = value
    return next((fault for item in items if (fault := text_fault(item, depth + 1))), None)


def type_fault(value: object, option: Mapping[str, object]) -> str | None:
    """Return what type is wanted when a value is of another; stricter than Ansible's own conversion.

    A boolean is not a number, a number is not a string, a list is not a string. Decimal digits in a string are a
    number, because that is what `-e key=value` makes of one.
    """
    wanted = option.get("type", "str")
    choices = option.get("choices")
    fault: str | None = None
    if value is None:
        fault = (
            None
            if "default" in option and option["default"] is None
            else "a value (remove the line to get the default)"
        )
    elif wanted in ("str", "path"):
        fault = None if isinstance(value, str) else 'a string: put it in quotes, for example "1.10"'
    elif wanted == "int":
        fault = None if as_whole(value) is not None else "a whole number in decimal digits"
    elif wanted == "float":
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        digits = isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value) is not None
        fault = None if number or digits else "a number"
    elif wanted == "bool":
        fault = None if isinstance(value, bool) else "true or false (on the command line: -e '{\"NAME\": true}')"
    elif wanted == "list":
        fault = None if isinstance(value, (list, tuple)) else "a list, for example [one, two]"
    elif wanted == "dict":
        fault = None if isinstance(value, Mapping) else "names and values, for example {one: two}"
    if fault is None and value is not None and isinstance(choices, Sequence) and value not in choices:
        fault = "one of " + ", ".join(str(choice) for choice in choices)
    return fault


def nested_faults(name: str, value: object, option: Mapping[str, object]) -> list[Problem]:
    """Check the elements of a list and the keys of a mapping as far as their specification says."""
    found: list[Problem] = []
    inner = option.get("options")
    if isinstance(value, (list, tuple)) and option.get("elements"):
        element = {"type": option["elements"], "options": inner}
        for index, item in enumerate(value):
            where = f"{name}[{index}]"
            if wanted := type_fault(item, element):
                found.append(Problem(where, f"must be {wanted}"))
            else:
                found += nested_faults(where, item, element)
    elif isinstance(value, Mapping) and isinstance(inner, Mapping):
        for key, item in value.items():
            where = f"{name}.{key}"
            if key not in inner:
                found.append(Problem(where, f"is not known; known are {', '.join(sorted(inner))}"))
            elif wanted := type_fault(item, inner[key]):
                found.append(Problem(where, f"must be {wanted}"))
            else:
                found += nested_faults(where, item, inner[key])
        missing = [key for key, sub in inner.items() if sub.get("required") is True and key not in value]
        found += [Problem(f"{name}.{key}", "is not set and has no default") for key in missing]
    return found


def value_problems(name: str, value: object, specs: Spec) -> list[Problem]:
    """Check one value: characters, then type, then the form that this variable must have."""
    fault = text_fault(value)
    rule, option = RULES.get(name), specs.get(name)
    found: list[Problem] = []
    if fault:
        advice = f", for example {rule.example}" if rule else ""
        found = [Problem(name, fault + advice)]
    elif rule:
        if not rule.accepts(value):
            must = f"must be {rule.allowed}, for example {rule.example}"
            found = [Problem(name, f"{shown(name, value, specs)}: {must}")]
    elif name in ENVIRONMENTS:
        found = [Problem(name, problem) for problem in environment_faults(value)]
    elif option is not None:
        if wanted := type_fault(value, option):
            default = option.get("default")
            example = f", for example {json.dumps(default)}" if default not in (None, "", [], {}) else ""
            must = f"must be {wanted.replace('NAME', name)}{example}"
            found = [Problem(name, f"{shown(name, value, specs)}: {must}")]
        else:
            found = nested_faults(name, value, option)
    return found


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that was probably meant; of two equally near ones that with the same letters."""

    def nearness(other: str) -> tuple[float, bool]:
        return difflib.SequenceMatcher(None, name, other).ratio(), sorted(name) == sorted(other)

    best = max(known, key=nearness, default=None)
    return best if best is not None and nearness(best)[0] > 0.7 else None


def unknown_problems(names: Iterable[str], known: Iterable[str]) -> list[Problem]:
    """Report variables that look like settings of the roles but that no role knows."""
    known = sorted(known)
    found: list[Problem] = []
    for name in sorted(set(names) - set(known)):
        if name.startswith(PREFIXES):
            meant = nearest(name, known)
            hint = f", did you mean {meant}?" if meant else ": no role reads it"
            found.append(Problem(name, f"unknown variable {name}{hint}"))
    return found


def source_problems(values: Mapping[str, object], base: Path) -> list[Problem]:
    """Check that the app's code can be fetched from where it is said to be; `base` is where relative paths start."""
    kind, source, version = (values.get(key) for key in ("app_source_type", "app_source", "app_version"))
    if kind not in ("directory", "git", "archive", "host_path") or source is None:
        return []

    wanted: str | None = None
    found: list[Problem] = []
    if not isinstance(source, str) or not source or source.startswith("-"):
        wanted = f"where the code is, for app_source_type {kind}; for example examples/currents for a directory"
    elif kind == "directory" and not (base / Path(source).expanduser()).is_dir():
        wanted = "a directory on this machine, for example examples/currents (nothing is there)"
    elif kind == "host_path" and not is_host_path(source):
        wanted = "an absolute path on the host, not one of the system's, for example /home/ubuntu/currents"
    elif kind == "archive" and not _ARCHIVE_URL.fullmatch(source) and not (base / Path(source).expanduser()).is_file():
        wanted = "an https:// address or a file on this machine, for example build/currents.tar.gz"
    elif kind == "git" and not is_git_url(source):
        wanted = "an https:// or ssh address without a password, for example https://example.org/me/app.git"
    if wanted:
        found.append(Problem("app_source", f"{shown('app_source', source, {})}: must be {wanted}"))
    if kind == "git" and version == "":
        found.append(Problem("app_version", "is empty: a git source needs a tag or a commit, such as v1.4.0"))
    return found


def wheelhouse_problems(values: Mapping[str, object], base: Path) -> list[Problem]:
    """Check that a release can be built from the directory of wheels, where one is set."""
    directory, version = values.get("app_wheelhouse"), values.get("app_gunicorn_version")
    wrong = wheelhouse.fault(base / Path(str(directory)).expanduser(), str(version)) if directory and version else ""
    return [Problem("app_wheelhouse", f"{shown('app_wheelhouse', directory, {})}: {wrong}")] if wrong else []


def relation_problems(values: Mapping[str, object]) -> list[Problem]:
    """Check what two values must be to one another; values that are wrong by themselves are left out."""
    found: list[Problem] = []
    high, most = (parse_size(values.get(f"service_memory_{key}")) for key in ("high", "max"))
    if high and most and high > most:
        fault = f"is {values['service_memory_high']}, more than service_memory_max {values['service_memory_max']}"
        found.append(Problem("service_memory_high", f"{fault}: must be less, for example 80% of it"))
    graceful = as_whole(values.get("app_graceful_timeout_seconds"))
    stop = as_whole(values.get("service_stop_timeout_seconds"))
    if graceful is not None and stop is not None and graceful >= stop:
        fault = f"is {graceful}: must be less than service_stop_timeout_seconds ({stop}), or requests are cut off"
        found.append(Problem("app_graceful_timeout_seconds", fault))
    name = values.get("app_name")
    for key, parent in OWN_DIRECTORIES.items():
        if isinstance(name, str) and values.get(key) not in (None, f"{parent}/{name}"):
            # systemd makes them (StateDirectory= and its sisters) and opens nothing else to the app.
            found.append(Problem(key, f"is {values[key]}: must be {parent}/{name}, the one the app may write to"))
    found += [Problem(key, fault) for key, fault in front_faults(values) + tunnel_faults(values)]
    environment, secrets = (values.get(key) for key in ENVIRONMENTS)
    if isinstance(environment, Mapping) and isinstance(secrets, Mapping):
        both = sorted(str(name) for name in set(environment) & set(secrets))
        found += [Problem("app_environment", f"sets {name}, which app_secrets sets too") for name in both]
    return found


def _root(problem: Problem) -> str:
    """Return the variable in which a problem lies: "a" for "a[0].b"."""
    return re.split(r"[.\[]", problem.name)[0]


def problems_of(
    mine: Settings,
    others: Iterable[Settings],
    specs: Spec,
    base: Path,
    required_of: Iterable[str] = (),
    *,
    brings: bool = True,
) -> list[Problem]:
    """Return everything that is wrong with the settings of one host, each setting's own faults first.

    Args:
        mine: the host's settings.
        others: the settings of all hosts of the inventory; its own entry is skipped.
        specs: options by variable name, from `load_specs`.
        base: the directory at which relative paths of the controller start.
        required_of: roles whose required variables must be set.
        brings: whether code is brought, which must then be where it is said to be.
    """
    roles = set(required_of)
    own: list[Problem] = []
    for name, value in sorted(mine.values.items()):
        if is_setting(name, specs):
            own += value_problems(name, value, specs)
    bad = {_root(problem) for problem in own} | set(mine.failures)
    own = [one for one in own if not mine.made_from.get(_root(one), frozenset()) & bad - {_root(one)}]
    failed = set(mine.failures)
    # Where templates go round in a circle, all of it is shown.
    origins = {name for name in failed if not mine.made_from.get(name, frozenset()) & failed - {name}} or failed
    own += [Problem(name, mine.failures[name]) for name in sorted(origins)]
    for name, option in sorted(specs.items()):
        absent = name not in mine.values and name not in mine.failures
        if absent and option.get("required") is True and option["role"] in roles:
            own.append(Problem(name, f"is not set: role {option['role']} needs it"))
    own += unknown_problems([*mine.values, *mine.failures], [*ALSO_KNOWN, *specs])
    bad |= {_root(problem) for problem in own}
    complete = {**spec_defaults(specs), **mine.values}
    sound = {name: value for name, value in complete.items() if name not in bad}
    if brings:
        own += source_problems(sound, base) + wheelhouse_problems(sound, base)
    own += relation_problems(sound)
    return own + neighbour_problems(Settings(mine.host, mine.address, sound), others)


def report(host: str, problems: Sequence[Problem]) -> str:
    """Make the message for the operator: a headline and one aligned line for each problem."""
    count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
    width = max(len(problem.name) for problem in problems)
    rows = [f"  {problem.name:<{width}}  {problem.fault}" for problem in problems]
    return "\n".join([f"{count} in the settings of {host}; nothing was touched:", *rows])
