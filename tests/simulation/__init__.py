"""Deliveries of bare metal played through in virtual time: the service is real, only what hosts do is made up."""
