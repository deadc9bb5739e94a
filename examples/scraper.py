"""A scraper that is polite and does not give up: a book shop is read page by page, whatever state it is in.

    python examples/scraper.py [--per-second 20]

The shop is a server that the example starts for itself on this machine, and it is as the web is: one page is busy at
first, one is gone, one never answers, one has no price, and the storehouse does not know every book. What can be had is
had, and the report says what is missing, and why.

What it shows:

- ``map_over`` a list of links that only the run knows: each book goes its own way, from its link to its row;
- ``limit="shop"``: a limit by name, shared by processes; the run says what it is, here so many requests a second;
  ``limit=2`` is a process's own: at most two at once;
- ``retries`` with growing delays, for what may pass (`BusyError`, a timeout), not for a page that is gone;
- ``required=False``: what fails is left out; ``fallback=None``: what fails is None instead;
- pages are fetched in threads, since that waits, and parsed in worker processes, since that computes;
- ``list[ProcessResult]``: the report takes what became of each page, and not only the good ones.

From a program of your own, the module is the graph:

    pmflow.run(scraper, inputs={"url": "http://127.0.0.1:8000/"}, limits={"shop": 4})
"""

from __future__ import annotations

import argparse
import json
import threading
from collections import Counter
from contextlib import closing, contextmanager
from html.parser import HTMLParser
from http import HTTPStatus
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, ClassVar, TypedDict
from urllib.parse import urljoin, urlsplit

import pmflow
from pmflow import ProcessResult, Rate, RetryStrategy, process

if TYPE_CHECKING:
    from collections.abc import Generator


class Book(TypedDict):
    """What a page says of a book: plain data, which travels from a worker at the least cost."""

    title: str
    price: float
    stock: str


class BusyError(OSError):
    """A server that may have an answer the next time."""


PATIENCE = RetryStrategy(max_retries=2, delay_seconds=0.1, jitter=0.5, retry_on=(BusyError, TimeoutError))


@process(limit="shop", retries=PATIENCE, timeout=5)
def links(url: str) -> list[str]:
    """Read the shop window: one link for each book. Without it there is nothing to do, so it is required."""
    return [urljoin(url, link) for link in parsed(fetched(url))["href"]]


@process(map_over={"link": "links"}, limit="shop", retries=PATIENCE, timeout=1.5, required=False)
def page(link: str) -> str:
    """Fetch one page: in a thread."""
    return fetched(link)


@process(type="process", map_over="page", timeout=30, required=False)
def book(page: str) -> Book:
    """Parse one page: in a worker process."""
    found = parsed(page)
    if "price" not in found:
        raise ValueError("the page has no price")
    return {"title": found["title"][0], "price": float(found["price"][0]), "stock": found["href"][0]}


@process(map_over="book", limit=2, retries=1, timeout=5, fallback=None)
def stock(book: Book, url: str) -> int | None:
    """Ask the storehouse how many there are; None where it does not say."""
    return int(json.loads(fetched(urljoin(url, book["stock"])))["copies"])


@process
def report(
    links: list[str],
    page: list[ProcessResult[str]],
    book: list[ProcessResult[Book]],
    stock: list[ProcessResult[int | None]],
) -> str:
    """Say what was found, and what was not: in the order of the links, since elements keep their places."""
    rows: list[str] = []
    missing: list[str] = []
    for link, fetch, parse, count in zip(links, page, book, stock, strict=True):
        if parse.success:
            copies = "?" if count.fallback else count.data
            rows.append(f"{parse.data['price']:8.2f} {copies:>7}  {parse.data['title']}")
        missing += [
            f"{urlsplit(link).path}, {result.process_id}, {result.attempts} x: {result.exception!r}"
            for result in (fetch, parse, count)
            if result.exception is not None  # also of one that has its fallback
        ]
    title = f"{len(rows)} of {len(links)} books\n\n   price  copies  title"
    return "\n".join([title, *rows, "", f"Missing: {len(missing)}", *missing])


