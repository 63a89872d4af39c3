#!/bin/sh
# Starts the power controller of this example, or stops it: `controller.sh start|stop`.
set -eu
cd "$(dirname "$0")"
umask 077
state=$(pwd -P)/.state
mkdir -p "$state"

fail() { echo "$*" >&2; exit 1; }

# A process number in a file can belong to another program by now: look.
pid() {
  found=$(cat "$state/pid" 2>/dev/null) || return 1
  tr '\0' ' ' <"/proc/$found/cmdline" 2>/dev/null | grep -qF "controller.py $state " || return 1
  echo "$found"
}
stopped() { ! pid >/dev/null; }
started() { pid >/dev/null && test -s "$state/port"; }

# Waits up to 10 seconds until a command says yes.
within_10s() {
  tries=100
  until "$@"; do
    tries=$((tries - 1))
    [ "$tries" -gt 0 ] || return 1
    sleep 0.1
  done
}

# Both begin the same way, so that a second run for the same lease finds what the first one found.
if running=$(pid); then
  kill "$running" 2>/dev/null || true
  within_10s stopped || fail "process $running does not end"
fi
rm -f "$state/pid" "$state/port" "$state/token"

if [ "$1" = start ]; then
  od -An -N18 -tx1 /dev/urandom | tr -d ' \n' >"$state/token"
  # What has to outlive this script calls setsid, and lets go of our input and output.
  setsid python3 ./controller.py "$state" </dev/null >"$state/log" 2>&1 &
  within_10s started || fail "the controller did not start: $(tail -n 3 "$state/log")"
  echo "the controller listens on port $(cat "$state/port")" >&2
fi
