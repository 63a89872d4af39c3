#!/bin/sh
# wipe: nothing is left of the last holder, on the disk or of the network.
. ./host.sh
answers || fail "does not answer"
rm -f "$host/up"
find "$host/disk" -mindepth 1 -delete
left=$(find "$host/disk" -mindepth 1 | wc -l)
[ "$left" -eq 0 ] || fail "$left files are left on the disk"
say "the disk is empty"
