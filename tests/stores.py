"""An object store for tests: moto's S3 server in a process of its own, and memory inside this one."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

__all__ = ["Store", "download", "s3_store"]

_SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print("http://%s:%d" % server.get_host_and_port(), flush=True)
sys.stdin.read()
server.stop()
"""

BUCKET = "penstock-tests"

_CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "penstock",
    "AWS_SECRET_ACCESS_KEY": "not a secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


class Store:
    """A bucket; every test has its own prefix in it."""

    def prefix(self) -> str:
        """The URL of a place where nothing is."""
        return f"s3://{BUCKET}/{uuid.uuid4().hex}/out"


@contextlib.contextmanager
def s3_store() -> Iterator[Store]:
    """A bucket on a server of its own; clients in this process and its children find it by their environment."""
    for package in ("moto", "s3fs", "upath"):
        pytest.importorskip(package, reason=f"{package} is not installed: the development extra has it")
    import fsspec

    # Errors go where nobody reads: a line for each request would fill a pipe.
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        url = next(line for line in process.stdout if line.startswith(b"http")).decode().strip()
        with pytest.MonkeyPatch.context() as patch:
            for name, value in (_CREDENTIALS | {"AWS_ENDPOINT_URL": url}).items():
                patch.setenv(name, value)
            fsspec.get_filesystem_class("s3").clear_instance_cache()  # of an earlier server
            fsspec.filesystem("s3").mkdir(BUCKET)
            yield Store()
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait()


def download(url: str, folder: Path) -> Path:
    """The whole output, copied to a disk as it is."""
    import fsspec

    system, path = fsspec.core.url_to_fs(url)
    system.invalidate_cache()
    for key in system.find(path):
        target = folder / key.removeprefix(f"{path}/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(system.cat_file(key))
    return folder
