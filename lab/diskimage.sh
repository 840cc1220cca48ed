#!/bin/sh
# Writes the finished tree ($1) as an ext4 file system to descriptor 9. Run by mmdebstrap.
set -eu
PATH=$PATH:/usr/sbin:/sbin
# A plain bind mount shows the tree without /proc, /sys and /dev mounted in it.
plain=$(mktemp -d)
mount --bind "$1" "$plain"
status=0
mkfs.ext4 -q -F -L root -N "$LAB_INODES" -E lazy_itable_init=0,lazy_journal_init=0 -d "$plain" /proc/self/fd/9 || status=$?
umount "$plain"
rmdir "$plain"
exit "$status"
