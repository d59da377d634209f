"""Measurements of the server against the physical limit, paired in one run. Run with ``make bench``."""
