#!/bin/sh
# validate: the host is up, and runs what was asked for.
. ./host.sh
answers || fail "does not answer"
test -e "$host/up" || fail "is not up"
say "runs $(cat "$host/disk/os")"
