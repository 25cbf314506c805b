"""Bytes from URLs: policy decides, a fetcher carries out."""
