"""Pretrained networks that stay as they are: what they see is a measure or an input of others.

Each has a loader of its own, that verifies a pinned hash and reads data, never code.
"""
