"""A list of URLs, in whatever form, as a stream of rows."""

from penstock.source.opening import Source, SourceSpec, open_list, open_source

__all__ = ["Source", "SourceSpec", "open_list", "open_source"]
