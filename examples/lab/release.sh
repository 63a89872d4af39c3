#!/bin/sh
# release: the holder can do nothing any more. The files stay until the next wipe.
set -eu
cd "$(dirname "$0")"
. ./box.sh

stop_server
rm -f "$box/password"

# Prove it: nothing answers on the port that the holder knows. (A box that was never provisioned has none.)
if [ -s "$box/port" ]; then
  python3 ./login.py "$box" --closed >&2
  rm -f "$box/port"
fi
say "released"
