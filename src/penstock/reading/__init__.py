"""Written shards as a source of rows and bytes, without network.

::

    journal, tables ──rows──▶ ShardSource ──Row("shard:00012.tar#jpg@1536+3456")──▶ ShardFetcher ──bytes──▶ stored_work

A row's URL is a `places.Place`: where in the files of the shard the bytes of a part lie. Only the fetcher of this room
understands it; those of the network refuse the scheme.
"""

from penstock.reading.fetcher import ShardFetcher
from penstock.reading.source import ShardSource, ShardSpec, is_shards
from penstock.reading.work import stored_work

__all__ = ["ShardFetcher", "ShardSource", "ShardSpec", "is_shards", "stored_work"]
