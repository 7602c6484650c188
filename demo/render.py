"""Draw the order desk's pages from the templates in `pages/`; every value is escaped."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template

from demo import words
from demo.layout import FIELDS, Field, Layout, Request

PAGES = Path(__file__).parent / "pages"
_NAV = (
    ("requests", "/", "Requests"),
    ("orders", "/orders", "Orders"),
    ("notes", "/notes", "Notes"),
    ("search", "/search", "Archive"),
    ("news", "/news", "News"),
)
_TEMPLATES = {path.stem: Template(path.read_text("utf-8")) for path in PAGES.glob("*.html")}


def _fill(page: str, **values: str) -> str:
    return _TEMPLATES[page].substitute(values)


def _facts(pairs: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>" for term, text in pairs)


def _count(num: int, one: str) -> str:
    return f"{num} {one}" if num == 1 else f"{num or 'No'} {one}s"


class Pages:
    """The pages of one layout; each method returns a whole HTML document."""

    def __init__(self, layout: Layout) -> None:
        """Draw with this layout's ids and order."""
        self._layout = layout
        self._ids = layout.ids

    def _page(self, here: str, title: str, body: str) -> str:
        current = {here: ' aria-current="page"'}
        nav = "".join(
            f'<a id="{self._ids["nav-" + key]}" href="{href}"{current.get(key, "")}>{text}</a>'
            for key, href, text in _NAV
        )
        return _fill("layout", title=escape(title), nav=nav, body=body)

    def requests(self, done: frozenset[int]) -> str:
        """Draw the list of incoming requests."""
        rows = []
        for request in self._layout.requests:
            state = ("badge done", "Ordered") if request.number in done else ("badge", "New")
            name, city, article = (
                escape(request.values[k]) for k in ("customer", "city", "article")
            )
            rows.append(
                f'<tr><td><a href="/requests/{request.number}">{name}</a></td><td>{city}</td>'
                f"<td>{article}</td><td>{request.received}</td>"
                f'<td><span class="{state[0]}">{state[1]}</span></td></tr>'
            )
        num_open = len(rows) - len(done)
        body = _fill(
            "requests",
            count=f"{_count(num_open, 'request')} waiting for an order",
            filter=self._ids["filter"],
            requests=self._ids["requests"],
            rows="\n".join(rows),
        )
        return self._page("requests", "Requests", body)

    def request(self, request: Request) -> str:
        """Draw one request's card."""
        body = _fill(
            "request",
            number=request.values["reference"],
            name=escape(request.values["customer"]),
            received=request.received,
            new_order=self._ids["new-order"],
            request=str(request.number),
            card=self._ids["card"],
            facts=self._card(request),
            wish=escape(request.wish),
        )
        return self._page("requests", request.values["customer"], body)

    def _card(self, request: Request) -> str:
        return _facts((f.on_card, request.values[f.key]) for f in FIELDS if f.on_card)

    def form(self, request: Request | None, values: Mapping[str, str], problem: str = "") -> str:
        """Draw the order form, with what was typed and what is wrong with it, if anything."""
        layout, crumb, aside, dialog = self._layout, "", "", ""
        if request:
            href = f"/requests/{request.number}"
            crumb = f'<a href="{href}">{request.values["reference"]}</a> /'
            aside = _fill("aside", aside=self._ids["aside"], facts=self._card(request))
        if layout.question:
            ids = {key: self._ids[key] for key in ("dialog", "confirm", "cancel")}
            dialog = _fill(
                "dialog",
                question=escape(layout.question[0]),
                yes=escape(layout.question[1]),
                **ids,
            )
        body = _fill(
            "form",
            crumb=crumb,
            alert=f'<p class="alert" role="alert">{escape(problem)}</p>' if problem else "",
            form=self._ids["form"],
            asks=" data-asks" if dialog else "",
            request=str(request.number) if request else "",
            fields="\n".join(self._field(f, values.get(f.key, "")) for f in layout.fields),
            save=self._ids["save"],
            save_label=escape(layout.save),
            aside=aside,
            dialog=dialog,
        )
        return self._page("requests", "New order", body)

    def _field(self, field: Field, value: str) -> str:
        name, label = self._ids[field.key], escape(field.label)
        attributes = f'id="{name}" name="{name}" required'
        if field.kind == "check":
            ticked = " checked" if value else ""
            return (
                f'<p class="check"><input type="checkbox" {attributes} value="yes"{ticked}>'
                f'<label for="{name}">{label}</label></p>'
            )
        if field.kind == "select":
            options = "".join(
                f"<option{' selected' if article == value else ''}>{escape(article)}</option>"
                for article in self._layout.articles
            )
            control = f'<select {attributes}><option value="">Choose…</option>{options}</select>'
        else:
            least = ' min="1"' if field.kind == "number" else ""
            control = f'<input type="{field.kind}" {attributes}{least} value="{escape(value)}">'
        return f'<p class="field"><label for="{name}">{label}</label>{control}</p>'

    def orders(self, rows: Sequence[Mapping[str, object]], saved: Mapping[str, object]) -> str:
        """Draw the list of orders, newest first, below what was just saved, if anything was."""
        keys = ("id", "customer", "city", "article", "quantity", "reference")
        lines = []
        for row in reversed(rows):
            texts = (escape(str(row[key] or "")) for key in keys)
            lines.append(f"<tr>{''.join(f'<td>{text}</td>' for text in texts)}</tr>")
        if not lines:
            lines = ['<tr><td class="empty" colspan="6">Nothing ordered yet.</td></tr>']
        body = _fill(
            "orders",
            saved=self._saved(saved) if saved else "",
            count=f"{_count(len(rows), 'order')} so far",
            orders=self._ids["orders"],
            rows="\n".join(lines),
        )
        return self._page("orders", "Orders", body)

    def _saved(self, order: Mapping[str, object]) -> str:
        shown = [f for f in self._layout.fields if f.kind != "check" and order[f.key] is not None]
        return _fill(
            "saved",
            saved=self._ids["saved"],
            number=str(order["id"]),
            facts=_facts((f.label, str(order[f.key])) for f in shown),
        )

    def notes(self, notes: Sequence[str]) -> str:
        """Draw the notes."""
        items = "\n".join(f"<li>{escape(note)}</li>" for note in notes)
        ids = {key.replace("-", "_"): self._ids[key] for key in ("note", "add-note", "notes")}
        return self._page(
            "notes",
            "Notes",
            _fill("notes", items=items or '<li class="quiet">No notes yet.</li>', **ids),
        )

    def search(self, query: str) -> str:
        """Draw the archive's search and what it finds."""
        found = [
            title
            for title in (*words.ARCHIVE, *(headline for headline, _ in words.NEWS))
            if query and any(word in title.lower() for word in query.lower().split())
        ]
        items = "\n".join(f"<li>{escape(title)}</li>" for title in found)
        results = ""
        if query:
            results = f'<p class="hits">{_count(len(found), "hit")}</p>'
            results += f'<ul class="results" id="{self._ids["results"]}">{items}</ul>'
        ids = {key: self._ids[key] for key in ("query", "find")}
        body = _fill("search", words=escape(query), results=results, **ids)
        return self._page("search", "Archive", body)

    def news(self) -> str:
        """Draw the headlines."""
        stories = "\n".join(
            f'<article class="panel"><h2><a href="/news/{number}">{escape(headline)}</a></h2>'
            f"<p>{escape(text.split('. ')[0])}.</p></article>"
            for number, (headline, text) in enumerate(words.NEWS)
        )
        return self._page("news", "News", _fill("news", stories=stories))

    def story(self, number: int) -> str:
        """Draw one story."""
        headline, text = words.NEWS[number]
        paragraphs = "\n".join(f"<p>{escape(line)}</p>" for line in text.split("\n"))
        body = _fill(
            "story", story=self._ids["story"], headline=escape(headline), paragraphs=paragraphs
        )
        return self._page("news", headline, body)
