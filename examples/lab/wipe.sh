#!/bin/sh
# wipe: nothing of the last holder is left.
set -eu
cd "$(dirname "$0")"
. ./box.sh

# Nobody may write while we delete: a server that an interrupted release left behind ends here.
stop_server
rm -f "$box/password"

say "emptying the folder"
find "$box/files" -mindepth 1 -delete

# Do not believe it: look. A stage that proves its work is worth more than one that did it.
left=$(find "$box/files" -mindepth 1 | wc -l)
[ "$left" -eq 0 ] || fail "$left files are left"
say "the folder is empty"
