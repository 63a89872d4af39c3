"""Commands of other systems, for scripts that have them: the same arguments, over Leasehold's own API."""
