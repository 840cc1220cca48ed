#!/usr/bin/env bash
# Prepares this computer. Safe to run again: what is there already is left alone.
#
#   tools/setup.sh controller   make .venv with exactly the versions in requirements.lock
#   tools/setup.sh lab          install the apt packages the lab and the tests need
#
# Needs python3 (3.11 or newer) and, for missing apt packages, root or sudo.
set -euo pipefail

cd "$(dirname "$0")/.."

# Where this computer's own files are; the tests have others.
TOP=${SETUP_TOP:-}

# program that shows the package is there, and the package
LAB_PACKAGES=(
    "qemu-system-x86_64 qemu-system-x86"
    "qemu-img qemu-utils"
    "mmdebstrap mmdebstrap"
    "mkfs.ext4 e2fsprogs"
    "ssh openssh-client"
    "rsync rsync"
    "git git"
    "logrotate logrotate"
    "haproxy haproxy"
    "systemd-analyze systemd"
    "shellcheck shellcheck"
    "wrk wrk"
)
# What containers take; where it cannot be had every machine is a virtual one.
CONTAINER_PACKAGES=(
    "systemd-nspawn systemd-container"
    "slirp4netns slirp4netns"
    "ip iproute2"
    "kill procps"
)

say() { printf 'setup: %s\n' "$*" >&2; }

die() {
    say "$*"
    exit 1
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "root is needed for: $*. Run it as root, or install sudo."
    fi
}

apt_get_install() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install --quiet --quiet --yes --no-install-recommends "$@"
}

# Installs packages. The lists are fetched only here, so a complete computer needs no network. A source
# that cannot be reached (a third party's, say) is not our business as long as the packages can be had.
apt_install() {
    command -v apt-get >/dev/null || die "apt-get is missing. Install these yourself: $*"
    say "fetching the package lists"
    as_root apt-get update --quiet --quiet ||
        say "warning: some package sources cannot be reached; going on with the others"
    say "installing: $*"
    apt_get_install "$@" ||
        die "apt-get could not install: $*. Its message above says why; a network or a mirror may be missing."
}

# Debian 12's QEMU emulates a machine that starts programs, which is what Ansible does all day, at half the speed of the one
# in its backports (docs/lab.md, "Measured"). Only where QEMU is not there yet and the processor has to be emulated. By
# itself a source of backports upgrades nothing.
install_qemu_of_backports() {
    local list=$TOP/etc/apt/sources.list.d/bookworm-backports.list mirror
    # Debian itself: others are named after it, and cannot take its packages.
    grep -qx 'ID=debian' "$TOP/etc/os-release" && grep -qx 'VERSION_CODENAME=bookworm' "$TOP/etc/os-release" || return 0
    if [ -w "$TOP/dev/kvm" ] && grep -qwE 'vmx|svm' "$TOP/proc/cpuinfo"; then return 0; fi
    as_root apt-get update --quiet --quiet || true
    if [ -z "$(mirror_of bookworm-backports)" ]; then
        say "adding Debian's backports ($list): their QEMU starts programs in half the time"
        mirror=$(mirror_of bookworm)
        echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]" \
            "${mirror:-http://deb.debian.org/debian/} bookworm-backports main" | as_root tee "$list" >/dev/null
        as_root apt-get update --quiet --quiet --error-on=any --no-list-cleanup \
            -o Dir::Etc::sourcelist="$list" -o Dir::Etc::sourceparts=- || {
            say "warning: the backports cannot be reached; going on with Debian 12's own QEMU"
            as_root rm "$list"
            return
        }
    fi
    apt_get_install --target-release bookworm-backports qemu-system-x86 qemu-utils ||
        say "warning: the backports' QEMU cannot be installed; going on with Debian 12's own"
}

# Where apt has a suite from, or nothing.
mirror_of() {
    # shellcheck disable=SC2016 # apt's variable, not the shell's
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' "Codename: $1" | head -n 1
}

