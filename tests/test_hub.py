"""The download of GlobalOpinionQA, by the hub's own library from a hub on this machine."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

OPINIONS = b"""question,selections,options,source
Is it good?,"defaultdict(<class 'list'>, {'Chad': [0.25, 0.75]})","['Yes', 'No']",GAS
"""
FILE = "/datasets/Anthropic/llm_global_opinions/resolve/main/data/global_opinions.csv"
DOWNLOAD = """
from plurallm.data.hub import download_globalopinionqa
from plurallm.data.reading import read_survey
survey = read_survey(download_globalopinionqa(), "globalopinionqa")
print(survey.source, survey.answers["Chad"].share_QO.tolist())
"""
LOAD = """
from plurallm.config.compose import load_config
from plurallm.data.tasks import load_survey
try:
    load_survey(load_config(["data=globalopinionqa"], None).data)
except ValueError as error:
    print(error)
"""


class Hub(BaseHTTPRequestHandler):
    """Serves one file as the hub does."""

    asked: list[str]

    def do_HEAD(self) -> None:
        if self.path == FILE:
            self.asked.append(self.command)
        self.send_response(200 if self.path == FILE else 404)
        self.send_header("ETag", '"0123456789abcdef"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Content-Length", str(len(OPINIONS)))
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(OPINIONS)

    def log_message(self, *_: object) -> None:
        """Stay quiet."""


@pytest.fixture
def hub() -> Iterator[tuple[str, list[str]]]:
    """Address of a hub, and how it was asked for the file."""
    asked: list[str] = []
    handler = type("OwnHub", (Hub,), {"asked": asked})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()


def run(code: str, home: Path, **environment: str) -> str:
    """Run code in a process of its own: the hub's library reads the environment once."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1"} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_the_published_file_is_downloaded_once(tmp_path: Path, hub: tuple[str, list[str]]) -> None:
    address, asked = hub
    printed = run(DOWNLOAD, tmp_path, HF_ENDPOINT=address)
    assert printed.endswith("global_opinions.csv [[0.25, 0.75]]\n")
    assert printed.startswith(str(tmp_path))
    assert asked == ["HEAD", "GET"]
    # Then the cache is enough, with or without a hub.
    assert run(DOWNLOAD, tmp_path, HF_ENDPOINT=address) == printed
    assert run(DOWNLOAD, tmp_path, HF_HUB_OFFLINE="1") == printed
    assert asked == ["HEAD", "GET"]


def test_without_hub_and_cache_one_error_says_what_to_do(tmp_path: Path) -> None:
    (line,) = run(LOAD, tmp_path, HF_HUB_OFFLINE="1").splitlines()
    assert "data/global_opinions.csv of the data set Anthropic/llm_global_opinions" in line
    assert "is in no cache here" in line
    assert "offline mode is enabled" in line
    assert line.endswith("then give data.path=global_opinions.csv")


def test_a_hub_that_does_not_answer_is_asked_once(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        (line,) = run(LOAD, tmp_path, HF_ENDPOINT=address).splitlines()
        assert f"did not give it ({address}" in line
        assert line.endswith("then give data.path=global_opinions.csv")
        silent.setblocking(False)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):
            silent.accept()
