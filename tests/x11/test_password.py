"""A password typed anywhere, with `values` granted everywhere, is found nowhere."""

import asyncio
import base64
import logging
import secrets
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from prometheus_client import generate_latest

from services.user_monitor.capture import BrowserSpec, InputSpec, WindowSpec
from services.user_monitor.consent import ConsentAsked
from services.user_monitor.main import build
from services.user_monitor.settings import UserMonitorSettings
from shared.bus import open_bus
from shared.clock import SystemClock
from shared.schemas import Action, Level, Source, UiEvent, decode
from shared.service import Service
from shared.settings import CommonSettings
from shared.topics import Topic

pytestmark = [pytest.mark.x11, pytest.mark.browser, pytest.mark.timeout(180)]

_TK = """
import tkinter
root = tkinter.Tk()
root.title("vault")
root.geometry("400x120+300+300")
entry = tkinter.Entry(root, show="*")
entry.pack(expand=True, fill="both")
entry.bind("<Return>", lambda _: root.destroy())
root.mainloop()
"""
_PAGE = """<!doctype html><title>sign in</title>
<style>input, button {{ position: fixed; left: 40px; width: 400px; height: 60px }}</style>
<form onsubmit="document.title = 'welcome'; return false">
<input id=who aria-label="Your name" style="top: 20px">
<input id=key type=password aria-label="Password" style="top: 120px">
<button style="top: 220px">Sign in</button></form>"""


@pytest.fixture
def page(tmp_path):
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "index.html").write_text(_PAGE.replace("{{", "{").replace("}}", "}"))

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            """Keep still."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def in_terminal(hands, password):
    prompt = "stty -echo; printf 'Password: '; read secret; sleep 600"
    process = subprocess.Popen(
        ["xterm", "-T", "prompt", "-geometry", "60x10+10+10", "-e", "sh", "-c", prompt]
    )
    try:
        hands.click(*hands.window("prompt"))
        hands.type(password + "\n")
    finally:
        process.kill()
        process.wait()


def in_tk(hands, password):
    process = subprocess.Popen([sys.executable, "-c", _TK])
    try:
        hands.click(*hands.window("vault"))
        hands.type(password + "\n")
        process.wait(20)
    finally:
        process.kill()
        process.wait()


def forms_of(password):
    """Return how a password might lie on a disk."""
    raw = password.encode()
    return {
        "plain": raw,
        "utf-16": password.encode("utf-16-le"),
        "base64": base64.b64encode(raw)[:-4],
        "hex": raw.hex().encode(),
        "reversed": raw[::-1],
        "a piece": raw[2:9],
    }


class Lines(logging.Handler):
    """Keep every line of every logger, with its arguments."""

    def __init__(self):
        super().__init__(logging.DEBUG)
        self.lines = []

    def emit(self, record):
        self.lines.append(f"{record.getMessage()} {record.__dict__}")


@pytest.fixture
def lines():
    handler, root = Lines(), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield handler.lines
    root.removeHandler(handler)
    root.setLevel(level)


async def test_a_password_typed_anywhere_is_found_nowhere(tmp_path, hands, page, lines):
    password = "q" + secrets.token_hex(8)
    common = CommonSettings(
        data_dir=tmp_path / "data", config_dir=tmp_path / "config", user_id="jane"
    )
    common.make_folders()
    clock = SystemClock()
    bus = open_bus(f"log:{common.data_dir / 'log'}", common.data_dir, clock)
    monitor, routes = build(UserMonitorSettings(), common, clock)
    service = Service(monitor, routes, common, clock)
    await service.open(bus, "127.0.0.1:1")
    stop = asyncio.Event()
    running = asyncio.create_task(service.run(stop))
    await monitor.allow(ConsentAsked(level=Level.VALUES, keep=("email", "phone", "iban")))
    await monitor.record(InputSpec())
    await monitor.record(WindowSpec(poll_ms=50))
    await monitor.record(BrowserSpec(profile_dir=common.config_dir / "browser", start_url=page))

    for somewhere in (in_terminal, in_tk):
        await asyncio.to_thread(somewhere, hands, password)
    await asyncio.to_thread(hands.window, "sign in")
    field = await _field_places(monitor)
    for name, text in (("who", "ann smith"), ("key", password)):
        await asyncio.to_thread(hands.click, *field[name])
        await asyncio.to_thread(hands.type, text)
    await asyncio.to_thread(hands.press, "Return")
    await asyncio.to_thread(hands.window, "welcome")
    await asyncio.sleep(2.5)
    metrics = generate_latest()
    await monitor.stop_recording()
    events = await _events(bus)

    by_source = {source: [e for e in events if e.source is source] for source in Source}
    # The test can fail only if all three sources did watch.
    counted = sum(e.count or 0 for e in by_source[Source.INPUT] if e.action is Action.EDIT)
    assert counted >= 2 * len(password)
    edits = {
        e.element.label or e.element.name.clear: e.value
        for e in by_source[Source.BROWSER]
        if e.action is Action.EDIT
    }
    assert edits["Your name"].clear == "ann smith"
    assert edits.get("Password") is None or edits["Password"].key is None
    assert {e.window.clear for e in by_source[Source.WINDOW] if e.window} >= {"prompt", "vault"}

    places = {"metrics": metrics, "log lines": "\n".join(lines).encode()}
    places |= {f"event {e.seq}": e.model_dump_json().encode() for e in events}
    for moment in ("running", "stopped"):
        for path in common.data_dir.rglob("*"):
            if path.is_file():
                places[f"{path.relative_to(tmp_path)} ({moment})"] = path.read_bytes()
        if moment == "running":
            stop.set()
            await running
            await bus.close()
    found = [
        (place, form)
        for place, held in places.items()
        for form, needle in forms_of(password).items()
        if needle in held
    ]
    assert found == []
    # What was typed into the plain field is found by the same search.
    assert any("sqlite3" in place for place, held in places.items() if b"ann smith" in held)


async def _field_places(monitor):
    """Return where the browser's fields are on the screen: name -> middle."""
    (recorder,) = (r for r in monitor.recorders.values() if r.source.kind is Source.BROWSER)
    (tab,) = recorder.source._browser.context.pages
    script = """() => Object.fromEntries(['who', 'key'].map(id => {
        const box = document.getElementById(id).getBoundingClientRect();
        const border = (outerWidth - innerWidth) / 2;
        return [id, [screenX + border + box.x + box.width / 2,
                     screenY + outerHeight - innerHeight - border + box.y + box.height / 2]];
    }))"""
    places = await tab.evaluate(script)
    return {name: (int(x), int(y)) for name, (x, y) in places.items()}


async def _events(bus) -> list[UiEvent]:
    found = []
    for partition, (oldest, _) in (await bus.bounds(Topic.RAW_EVENTS)).items():
        messages = await bus.read(Topic.RAW_EVENTS, partition, oldest, 10_000)
        found += [decode(m.value, m.headers) for m in messages]
    return found
