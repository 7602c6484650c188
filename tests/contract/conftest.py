import functools
import http.server
import threading
from pathlib import Path

import pytest
import pytest_asyncio

from shared.errors import NoBrowser
from shared.page import ServedBrowser, find_browser

_PAGES = Path(__file__).parents[1] / "data" / "pages"


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_args):
        """Say nothing: the output belongs to pytest."""


@pytest.fixture(scope="session")
def site():
    """The address of a server with the pages of tests/data/pages."""
    handler = functools.partial(_Quiet, directory=_PAGES)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def served(tmp_path_factory):
    """A headless Chromium that listens for clients."""
    try:
        find_browser()
    except NoBrowser as missing:
        pytest.skip(str(missing))
    browser = await ServedBrowser.start(tmp_path_factory.mktemp("profile"), headless=True)
    yield browser
    await browser.close()
