#!/bin/sh
# provision, 2: the first boot from its own disk.
. ./host.sh
answers || fail "does not answer"
test -s "$host/disk/os" || fail "there is nothing to boot"
touch "$host/up"
say "is up"
