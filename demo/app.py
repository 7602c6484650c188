"""The order desk: incoming requests, a form to turn one into an order, and pages beside it.

`python -m demo.app --seed 3 --variant act` serves it until Ctrl-C. Reads nothing, writes its own
database, listens on 127.0.0.1 alone.
"""

import argparse
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated
from urllib.parse import parse_qs

from fastapi import FastAPI, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from demo import layout, words
from demo.database import Database
from demo.layout import VARIANTS, Variant
from demo.render import PAGES, Pages
from demo.server import Server


class App(Server):
    """The order desk of one seed and variant, served while the `with` block lasts."""

    def __init__(
        self,
        seed: int = 0,
        variant: Variant = "watch",
        *,
        change: int | None = None,
        database: Path | None = None,
        port: int = 0,
    ) -> None:
        """Arrange the pages; `change` picks what differs in variant "changed", else the seed does.

        Raises:
            ValueError: no such variant.
        """
        self._seed = seed
        self._layout = layout.arrange(seed, variant, change)
        self._pages = Pages(self._layout)
        self._requests = {request.number: request for request in self._layout.requests}
        self._database = Database(database)
        super().__init__(self._application(), port)

    @property
    def change(self) -> str:
        """Say in words what changed in a way that matters; empty where nothing did."""
        return self._layout.change

    def records(self, num: int = 5) -> list[dict[str, str]]:
        """Pick requests to order, as label of the form's field → value."""
        picked = layout.chores(self._seed, self._layout, num)
        return [{f.label: r.values[f.key] for f in layout.FIELDS} for r in picked]

    def expected(self, record: Mapping[str, str]) -> dict[str, str]:
        """Say what `orders` must return for a record that was ordered right."""
        return {**record, layout.TERMS.label: "yes", "Button": "Save"}

    def orders(self) -> list[dict[str, str]]:
        """Return what was saved, oldest first: label → value, and which button saved it."""
        return self._database.orders()

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def _application(self) -> FastAPI:
        app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])
        app.mount("/pages", StaticFiles(directory=PAGES))
        for path, page in (
            ("/", self._show_requests),
            ("/requests/{number}", self._show_request),
            ("/orders/new", self._show_form),
            ("/orders", self._show_orders),
            ("/notes", self._show_notes),
            ("/search", self._show_search),
            ("/news", self._show_news),
            ("/news/{number}", self._show_story),
        ):
            app.get(path, response_class=HTMLResponse)(page)
        app.post("/orders", response_class=HTMLResponse)(self._save_order)
        app.post("/notes", response_class=HTMLResponse)(self._save_note)
        return app

    def _find(self, number: int) -> layout.Request:
        if number not in self._requests:
            raise HTTPException(404, "no such request")
        return self._requests[number]

    async def _show_requests(self) -> str:
        done = {row["request"] for row in self._database.rows()}
        return self._pages.requests(frozenset(self._requests) & done)

    async def _show_request(self, number: int) -> str:
        return self._pages.request(self._find(number))

    async def _show_form(self, request: int | None = None) -> str:
        return self._pages.form(self._find(request) if request is not None else None, {})

    async def _show_orders(self, saved: int | None = None) -> str:
        rows = self._database.rows()
        return self._pages.orders(rows, next((row for row in rows if row["id"] == saved), {}))

    async def _save_order(self, request: Request) -> object:
        sent = await _form(request)
        number = sent.get("request", "")
        about = self._find(int(number)) if number.isdecimal() else None
        ids = self._layout.ids
        values = {f.key: sent.get(ids[f.key], "") for f in self._layout.fields}
        if problem := self._problem(values):
            return HTMLResponse(self._pages.form(about, values, problem), 422)
        button = self._layout.question[1] if self._layout.question else self._layout.save
        order = self._database.add_order(values, button, about.number if about else None)
        return RedirectResponse(f"/orders?saved={order}", 303)

    def _problem(self, values: Mapping[str, str]) -> str:
        missing = [f.label for f in self._layout.fields if not values[f.key].strip()]
        if missing:
            return f"Please fill in: {', '.join(missing)}."
        if values["article"] not in self._layout.articles:
            return "Please choose an article from the list."
        if not values["quantity"].isdecimal() or int(values["quantity"]) < 1:
            return "The quantity is a whole number from 1."
        return ""

    async def _show_notes(self) -> str:
        return self._pages.notes(self._database.notes())

    async def _save_note(self, request: Request) -> RedirectResponse:
        body = (await _form(request)).get("body", "").strip()
        if body:
            self._database.add_note(body)
        return RedirectResponse("/notes", 303)

    async def _show_search(self, words: Annotated[str, Query(alias="q")] = "") -> str:
        return self._pages.search(words.strip())

    async def _show_news(self) -> str:
        return self._pages.news()

    async def _show_story(self, number: int) -> str:
        if number not in range(len(words.NEWS)):
            raise HTTPException(404, "no such story")
        return self._pages.story(number)


async def _form(request: Request) -> dict[str, str]:
    sent = parse_qs((await request.body()).decode("utf-8"), keep_blank_values=True)
    return {name: values[-1] for name, values in sent.items()}


def main() -> None:
    """Serve the order desk for a person to try."""
    parser = argparse.ArgumentParser(prog="python -m demo.app", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--variant", choices=VARIANTS, default="watch")
    parser.add_argument("--port", type=int, default=0, help="0: any free port")
    options = parser.parse_args()
    with App(options.seed, options.variant, port=options.port) as app:
        sys.stdout.write(f"Order desk at {app.url} (Ctrl-C ends it)\n")
        if app.change:
            sys.stdout.write(f"Changed: {app.change}\n")
        sys.stdout.flush()
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            sys.stdout.write("\n")


if __name__ == "__main__":
    main()
