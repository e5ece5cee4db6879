"""Servers that speak S3, each a process of its own on a port of its own: moto's, and rclone's.

They differ where it matters. moto's checks no signature, and knows versions. rclone's checks signatures, keeps objects in a
directory, and answers ranges with status 200 and a Content-Range (up to 1.75 at least), which obstore refuses; behind a proxy
with the act :func:`partial` it answers as S3 does.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import boto3
from botocore.config import Config

from tests.faults.proxy import Exchange, relay

KEY: Final = "key-of-the-tests"
SECRET: Final = "secret-of-the-tests"  # noqa: S105 - of a server on this machine
REGION: Final = "us-east-1"
BUCKET: Final = "bucket"
PAGE: Final = 100
START_SECONDS: Final = 60.0
END_SECONDS: Final = 10.0


@dataclass(frozen=True)
class Server:
    """A running server. ``client`` is boto3's, for what happens behind the back of what is tested."""

    port: int
    client: Any = field(repr=False)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environ(self) -> dict[str, str]:
        """What a process must have set to reach it."""
        return environ_of(self.endpoint)

    def keys(self, prefix: str = "", bucket: str = BUCKET) -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return [found["Key"] for page in pages for found in page.get("Contents", ())]

    def unfinished(self, bucket: str = BUCKET) -> list[str]:
        """Keys of uploads in parts that neither were completed nor given up."""
        return [each["Key"] for each in self.client.list_multipart_uploads(Bucket=bucket).get("Uploads", ())]


def environ_of(endpoint: str, *, key: str = KEY, secret: str = SECRET) -> dict[str, str]:
    return {
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_REGION": REGION,
        "AWS_ENDPOINT_URL": endpoint,
    }


@contextmanager
def moto() -> Iterator[Server]:
    """moto's server, which keeps all in memory. A page of its listings has PAGE keys."""
    environ = {"MOTO_S3_DEFAULT_MAX_KEYS": str(PAGE)}
    with _running([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"], environ) as server:
        yield server


@contextmanager
def rclone() -> Iterator[Server]:
    """``rclone serve s3`` on a directory of its own."""
    program = Path(sys.executable).with_name("rclone")
    with tempfile.TemporaryDirectory(prefix="rclone-") as directory:
        environ = {"RCLONE_AUTH_KEY": f'"{KEY},{SECRET}"', "RCLONE_CONFIG": "/dev/null", "HOME": directory}
        objects = Path(directory) / "objects"
        objects.mkdir()
        with _running([str(program), "serve", "s3", "--addr", "127.0.0.1:0", str(objects)], environ) as server:
            yield server


def google(exchange: Exchange) -> None:
    """Relay what is said as to Google Cloud Storage, whose XML API is S3's, with the credentials that moto's server wants to see."""
    signed = f"AWS4-HMAC-SHA256 Credential={KEY}/20260101/{REGION}/s3/aws4_request, SignedHeaders=host, Signature=0"
    data = re.sub(rb"(?i)\r\nauthorization:[^\r]*", b"", exchange.head.data)
    exchange.head.data = data.replace(b"\r\n\r\n", f"\r\nAuthorization: {signed}\r\n\r\n".encode())
    relay(exchange)


def partial(exchange: Exchange) -> None:
    """Relay, and say 206 of what is a part. One request a connection, so that the end of an answer is its end."""
    exchange.head.data = exchange.head.data.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    with exchange.forwarded() as (head, body):
        whole = "content-range" not in head.fields
        exchange.send(head.data if whole else re.sub(rb"^(HTTP/1.1) 200 \w+", rb"\1 206 Partial Content", head.data))
        for data in body:
            exchange.send(data)


@contextmanager
def _running(words: Sequence[str], environ: dict[str, str]) -> Iterator[Server]:
    with tempfile.TemporaryFile() as log:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RCLONE_"))}
        process = subprocess.Popen(
            words, env={**kept, **environ}, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            port = _port(process, log.fileno())
            client = boto3.client(
                "s3",
                endpoint_url=f"http://127.0.0.1:{port}",
                aws_access_key_id=KEY,
                aws_secret_access_key=SECRET,
                region_name=REGION,
                config=Config(connect_timeout=60, read_timeout=60, s3={"addressing_style": "path"}),
            )
            try:
                client.create_bucket(Bucket=BUCKET)
                yield Server(port, client)
            finally:
                client.close()
        finally:
            process.terminate()
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _port(process: subprocess.Popen[bytes], log: int) -> int:
    """What the server says on starting: it has chosen a free one."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        said = os.pread(log, 1 << 16, 0).decode(errors="replace")
        if found := re.search(r"http://127\.0\.0\.1:(\d+)", said):
            return int(found[1])
        assert process.poll() is None, f"it has ended: {said}"
        assert time.monotonic() < deadline, f"it does not start: {said}"
        time.sleep(0.02)
