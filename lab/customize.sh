#!/bin/sh
# Makes a fresh Debian or Ubuntu tree ($1) into the root disk of a lab machine. Run by mmdebstrap as its
# last customize hook; descriptor 9 is the (empty, sparse) disk.
# LAB_SEED_PACKAGES: packages to download but not to install. LAB_INODES: inodes of the file system.
set -eu
root=$1
archives=$root/var/cache/apt/archives

chroot "$root" sh -eu <<'EOF'
useradd --create-home --shell /bin/bash --groups sudo admin
install -d -m 0700 -o admin -g admin /home/admin/.ssh
install -m 0600 -o admin -g admin /etc/ssh/lab_authorized_keys /home/admin/.ssh/authorized_keys
install -m 0644 -o admin -g admin /dev/null /home/admin/.hushlogin
rm /etc/ssh/lab_authorized_keys
update-ca-certificates >/dev/null
# For zipcache.py.
install -d /var/cache/lab-python /var/cache/lab-ahead
python3 -m compileall -q /usr/lib/python3/dist-packages/lab_zipcache.py
python3 /usr/lib/python3/dist-packages/lab_zipcache.py /var/cache/lab-ahead
rm -r /var/cache/lab-ahead
# From OpenSSH 9.8 on, who looks whether sshd answers while a slow machine boots is locked out for a while afterwards.
if grep --quiet --text --ignore-case persourcepenalties /usr/sbin/sshd; then
    echo 'PerSourcePenalties no' >>/etc/ssh/sshd_config.d/lab.conf
fi
systemctl enable --quiet systemd-networkd.service lab-seed.service
# They would hold apt's lock at a random moment. A role that wants them can enable them.
systemctl disable --quiet apt-daily.timer apt-daily-upgrade.timer
# Consoles nobody looks at, and things no test needs; each costs time at every boot.
systemctl mask --quiet getty@tty1.service serial-getty@ttyS0.service getty-static.service \
    systemd-hwdb-update.service systemd-pstore.service e2scrub_reap.service systemd-binfmt.service \
    proc-sys-fs-binfmt_misc.automount dev-hugepages.mount sys-kernel-debug.mount sys-kernel-tracing.mount \
    sys-kernel-config.mount sys-fs-fuse-connections.mount systemd-network-generator.service \
    modprobe@dm_mod.service modprobe@fuse.service modprobe@loop.service modprobe@drm.service \
    modprobe@configfs.service modprobe@efi_pstore.service
EOF

# Keep only the packages that were asked for: what was installed already needs no second copy.
stash=$root/var/cache/lab-stash
mkdir "$stash"
find "$archives" -maxdepth 1 -name '*.deb' -exec mv -t "$stash" {} +
if [ -n "$LAB_SEED_PACKAGES" ]; then
    # shellcheck disable=SC2086 # a list of package names
    APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-get install --quiet --yes --print-uris $LAB_SEED_PACKAGES |
        sed -n "s/^'[^']*' \([^ ]*\) .*/\1/p" |
        while read -r deb; do
            if [ -e "$stash/$deb" ]; then mv "$stash/$deb" "$archives/"; fi
        done
    # shellcheck disable=SC2086
    APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-get install --quiet --yes --download-only $LAB_SEED_PACKAGES
    cp -l "$archives"/*.deb "$stash/"
fi
# The lists stay, and look fresh, so that an apt-get install needs no apt-get update first.
mkdir -p "$root/var/lib/apt/periodic"
touch "$root/var/lib/apt/periodic/update-success-stamp"

rm -f "$root"/etc/ssh/ssh_host_* "$root"/var/lib/dbus/machine-id "$root"/var/lib/systemd/random-seed
# Empty, not absent: every machine draws its own at its first boot.
: >"$root/etc/machine-id"
echo lab >"$root/etc/hostname"
rm -f "$root/etc/resolv.conf"
echo "nameserver $LAB_NAME_SERVER" >"$root/etc/resolv.conf"
