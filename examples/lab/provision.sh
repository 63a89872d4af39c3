#!/bin/sh
# provision: a fresh credential, and a server that knows it.
set -eu
cd "$(dirname "$0")"
. ./box.sh

# A second run for the same lease starts from here as well: nobody has been told the first password yet.
stop_server
rm -f "$box/port"

# The password goes into a file only we can read, never into a command line (everyone's `ps` shows those).
od -An -N18 -tx1 /dev/urandom | tr -d ' \n' >"$box/password"

# When this script ends, Leasehold kills all that is left in its process group. What has to live on calls setsid, and
# lets go of our input and output.
setsid python3 ./server.py "$box" </dev/null >"$box/server.log" 2>&1 &

# The server picks a free port and writes it down when it listens.
within_10s test -s "$box/port" || fail "the server did not start: $(tail -n 3 "$box/server.log")"
say "listens on port $(cat "$box/port")"
