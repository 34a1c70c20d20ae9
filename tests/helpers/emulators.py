"""Third-party servers with the protocols of Azure and Google, on 127.0.0.1: azurite and fake-gcs-server.

They are test tools, not dependencies: CONTRIBUTING says how to get them. Without them tests are skipped.
"""

import base64
import hashlib
import hmac
import http.client
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import quote, unquote

import pytest
from obstore.store import from_url

AZURITE, FAKE_GCS = "azurite-blob", "fake-gcs-server"
ACCOUNT = "devstoreaccount1"  # of every azurite, with this key
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
START_S = 120.0


class Emulated:
    """The bucket (container) `chips` of a server; the environment names the server."""

    def __init__(self, scheme: str) -> None:
        self.scheme = scheme
        self.store: Any = from_url(f"{scheme}://chips")

    def upload(self, folder: Path, name: str) -> str:
        """Upload every file of a folder; returns the address."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.store.put(f"{name}/{path.relative_to(folder)}", path.read_bytes(), use_multipart=False)
        return f"{self.scheme}://chips/{name}"

    def tree(self, name: str) -> dict[str, bytes]:
        """Every object of a store, by its key in the store."""
        keys = [each["path"] for page in self.store.list(f"{name}/") for each in page]
        return {key.removeprefix(f"{name}/"): bytes(self.store.get(key).bytes()) for key in keys}


@contextmanager
def emulator(scheme: str, folder: Path) -> Iterator[Emulated]:
    """A server with an empty bucket. The environment names it inside the block, and no other server."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("AWS_", "AZURE_", "GOOGLE_"))]:
            patch.delenv(name)
        with _azure(folder, patch) if scheme == "az" else _google(folder, patch):
            yield Emulated(scheme)


@contextmanager
def _azure(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[None]:
    words = ["--blobHost", "127.0.0.1", "--blobPort", "0", "--inMemoryPersistence", "--skipApiVersionCheck"]
    with _server(AZURITE, words, folder / "azurite.log", "successfully listens on ") as address:
        patch.setenv("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT)
        patch.setenv("AZURE_STORAGE_ACCOUNT_KEY", KEY)
        patch.setenv("AZURE_STORAGE_ENDPOINT", f"{address}/{ACCOUNT}")
        patch.setenv("AZURE_ALLOW_HTTP", "true")
        date = formatdate(usegmt=True)
        headers = f"x-ms-date:{date}\nx-ms-version:2021-08-06\n"
        text = "PUT" + "\n" * 12 + f"{headers}/{ACCOUNT}/{ACCOUNT}/chips\nrestype:container"
        signature = base64.b64encode(hmac.digest(base64.b64decode(KEY), text.encode(), hashlib.sha256)).decode()
        request = urllib.request.Request(
            f"{address}/{ACCOUNT}/chips?restype=container", method="PUT",
            headers={"x-ms-date": date, "x-ms-version": "2021-08-06", "Content-Length": "0",
                     "Authorization": f"SharedKey {ACCOUNT}:{signature}"},
        )  # fmt: skip
        urllib.request.urlopen(request).close()
        yield


@contextmanager
def _google(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[None]:
    with socket.create_server(("127.0.0.1", 0)) as free:  # the server prints port 0 if it chooses one itself
        port = free.getsockname()[1]
    words = ["-backend", "memory", "-scheme", "http", "-host", "127.0.0.1", "-port", str(port)]
    with ThreadingHTTPServer(("127.0.0.1", 0), _GoogleFront) as front:  # closed also if the test is skipped
        host = f"127.0.0.1:{front.server_address[1]}"
        words += ["-public-host", host, "-external-url", f"http://{host}"]
        with _server(FAKE_GCS, words, folder / "gcs.log", "server started at ") as address:
            _GoogleFront.target = address.removeprefix("http://")
            Thread(target=front.serve_forever, daemon=True).start()
            keys = {"gcs_base_url": f"http://{host}", "disable_oauth": True, "client_email": "", "private_key": ""}
            (folder / "keys.json").write_text(json.dumps({**keys, "private_key_id": ""}))
            patch.setenv("GOOGLE_SERVICE_ACCOUNT", str(folder / "keys.json"))
            body, kind = json.dumps({"name": "chips"}).encode(), {"Content-Type": "application/json"}
            urllib.request.urlopen(urllib.request.Request(f"{address}/storage/v1/b?project=p", body, kind)).close()
            yield
            front.shutdown()


@contextmanager
def _server(name: str, words: list[str], log: Path, mark: str) -> Iterator[str]:
    """Run a server; gives its address, which it prints after `mark`. Skips the test if there is no such program."""
    folder = os.environ.get("CANOPY_EMULATORS", "")
    program = shutil.which(name, path=f"{folder}:{os.environ['PATH']}")
    if program is None:
        pytest.skip(f"needs {name} (CONTRIBUTING says how to get it)")
    with open(log, "wb") as file:
        process = subprocess.Popen([program, *words], stdout=file, stderr=subprocess.STDOUT, cwd=log.parent)
    try:
        end = time.monotonic() + START_S
        while mark not in (text := log.read_text()):
            assert process.poll() is None, text
            assert time.monotonic() < end, text
            time.sleep(0.05)
        yield text.split(mark)[1].split()[0].strip('"')
    finally:
        process.terminate()
        process.wait()


class _GoogleFront(BaseHTTPRequestHandler):
    """Passes requests on. fake-gcs-server lacks the PUT of Google's XML protocol: it becomes an upload of the JSON
    protocol, whose answer says generation and ETag in its body in place of headers."""

    protocol_version = "HTTP/1.1"
    target = ""

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path, headers = self.path, dict(self.headers.items())
        is_upload = self.command == "PUT"
        if is_upload:
            bucket, _, key = path.removeprefix("/").partition("/")
            path = f"/upload/storage/v1/b/{bucket}/o?uploadType=multipart"
            facts, kind = json.dumps({"name": unquote(key)}).encode(), b"\r\nContent-Type: application/"
            parts = b"--part" + kind + b"json\r\n\r\n" + facts + b"\r\n--part" + kind + b"octet-stream\r\n\r\n"
            body = parts + body + b"\r\n--part--"
            headers = {name: value for name, value in headers.items() if name.startswith("x-goog")}
            headers["Content-Type"] = 'multipart/related; boundary="part"'
            if (generation := headers.pop("x-goog-if-generation-match", None)) is not None:
                path += f"&ifGenerationMatch={quote(generation)}"
        connection = http.client.HTTPConnection(self.target)
        connection.request("POST" if is_upload else self.command, path, body, headers)
        response = connection.getresponse()
        data, answer = response.read(), dict(response.getheaders())
        connection.close()
        if is_upload and response.status == 200:
            facts = json.loads(data)
            answer |= {"ETag": facts["etag"], "x-goog-generation": str(facts["generation"])}
        self.send_response(response.status)
        for name, value in answer.items():
            if name.lower() not in ("connection", "date", "server", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        self.send_header("Content-Length", answer.get("Content-Length", str(len(data))))
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(data)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on

    def log_message(self, *words: object) -> None:
        pass
