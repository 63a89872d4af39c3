#!/bin/sh
# validate: the box does what its holder will ask of it. What passes here is promised, so try it as a holder would.
set -eu
cd "$(dirname "$0")"
. ./box.sh

# login.py reads the address and the password from the box's folder, so that neither is in a command line.
python3 ./login.py "$box" >&2
