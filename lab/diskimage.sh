#!/bin/sh
# Writes the finished tree ($1) as an ext4 file system to descriptor 9. Run by mmdebstrap.
set -eu
PATH=$PATH:/usr/sbin:/sbin
rm -rf "$1/var/cache/lab-stash"
# mmdebstrap takes it away only after its hooks; with it no package that is installed later would start its service.
rm -f "$1/usr/sbin/policy-rc.d"
# A plain bind mount shows the tree without /proc, /sys and /dev mounted in it.
plain=$(mktemp -d)
mount --bind "$1" "$plain"
status=0
mkfs.ext4 -q -F -L root -N "$LAB_INODES" -E lazy_itable_init=0,lazy_journal_init=0 -d "$plain" /proc/self/fd/9 || status=$?
umount "$plain"
rmdir "$plain"
exit "$status"
