#!/bin/sh
# provision, 1: install what the request asks for ({"params": {"os": "…"}}); needs a slot of the provisioner.
. ./host.sh
answers || fail "does not answer"
rm -f "$host/up"
python3 -c 'import json, os; print(json.loads(os.environ["LEASEHOLD_PARAMS"]).get("os", "el9"))' >"$host/disk/os.new"
mv "$host/disk/os.new" "$host/disk/os"
say "installed $(cat "$host/disk/os")"
