"""The first example: fetch a page on the event loop, count its words in a worker process, report in a thread.

    python examples/quickstart.py

The page comes from a small HTTP server that the example starts for itself.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pmflow
from pmflow import process

if TYPE_CHECKING:
    from collections.abc import Generator


@process(type="async", timeout=5, retries=3)
async def page(url: str) -> str:
    """Fetch: it waits on the network, so it runs on the event loop."""
    return await fetched(url)


@process(type="process", timeout=30)
def words(page: str) -> Counter[str]:
    """Count: it burns CPU, so it runs in a worker process, which is killed after 30 s."""
    return Counter(re.findall(r"[a-z]+", page.lower()))


@process
def report(words: Counter[str], top: int = 3) -> str:
    """Sum up: a plain function runs in a thread."""
    return ", ".join(f"{word} {count}" for word, count in words.most_common(top))


# What is around it: a client and a server of the standard library


async def fetched(url: str) -> str:
    """Return the body that a plain HTTP GET answers with."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        writer.write(f"GET {address.path} HTTP/1.0\r\nHost: {address.netloc}\r\n\r\n".encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.close()
        await writer.wait_closed()
    status = head.decode("latin-1").split("\r\n")[0]
    if " 200 " not in status:
        raise OSError(f"{url} answered {status!r}")
    return body.decode()


class Pages(BaseHTTPRequestHandler):
    """Answers every GET with the same page."""

    TEXT = b"""
    A process waits for its inputs and for nothing else. When the inputs are there, the process starts. What waits on
    the network waits on the event loop, what computes has a core for itself, and the rest runs in the threads.
    """

    def do_GET(self) -> None:
        """Answer."""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.TEXT)

    def log_message(self, *_: object, **__: object) -> None:
        """Keep quiet."""


@contextmanager
def server() -> Generator[str]:
    """Serve on a free port of this machine, for as long as the context lasts; gives the address."""
    with HTTPServer(("127.0.0.1", 0), Pages) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{http.server_port}/"
        finally:
            http.shutdown()
            thread.join()


with server() as url:
    run = pmflow.run(report, inputs={"url": url})

print(run.value)
for name, result in run.items():
    print(
        f"{name}: {result.state.value}, {result.strategy.value if result.strategy else '-'}, {result.attempts} attempt"
    )