def fetched(url: str) -> str:
    """Return what a GET answers with. Its own timeout ends the thread of an attempt that was given up."""
    address = urlsplit(url)
    with closing(HTTPConnection(address.netloc, timeout=10)) as connection:
        connection.request("GET", address.path)
        answer = connection.getresponse()
        text = answer.read().decode()
    if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise BusyError(f"{answer.status} {answer.reason}")
    if answer.status != HTTPStatus.OK:
        raise OSError(f"{answer.status} {answer.reason}")
    return text


def parsed(html: str) -> dict[str, list[str]]:
    """Return the links of a page under ``href``, and the texts of its elements under their class."""
    parser = Fields()
    parser.feed(html)
    return parser.found


class Fields(HTMLParser):
    """Gathers links and texts."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, list[str]] = {}
        self.within: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take a link, and remember the class."""
        self.within = dict(attrs).get("class")
        if tag == "a":
            self.found.setdefault("href", []).append(dict(attrs).get("href") or "")

    def handle_data(self, data: str) -> None:
        """Take a text."""
        if self.within:
            self.found.setdefault(self.within, []).append(data)
            self.within = None


# The shop: a server of the standard library, on one of its worse days

BOOKS = {
    "Walden": "7.00",
    "Emma": "8.50",
    "Dracula": "6.20",  # busy twice
    "Ulysses": "14.00",
    "Middlemarch": "11.30",  # gone
    "Candide": "5.40",  # not known to the storehouse
    "Kim": "4.80",  # never answers
    "Moby Dick": "",  # has no price
    "Faust": "9.90",
    "Persuasion": "6.75",
}


class Shop(BaseHTTPRequestHandler):
    """Answers for the window (``/``), the books (``/book/3``) and the storehouse (``/stock/3``)."""

    asked: ClassVar[Counter[str]] = Counter()
    closed: ClassVar[threading.Event] = threading.Event()

    def do_GET(self) -> None:
        """Answer, or not."""
        self.asked[self.path] += 1
        match self.path.strip("/").split("/"):
            case [""]:
                self.say("".join(f"<li><a href='/book/{number}'>a book</a></li>" for number in range(len(BOOKS))))
            case ["book", "2"] if self.asked[self.path] <= PATIENCE.max_retries:
                self.send_error(HTTPStatus.SERVICE_UNAVAILABLE)
            case ["book", "4"]:
                self.send_error(HTTPStatus.NOT_FOUND)
            case ["book", "6"]:
                self.closed.wait()
            case ["book", number]:
                title, price = list(BOOKS.items())[int(number)]
                price = f"<b class='price'>{price}</b>" if price else ""
                self.say(f"<h1 class='title'>{title}</h1>{price}<a href='/stock/{number}'>In stock?</a>")
            case ["stock", number] if number != "5":
                self.say(json.dumps({"copies": int(number) * 7 % 5}))
            case _:
                self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR)

    def say(self, text: str) -> None:
        """Send a page."""
        self.send_response(HTTPStatus.OK)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object, **__: object) -> None:
        """Keep quiet."""


@contextmanager
def shop() -> Generator[str]:
    """Be open on a free port of this machine, for as long as the context lasts; gives the address."""
    Shop.asked.clear()
    Shop.closed.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Shop) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            Shop.closed.set()
            server.shutdown()
            thread.join()


def main() -> None:
    """Open the shop, and read it."""
    parser = argparse.ArgumentParser(description="Read a book shop that is on one of its worse days.")
    parser.add_argument("--per-second", type=int, default=20, help="requests that the shop is sent in a second")
    arguments = parser.parse_args()
    with shop() as url:
        print(pmflow.run(report, inputs={"url": url}, limits={"shop": Rate(arguments.per_second, per=1.0)}).value)


if __name__ == "__main__":
    main()
