#!/bin/sh
# The redeploy that people write first; it checks nothing. `make bench ARGS=deploy` measures the playbook against it.
# Usage: SSH='ssh ...' script.sh CODE LOGIN ROOT UNIT UV
set -eu
code=$1 login=$2 root=$3 unit=$4 uv=$5
rsync --archive --compress --delete --rsh="$SSH" "$code/" "$login:$root/code/"
# shellcheck disable=SC2029,SC2086 # the words are put in here; SSH is a command with its options
$SSH "$login" "cd $root &&
    $uv venv --quiet --clear venv &&
    $uv pip install --quiet --system-certs --python venv/bin/python --requirement code/requirements.txt &&
    sudo systemctl restart $unit"
