#!/bin/sh
# deliver: what the holder needs to connect, on stdout. Leasehold keeps it as a secret, readable by the lease's holder
# alone; it is in no log. May be asked for twice, and answers the same.
set -eu
cd "$(dirname "$0")"
. ./box.sh

server_pid >/dev/null || fail "the server does not run"

# echo and cat <file are safe here: echo is built into the shell, and so appears in no process list.
echo "URL=http://127.0.0.1:$(cat "$box/port")"
echo "USER=lab"
echo "PASSWORD=$(cat "$box/password")"
