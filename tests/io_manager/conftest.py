"""A bucket for the tests of the I/O manager."""

from collections.abc import Iterator
from typing import Any

import pytest
from moto.server import ThreadedMotoServer
from upath import UPath

BUCKET = "kumo-predictions"


@pytest.fixture(scope="session")
def s3() -> Iterator[dict[str, Any]]:
    """The storage options of a real S3 API on this machine, with a bucket in it."""
    server = ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    options = {"key": "test", "secret": "test", "endpoint_url": f"http://{host}:{port}"}
    UPath(f"s3://{BUCKET}", **options).mkdir(exist_ok=True)
    yield options
    server.stop()
