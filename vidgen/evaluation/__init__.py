"""Measuring generated videos beside real ones."""
