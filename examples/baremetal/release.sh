#!/bin/sh
# release: off, and out of every network. What is on the disk stays until the next wipe.
. ./host.sh
rm -f "$host/up" "$host/password"
port=$(python3 -c 'import json, os; print(json.loads(os.environ["LEASEHOLD_PROPERTIES"])["switch_port"].replace("/", "_"))')
rm -f ".state/switch/$port"
test ! -e ".state/switch/$port" || fail "its port still has a configuration"
say "is off"