lock_stamp() { sha256sum requirements.lock pyproject.toml | sha256sum | cut -d ' ' -f 1; }

make_venv() {
    local python=$1
    rm -rf .venv
    if "$python" -c 'import ensurepip' 2>/dev/null && "$python" -m venv .venv; then
        return
    fi
    say "python's venv module is incomplete"
    apt_install python3-venv
    rm -rf .venv
    # The package belongs to the distribution's python, not to another one that may come first in PATH.
    python=/usr/bin/python3
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        die "$python is older than 3.11. Install a newer python and set PYTHON to it."
    "$python" -m venv .venv
}

setup_controller() {
    local python=${PYTHON:-python3} stamp=.venv/.lock-stamp uv
    command -v "$python" >/dev/null || apt_install python3 python3-venv
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        die "$python is older than 3.11. Install a newer python and set PYTHON to it."
    if [ -x .venv/bin/python ] && [ "$(cat "$stamp" 2>/dev/null)" = "$(lock_stamp)" ]; then
        say "controller: .venv is up to date"
        return
    fi
    if ! { [ -x .venv/bin/python ] && .venv/bin/python -m pip --version >/dev/null 2>&1; }; then
        say "making .venv"
        make_venv "$python"
    fi
    rm -f "$stamp"
    # uv's own lines of the lock (version and hashes) install the installer.
    uv=$(mktemp)
    # shellcheck disable=SC2064 # the name is known now
    trap "rm -f '$uv'" EXIT
    sed -n '/^uv==/,/^[^ ]/{/^uv==/p;/^  */p}' requirements.lock >"$uv"
    [ -s "$uv" ] || die "requirements.lock does not name uv."
    if ! .venv/bin/uv --version 2>/dev/null | grep -qF "uv $(sed -n 's/^uv==\([^ ]*\).*/\1/p' "$uv")"; then
        say "installing uv"
        .venv/bin/python -m pip install --quiet --no-deps --requirement "$uv"
    fi
    say "installing what requirements.lock names"
    VIRTUAL_ENV=$PWD/.venv .venv/bin/uv pip sync --quiet requirements.lock
    VIRTUAL_ENV=$PWD/.venv .venv/bin/uv pip install --quiet --no-deps --editable .
    lock_stamp >"$stamp"
    say "controller: ready (.venv)"
}

# Prints the packages of the "program package" entries whose program is not there.
missing_packages() {
    local entry program package
    for entry in "$@"; do
        read -r program package <<<"$entry"
        PATH=$PATH:/usr/sbin:/sbin command -v "$program" >/dev/null || echo "$package"
    done
}

setup_lab() {
    local missing wanted
    command -v qemu-system-x86_64 >/dev/null || install_qemu_of_backports
    mapfile -t missing < <(missing_packages "${LAB_PACKAGES[@]}")
    mapfile -t wanted < <(missing_packages "${CONTAINER_PACKAGES[@]}")
    # Its images are verified with them, on Ubuntu too.
    compgen -G "$TOP/usr/share/keyrings/debian-archive-keyring.*" >/dev/null || missing+=(debian-archive-keyring)
    if [ "${#missing[@]}" -eq 0 ] && [ "${#wanted[@]}" -eq 0 ]; then
        say "lab: every package is there"
        return
    fi
    if [ "${#missing[@]}" -gt 0 ]; then apt_install "${missing[@]}"; fi
    if [ "${#wanted[@]}" -gt 0 ]; then
        apt_get_install "${wanted[@]}" || (apt_install "${wanted[@]}") ||
            say "warning: no containers without ${wanted[*]}: every machine of the lab is a virtual one"
    fi
    say "lab: ready"
}

case ${1-} in
controller) setup_controller ;;
lab) setup_lab ;;
*)
    say "usage: tools/setup.sh controller|lab"
    exit 2
    ;;
esac
