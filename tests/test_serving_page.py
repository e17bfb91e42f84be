"""The server's pages in a real browser, where one is installed."""

import asyncio
import json
import shutil
import struct
import subprocess
import threading
import zlib
from html.parser import HTMLParser

import pytest
import uvicorn
from bundle import export_tiny, train_tiny
from fastapi.testclient import TestClient

from plurallm.config.compose import load_tool_config
from plurallm.config.services import ServeConfig
from plurallm.reward import PreferenceRewardModel
from plurallm.reward.http.app import make_app
from plurallm.reward.http.trial_page import page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--hide-scrollbars", "--virtual-time-budget=10000"),
)
HOSTILE = "<img src=x onerror=document.title='broken'>"

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    bundle = export_tiny(train_tiny(folder), folder / "bundle")
    model = PreferenceRewardModel.from_pretrained(bundle)
    model.contexts[HOSTILE] = model.contexts["Avaria"]
    return make_app(model, load_tool_config("serve", ["bundle=unused"], ServeConfig), None)


@pytest.fixture(scope="module")
def url(app):
    """Serve on a free port for as long as the tests of this file run."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, ws="none"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        threading.Event().wait(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


def browse(tmp_path, url, *flags):
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", *flags, url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


def png_pixels(path):
    """Width, height and the rows of an 8-bit PNG without interlacing, filters undone."""
    data = path.read_bytes()
    width, height, depth, kind = struct.unpack(">IIBB", data[16:26])
    assert depth == 8
    channels = {2: 3, 6: 4}[kind]
    packed, at = b"", 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        if data[at + 4 : at + 8] == b"IDAT":
            packed += data[at + 8 : at + 8 + length]
        at += length + 12
    raw, stride = zlib.decompress(packed), width * channels
    rows, before = [], bytearray(stride)
    for start in range(0, len(raw), stride + 1):
        rule, row = raw[start], bytearray(raw[start + 1 : start + 1 + stride])
        for i in range(stride):
            left = row[i - channels] if i >= channels else 0
            corner = before[i - channels] if i >= channels else 0
            near = min((left, before[i], corner), key=lambda c: abs(left + before[i] - corner - c))
            row[i] = (row[i] + (0, left, before[i], (left + before[i]) // 2, near)[rule]) & 255
        rows.append(bytes(row))
        before = row
    return width, height, channels, rows


class Words(HTMLParser):
    """The texts and tags of a page."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)


@needs_browser
def test_the_page_predicts_for_two_groups_side_by_side(tmp_path, url):
    seen = Words(browse(tmp_path, url, "--dump-dom"))
    bars = [attrs["aria-label"] for _, attrs in seen.tags if attrs.get("class") == "bar"]
    assert len(bars) == 4 * 2
    assert bars[0].startswith("Avaria: ")
    assert "±" in bars[0]
    boxes = [attrs["value"] for tag, attrs in seen.tags if attrs.get("type") == "checkbox"]
    assert boxes[:2] == ["Avaria", "Belora"]


@needs_browser
def test_texts_never_become_markup(tmp_path, url):
    seen = Words(browse(tmp_path, url, "--dump-dom"))
    assert not [tag for tag, _ in seen.tags if tag == "img"]
    assert any(HOSTILE in words for words in seen.words)
    assert "broken" not in next(words for words in seen.words if words.startswith("PluralLLM"))


@needs_browser
@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_fits_and_follows_the_theme(tmp_path, url, width, theme):
    picture = tmp_path / "page.png"
    scheme = ["--force-dark-mode", "--blink-settings=preferredColorScheme=0"]
    flags = scheme if theme == "dark" else []
    browse(tmp_path, url, f"--window-size={width},1400", f"--screenshot={picture}", *flags)
    shown, _, channels, rows = png_pixels(picture)
    assert shown == width
    background = rows[2][:3]
    assert (max(background) < 64) if theme == "dark" else (min(background) > 192)
    # Nothing sticks out: the outermost columns are background all the way down.
    for row in rows:
        assert row[:3] == background
        assert row[-channels:][:3] == background
    blue = bytes.fromhex("0072b2")
    assert any(blue in row for row in rows)


@needs_browser
def test_the_interface_page_lists_every_endpoint(tmp_path, url, app):
    seen = " ".join(Words(browse(tmp_path, f"{url}/docs", "--dump-dom")).words)
    for path, methods in app.openapi()["paths"].items():
        for method in methods:
            assert f"{method.upper()} {path}" in seen


@pytest.mark.parametrize("name", ["try", "docs"])
def test_a_page_refers_to_nothing_elsewhere(name):
    html, policy = page(name)
    assert "//" not in html.replace("// ", "")
    for _, attrs in Words(html).tags:
        for key in ("src", "href"):
            assert attrs.get(key, "") in ("", "data:,", "docs", "./", "openapi.json")
        assert not any(key.startswith("on") or key == "style" for key in attrs)
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'")


def test_pages_carry_their_policy(app):
    with TestClient(app, base_url="http://127.0.0.1") as client:
        for path, name in (("/", "try"), ("/docs", "docs")):
            reply = client.get(path)
            assert reply.text == page(name)[0]
            assert reply.headers["content-security-policy"] == page(name)[1]
        assert json.loads(client.get("/openapi.json").text)["info"]["title"]
