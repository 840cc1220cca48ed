#!/bin/sh
# Takes away what only the build of the tree ($1) needed. Run by mmdebstrap, before the tree is packed.
set -eu
rm -rf "$1/var/cache/lab-stash"
# mmdebstrap takes it away only after its hooks; with it no package that is installed later would start its service.
rm -f "$1/usr/sbin/policy-rc.d"
