"""The pages of the reports, as a browser and a screen reader take them."""

from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Final, Self

VOID: Final = ("meta", "img", "br")
LOADED: Final = ("src", "href")


@dataclass
class Page(HTMLParser):
    """A parsed page."""

    images: list[dict[str, str | None]] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    """The cells of all tables, row by row."""

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._open: list[tuple[str, dict[str, str | None]]] = []
        self._defects: list[str] = []
        self._seen: set[str] = set()

    @classmethod
    def of(cls, html: str) -> Self:
        page = cls()
        page.feed(html)
        page.close()
        return page

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self._seen.add(tag if tag != "meta" else f"meta {given.get('name')}")
        self._defects += [
            f"{tag} loads {given[name]}"
            for name in LOADED
            if not str(given.get(name, "data:")).startswith(("data:", "#"))
        ]
        if tag == "img":
            self.images.append(given)
            self._defects += [] if given.get("alt") else ["an image without a text"]
        if tag == "table" and not self._scrolls():
            self._defects.append("a table that makes the page wider than a phone")
        if tag == "th" and "scope" not in given:
            self._defects.append("a header that says not of what")
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self._open.append((tag, given))

    def handle_endtag(self, tag: str) -> None:
        opened, _ = self._open.pop()
        if opened != tag:
            self._defects.append(f"{tag} ends within {opened}")

    def handle_data(self, data: str) -> None:
        if any(tag in ("td", "th") for tag, _ in self._open):
            self.rows[-1][-1] += data

    def _scrolls(self) -> bool:
        return any(given.get("class") == "scroll" and given.get("tabindex") == "0" for _, given in self._open)

    def defects(self) -> list[str]:
        """What is wrong with it for a phone, a screen reader, or a reader without a network."""
        wanted = ("title", "main", "h1", "meta viewport")
        missing = [f"no {tag}" for tag in wanted if tag not in self._seen]
        unclosed = [f"{tag} does not end" for tag, _ in self._open]
        return self._defects + missing + unclosed
