"""Bytes to pixels to bytes: pure functions."""
