# Sourced by the hooks for one host: its folder stands for the machine, disk and all.
set -eu
host=.state/hosts/$LEASEHOLD_RESOURCE
mkdir -p "$host/disk"

say() { echo "$LEASEHOLD_RESOURCE: $*" >&2; }
fail() { say "$*"; exit 1; }

# A host whose cable is out answers nobody. To see what becomes of a lease then: touch .state/hosts/metal02/unplugged
answers() { test ! -e "$host/unplugged"; }
