"""The server's process: who may reach it, how it starts and how it ends."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from bundle import GROUPS, export_tiny, train_tiny

from plurallm.config.compose import load_config, load_tool_config
from plurallm.config.error import ConfigError
from plurallm.config.services import ServeConfig
from plurallm.reward.http.server import check_exposure, read_token, run_server

TOKEN = "correct-horse-battery"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train_tiny(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def bundle(run, tmp_path_factory):
    return export_tiny(run, tmp_path_factory.mktemp("bundle"))


def serve_config(*overrides):
    return load_tool_config("serve", ["bundle=unused", *overrides], ServeConfig)


# Who may reach it


def test_beyond_loopback_it_takes_a_token_and_tls():
    tls = ("tls_certificate=c.pem", "tls_key=k.pem")
    for host in ("127.0.0.1", "localhost", "'::1'", "127.9.9.9"):
        check_exposure(serve_config(f"host={host}"), None)
    check_exposure(serve_config("host=0.0.0.0", *tls), TOKEN)
    check_exposure(serve_config("host=0.0.0.0", "allow_insecure=true"), None)
    for overrides, token, missing in (
        ((), None, "a token .* and TLS"),
        (tls, None, "a token"),
        ((), TOKEN, "TLS"),
    ):
        for host in ("0.0.0.0", "'::'", "reward.example"):
            with pytest.raises(ValueError, match=missing):
                check_exposure(serve_config(f"host={host}", *overrides), token)


def test_the_token_comes_from_a_file_or_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("PLURALLM_TOKEN", raising=False)
    assert read_token(serve_config()) is None
    monkeypatch.setenv("PLURALLM_TOKEN", TOKEN)
    assert read_token(serve_config()) == TOKEN
    file = tmp_path / "token"
    for text, reason in (("short", "fewer than 16"), ("a token with spaces", "ASCII signs")):
        file.write_text(text)
        with pytest.raises(ValueError, match=reason) as refused:
            read_token(serve_config(f"token_file={file}"))
        assert text not in str(refused.value)
    file.write_text(f"{TOKEN}-2\n")
    assert read_token(serve_config(f"token_file={file}")) == f"{TOKEN}-2"


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["port=70000"], "port must be at least 0, at most 65535"),
        (["tls_key=k.pem"], "together with tls_certificate"),
        (["max_items=0"], "max_items must be >= 1"),
        (["prot=1"], "did you mean port?"),
    ],
)
def test_a_wrong_configuration_is_refused(overrides, reason):
    with pytest.raises(ConfigError, match=reason):
        serve_config(*overrides)


# What is wrong is found at the start


@pytest.fixture
def taken_port():
    """A port that nobody can listen on: a server that gets so far ends."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield taken.getsockname()[1]


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ({}, "tls_certificate=.*cert.pem: there is no such file"),
        ({"cert.pem": "x"}, "tls_key=.*key.pem: there is no such file"),
        ({"cert.pem": "x", "key.pem": "x"}, "cert.pem and tls_key=.*key.pem are no certificate"),
    ],
)
def test_files_of_tls_that_cannot_be_used_are_named(tmp_path, taken_port, written, reason):
    for name, text in written.items():
        (tmp_path / name).write_text(text)
    tls = (f"tls_certificate={tmp_path / 'cert.pem'}", f"tls_key={tmp_path / 'key.pem'}")
    with pytest.raises((ValueError, OSError), match=reason):
        run_server(serve_config(f"port={taken_port}", *tls))


def test_a_missing_embedder_is_found_without_a_released_group(run, tmp_path, taken_port):
    bundle = export_tiny(run, tmp_path / "bundle", "release_context=[]")
    description = json.loads((bundle / "config.json").read_text())
    lost = ["embedding=sentence_transformer", "embedding.model=/nowhere/model"]
    description["embedding"] = vars(load_config(lost, None).embedding)
    (bundle / "config.json").write_text(json.dumps(description))
    with pytest.raises(ValueError, match="/nowhere/model"):
        run_server(serve_config(f"bundle={bundle}", f"port={taken_port}"))


# The real process


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def start_server(bundle):
    started = []

    def start(*overrides, host="127.0.0.1", environment=None):
        port = free_port()
        command = [sys.executable, "-c", "from plurallm.cli import main; main()", "serve"]
        process = subprocess.Popen(
            [*command, str(bundle), f"host='{host}'", f"port={port}", "threads=1", *overrides],
            env={**os.environ, **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        for _ in range(600):
            try:
                httpx.get(f"{url}/health", timeout=1)
                break
            except httpx.TransportError:
                assert process.poll() is None, process.stdout.read()
                time.sleep(0.1)
        return process, url

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.stdout.close()
        process.wait()


def query(question):
    return {"question": question, "options": ["Yes", "No", "Unsure"], "group": GROUPS[0]}


def test_the_server_finishes_its_requests_when_it_is_told_to_end(start_server):
    process, url = start_server(environment={"PLURALLM_TOKEN": TOKEN})
    headers = {"authorization": f"Bearer {TOKEN}"}
    with httpx.Client(base_url=url, headers=headers, timeout=60) as client:
        reply = client.post("/v1/predict", json={"queries": [query("Should taxes rise?")]})
        assert reply.status_code == 200
        assert "server" not in reply.headers

        def ask(number):
            body = {"queries": [query(f"Question {number} {n}?") for n in range(250)]}
            return client.post("/v1/predict", json=body).status_code

        with ThreadPoolExecutor(8) as threads:
            asked = [threads.submit(ask, number) for number in range(8)]
            while "in_flight 1" in client.get("/metrics").text:
                time.sleep(0.001)
            process.send_signal(signal.SIGTERM)
            assert [reply.result() for reply in asked].count(200) >= 1
    assert process.wait(30) in (0, -signal.SIGTERM)
    log = process.stdout.read()
    assert "Traceback" not in log
    assert TOKEN not in log
    assert f"serving on {url}" in log.replace("\n", "")


def test_a_client_that_never_finishes_does_not_keep_the_server_from_its_end(start_server):
    process, url = start_server("shutdown_timeout=1")
    address = httpx.URL(url)
    with socket.create_connection((address.host, address.port)) as slow:
        slow.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")
        while "in_flight 2" not in httpx.get(f"{url}/metrics").text:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert slow.recv(1000).startswith(b"HTTP/1.1 503")
    assert process.wait(30) in (0, -signal.SIGTERM)
    assert "Traceback" not in process.stdout.read()


def test_headers_are_refused_before_they_fill_the_memory(start_server):
    _, url = start_server()
    address = httpx.URL(url)
    with socket.create_connection((address.host, address.port), timeout=30) as endless:
        endless.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: ")
        with pytest.raises(OSError, match=r"(?i)reset|broken pipe"):
            endless.sendall(b"x" * 64_000_000)
    assert httpx.get(f"{url}/health").status_code == 200


def test_it_serves_on_the_loopback_of_ipv6(start_server):
    process, url = start_server(host="::1")
    assert httpx.get(f"{url}/v1/model").json()["groups"] == list(GROUPS)
    process.terminate()
    process.wait(30)
    assert f"serving on {url}" in process.stdout.read().replace("\n", "")


def test_it_does_not_say_that_it_serves_on_a_port_of_another(bundle, taken_port, caplog):
    with caplog.at_level("INFO"), pytest.raises(SystemExit):
        run_server(serve_config(f"bundle={bundle}", f"port={taken_port}"))
    assert "address already in use" in caplog.text
    assert "serving" not in caplog.text
