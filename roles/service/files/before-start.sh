#!/bin/sh
# Runs as root before each start of an app: records what it starts with, and slows a crash loop down.
#
#   before-start.sh NAME LONGEST FILE...
#
# NAME is the unit, LONGEST the longest pause in seconds. The sha256sum of all FILEs (of a directory: its *.py) goes to
# /run/sitekeeper/NAME, so that a later run can tell whether the process runs with something older than what is on disk.
#
# The first start after a crash is at once. Then the pauses grow, 1, 2, 4, ... LONGEST seconds, as long as the app dies
# within LONGEST seconds of its start. systemd's own RestartSteps= exists only from version 254 on, and it never forgets:
# an app that crashes once a week would be down for the longest pause at its tenth crash. It starts for ever either way.
set -eu

name=$1
longest=$2
shift 2
run=${SITEKEEPER_RUN:-/run/sitekeeper}
mkdir -p "$run"

# Somebody holds the app back, who puts its database in place: visitors wait in the socket, and any of them would start it.
# The kernel frees the lock with its holder.
if [ -e "$run/$name.hold" ]; then
    flock "$run/$name.hold" true
fi

# Seconds since boot: a clock that nobody sets.
now() {
    read -r uptime _ <"${SITEKEEPER_UPTIME:-/proc/uptime}"
    echo "${uptime%%.*}"
}

# The number that was remembered, or 0: a damaged memory must not keep the app from starting.
number() {
    case $1 in
        '' | 0* | *[!0-9]* | ??????????*) echo 0 ;;
        *) echo "$1" ;;
    esac
}

# The file holds when the last start began and how many in a row were too short.
began=
short=
if [ -r "$run/$name.starts" ]; then
    read -r began short <"$run/$name.starts" || true
fi
began=$(number "$began")
short=$(number "$short")
if [ $(($(now) - began)) -gt "$longest" ] || [ "$(systemctl show --property=NRestarts --value "$name")" = 0 ]; then
    # It ran for long enough, or somebody started it by hand.
    short=0
else
    short=$((short + 1))
fi
if [ "$short" -gt 1 ]; then
    pause=1
    step=2
    while [ "$step" -lt "$short" ] && [ "$pause" -lt "$longest" ]; do
        pause=$((pause * 2))
        step=$((step + 1))
    done
    [ "$pause" -le "$longest" ] || pause=$longest
    echo "start $short in a row that follows a crash: waiting $pause s"
    sleep "$pause"
fi
echo "$(now) $short" >"$run/$name.starts"
for file in "$@"; do
    if [ -d "$file" ]; then
        sha256sum "$file"/*.py
    else
        sha256sum "$file"
    fi
done >"$run/$name"
