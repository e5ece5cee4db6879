"""An S3 server for tests (moto), with a log of what was asked."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3
from botocore.config import Config
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server


class _Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, *args: object, **kwargs: object) -> None:
        pass


class Store:
    """``client`` is boto3's; ``asked`` has method, path and query of each request that is not the client's."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str]] = []
        self.refusing = 0  # requests that get a 503
        application = DomainDispatcherApplication(create_backend_app)

        def logged(environ: dict[str, Any], begin: Any) -> Any:
            if "Boto3" not in environ.get("HTTP_USER_AGENT", ""):
                self.asked.append((environ["REQUEST_METHOD"], environ["PATH_INFO"], environ["QUERY_STRING"]))
                if self.refusing:
                    self.refusing -= 1
                    begin("503 Slow Down", [("Content-Length", "0")])
                    return [b""]
            return application(environ, begin)

        self._server = make_server("127.0.0.1", 0, logged, threaded=True, request_handler=_Quiet)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self.client: Any = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id="key",
            aws_secret_access_key="secret",  # noqa: S106 - of a server in this process
            region_name="us-east-1",
            config=Config(connect_timeout=5, read_timeout=20, s3={"addressing_style": "path"}),
        )

    def bucket(self, name: str, *, versions: bool = False) -> None:
        self.client.create_bucket(Bucket=name)
        if versions:
            self.client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})

    def put(self, bucket: str, key: str, data: bytes) -> str | None:
        """Place an object; returns its version, if the bucket has any."""
        version: str | None = self.client.put_object(Bucket=bucket, Key=key, Body=data).get("VersionId")
        return version

    def close(self) -> None:
        self.client.close()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


@contextmanager
def storing() -> Iterator[Store]:
    store = Store()
    try:
        yield store
    finally:
        store.close()
