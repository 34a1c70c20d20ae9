"""A file server that speaks as much S3 as reading a store needs, and answers each request after a fixed time.

In: a folder. Out: `LatencyServer`, whose address is in the environment while it is open: `s3://chips/a/b` is
`folder/a/b`. GET and HEAD of whole objects and byte ranges, no listing, no signature. One event loop serves hundreds of
requests at the same time, so that it is the latency that limits a reader. moto, which the tests use, reads a whole
object for each range.
"""

import asyncio
import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from urllib.parse import unquote, urlsplit

BUCKET = "chips"
_HEAD = 'HTTP/1.1 {status}\r\nContent-Length: {length}\r\nETag: "{etag}"\r\nLast-Modified: {time}\r\n{more}\r\n'
_TIME = "Sat, 28 Nov 2026 00:00:00 GMT"
_NONE = b"<Error><Code>NoSuchKey</Code></Error>"


@contextmanager
def latency_server(folder: Path, latency_s: float) -> Iterator[None]:
    """Serve `folder` in a process of its own. The environment names the server inside the block."""
    near, far = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(folder, latency_s, far), daemon=True)
    process.start()
    far.close()
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{near.recv()}", "AWS_ALLOW_HTTP": "true", "AWS_SKIP_SIGNATURE": "true",
        "AWS_REGION": "us-east-1",
    }  # fmt: skip
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
        process.terminate()
        process.join()


def _serve(folder: Path, latency_s: float, pipe: Connection) -> None:
    asyncio.run(_run(folder, latency_s, pipe))


async def _run(folder: Path, latency_s: float, pipe: Connection) -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                await asyncio.sleep(latency_s)
                await _answer(folder, lines, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has closed the connection
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, backlog=256)
    pipe.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()


async def _answer(folder: Path, lines: list[str], writer: asyncio.StreamWriter) -> None:
    method, target, _ = lines[0].split()
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    path = folder / unquote(urlsplit(target).path).removeprefix(f"/{BUCKET}/")
    if not path.is_file():
        writer.write(_HEAD.format(status="404 Not Found", length=len(_NONE), etag=0, time=_TIME, more="").encode())
        writer.write(b"" if method == "HEAD" else _NONE)
        await writer.drain()
        return
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        start, end = _byte_range(headers.get("range"), size)
        more = "" if "range" not in headers else f"Content-Range: bytes {start}-{end - 1}/{size}\r\n"
        status = "206 Partial Content" if more else "200 OK"
        head = _HEAD.format(status=status, length=end - start, etag=size, time=_TIME, more=more)
        writer.write(head.encode())
        if method == "GET" and end > start:
            await asyncio.get_running_loop().sendfile(writer.transport, file, start, end - start)
        await writer.drain()


def _byte_range(header: str | None, size: int) -> tuple[int, int]:
    if header is None:
        return 0, size
    first, _, last = header.removeprefix("bytes=").partition("-")
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(size, int(last) + 1) if last else size
