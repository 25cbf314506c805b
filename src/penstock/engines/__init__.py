"""Where lanes run.

>>> from penstock.engines import Dask, Ray
>>> penstock.run("urls.parquet", "/shared/out", engine=Ray())  # doctest: +SKIP
>>> penstock.run("urls.parquet", "/shared/out", engine=Dask(client))  # doctest: +SKIP
"""

from penstock.engines.clusters import Dask, Ray

__all__ = ["Dask", "Ray"]
