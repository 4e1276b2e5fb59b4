"""Measuring generated video."""
