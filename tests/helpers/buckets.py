"""A bucket for tests: moto's S3 server, and a proxy before it that counts requests and can fail."""

import http.client
import random
import socket
import struct
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from preprocess import remote

FAULTS = ("503", "500", "reset", "lost answer", "torn body")
_CODES = {"503": b"SlowDown", "500": b"InternalError", "403": b"AccessDenied", "301": b"PermanentRedirect"}
_S3_ERROR = b"<Error><Code>%s</Code><Message>made by a test</Message></Error>"


class Bucket:
    """The bucket `chips` on a local server; AWS_ENDPOINT_URL names it."""

    def __init__(self, client: Any, endpoint: str) -> None:
        self.client, self.endpoint = client, endpoint

    def upload(self, folder: Path, name: str) -> str:
        """Upload every file of a folder; returns the address."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.client.upload_file(str(path), "chips", f"{name}/{path.relative_to(folder)}")
        return f"s3://chips/{name}"

    def keys(self, prefix: str = "") -> list[str]:
        """The keys below a prefix."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket="chips", Prefix=prefix)
        return [each["Key"] for page in pages for each in page.get("Contents", ())]

    def read(self, key: str) -> bytes:
        """The bytes of an object."""
        data: bytes = self.client.get_object(Bucket="chips", Key=key)["Body"].read()
        return data

    def tree(self, name: str) -> dict[str, bytes]:
        """Every object of a store, by its key in the store."""
        return {key.removeprefix(f"{name}/"): self.read(key) for key in self.keys(f"{name}/")}


@contextmanager
def bucket_server() -> Iterator[Bucket]:
    """A server with an empty bucket. The environment names it inside the block."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ALLOW_HTTP", "true")
        # Servers of one process share their buckets.
        urllib.request.urlopen(f"http://{host}:{port}/moto-api/reset", data=b"").close()
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="chips")
        yield Bucket(client, f"http://{host}:{port}")
        client.close()
    server.stop()


class Proxy(ThreadingHTTPServer):
    """Passes requests on to an S3 server and notes each as (method, path). `fault` may name one of FAULTS for it,
    or a status such as 403."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, endpoint: str, fault: Callable[[int], str | None] = lambda number: None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target, self.fault, self.lock = endpoint.removeprefix("http://"), fault, Lock()
        self.requests: list[tuple[str, str]] = []
        self.faults: list[str] = []
        self.statuses: list[int] = []
        self.sent = 0  # bytes of bodies
        self.hidden: tuple[str, ...] = ()  # headers that are not passed on

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed, or a reset that a test wants, is no error."""

    def number(self, method: str, path: str) -> int:
        """Note a request; returns how many came before."""
        with self.lock:
            self.requests.append((method, path))
            return len(self.requests) - 1


def one_in_ten(number: int) -> str | None:
    """A fault for one request in ten, always the same ones."""
    chance = random.Random(number)
    return chance.choice(FAULTS) if chance.random() < 0.1 else None


@contextmanager
def proxy(bucket: Bucket, fault: Callable[[int], str | None] = lambda number: None) -> Iterator[Proxy]:
    """A proxy before the bucket's server. The environment names it inside the block."""
    server = Proxy(bucket.endpoint, fault)
    Thread(target=server.serve_forever, daemon=True).start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}")
        # As often as for a user, without the waits.
        patch.setattr(remote, "_BACKOFF", {**remote._BACKOFF, "init_backoff": timedelta(milliseconds=1)})
        patch.setattr(remote, "_WAIT_S", 0.001)
        yield server
    server.shutdown()
    server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Proxy
    protocol_version = "HTTP/1.1"

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.server.fault(self.server.number(self.command, self.path))
        if fault:
            self.server.faults.append(fault)
        if fault in _CODES:
            self._answer(int(fault), {}, _S3_ERROR % _CODES[fault])
            return
        if fault == "reset":
            self._reset()
            return
        hidden = [name.lower() for name in self.server.hidden]
        headers = {name: value for name, value in self.headers.items() if name.lower() not in hidden}
        connection = http.client.HTTPConnection(self.server.target)
        connection.request(self.command, self.path, body, headers)
        response = connection.getresponse()
        data, status, answer = response.read(), response.status, dict(response.getheaders())
        connection.close()
        self.server.statuses.append(status)
        self.server.sent += len(data)
        if fault == "lost answer":
            self._reset()
        else:
            self._answer(status, answer, data, torn=fault == "torn body")

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on

    def _answer(self, status: int, headers: dict[str, str], data: bytes, *, torn: bool = False) -> None:
        self.send_response(status)
        headers.setdefault("Content-Length", str(len(data)))
        for name, value in headers.items():
            if name.lower() not in ("connection", "date", "server", "transfer-encoding"):
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if torn else data)
        if torn:
            self.wfile.flush()
            self._reset()

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True
        self.rfile.close()
        self.wfile = _Nothing()

    def log_message(self, *words: object) -> None:
        pass


class _Nothing:
    closed = True

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass
