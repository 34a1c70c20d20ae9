"""The parts of an HTML page."""

import base64
from html.parser import HTMLParser
from pathlib import Path


class Page(HTMLParser):
    """Images with their alt texts, addresses that the page loads, links to files beside it, ids, the plain text, and
    all of it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.pictures: list[tuple[str, bytes]] = []
        self.outside: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self.source = path.read_text()
        self.feed(self.source)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if tag == "img":
            source = attributes["src"] or ""
            self.pictures.append((attributes["alt"] or "", base64.b64decode(source.partition("base64,")[2])))
        self.ids += [attributes["id"]] if attributes.get("id") else []
        for name in ("src", "href", "xlink:href", "srcset", "action"):
            value = attributes.get(name)
            if value and not value.startswith(("#", "data:")):
                (self.links if tag == "a" and value.startswith("tables/") else self.outside).append(value)

    def handle_data(self, data: str) -> None:
        self.words.append(data)
