"""What every part of Leasehold shares, and the client: the installed wheel holds just this package."""

__version__ = "0.1.0"
