#!/bin/sh
# deliver: a new password for this holder. What is printed here is the holder's alone.
. ./host.sh
umask 077
od -An -N12 -tx1 /dev/urandom | tr -d ' \n' >"$host/password"
echo "ssh root@$LEASEHOLD_RESOURCE, password $(cat "$host/password")"
