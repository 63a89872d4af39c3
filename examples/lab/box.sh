# What the lab's scripts share; each reads it with `. ./box.sh`. Not run by itself.
#
# Leasehold starts the scripts in this folder, with the resource's name and more in LEASEHOLD_* variables (see "Hook
# environment" in the docs), and with nothing of its own environment. A script may be killed at any moment and run
# again for the same lease, so each begins by making sure of what it needs, whatever an earlier run has left.
# shellcheck shell=sh

# Everything kept about a box is for its owner's eyes only: files 0600, folders 0700.
umask 077

# The box's own folder: files/ is what the holder sees, the rest is about the server.
box=$(pwd -P)/.state/${LEASEHOLD_POOL:?}/${LEASEHOLD_RESOURCE:?}
mkdir -p "$box/files"

# stderr is the stage's log, which everyone may read. stdout is its result: of `deliver`, a secret.
say() { echo "$LEASEHOLD_RESOURCE: $*" >&2; }
fail() { say "$@"; exit 1; }

# The process number of the box's server, if it runs. A number in a file can belong to another program by now: look.
server_pid() {
  pid=$(cat "$box/pid" 2>/dev/null) || return 1
  tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF "server.py $box " || return 1
  echo "$pid"
}

# Waits up to 10 seconds until a command says yes.
within_10s() {
  tries=100
  until "$@"; do
    tries=$((tries - 1))
    [ "$tries" -gt 0 ] || return 1
    sleep 0.1
  done
}

server_is_gone() { ! server_pid >/dev/null; }

# Stops the server, if there is one, and is done only when it is gone.
stop_server() {
  if pid=$(server_pid); then
    say "stopping the server, process $pid"
    kill "$pid" 2>/dev/null || true
    within_10s server_is_gone || kill -9 "$pid" 2>/dev/null || true
    within_10s server_is_gone || fail "process $pid does not end"
  fi
  rm -f "$box/pid"
}
