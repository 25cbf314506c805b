"""Penstock: a list of image URLs in, training-ready images out."""

__version__ = "0.1.0"
