"""The server through its HTTP interface."""

import asyncio
import base64
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
from fastapi.testclient import TestClient

from plurallm.config import ConfigError, ServeConfig, load_tool_config
from plurallm.reward import Item, PreferenceRewardModel, Scorer
from plurallm.reward.context import context_to_json
from plurallm.serving import make_app
from plurallm.serving.batch import Batcher
from plurallm.serving.metrics import Metrics
from plurallm.serving.server import check_exposure, read_token

TOKEN = "correct-horse-battery"
QUESTION, OPTIONS = "Should taxes rise?", ["Yes", "No", "Unsure"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serving")
    return export_tiny(train_tiny(folder), folder / "bundle")


@pytest.fixture(scope="module")
def model(bundle):
    return PreferenceRewardModel.from_pretrained(bundle)


def serve_config(*overrides):
    return load_tool_config("serve", ["bundle=unused", *overrides], ServeConfig)


@pytest.fixture
def make_client(model):
    clients = []

    def make(*overrides, token=None):
        app = make_app(model, serve_config(*overrides), token)
        client = TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)
        clients.append(client.__enter__())
        return client

    yield make
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture
def client(make_client):
    return make_client()


def query(**changes):
    return {"question": QUESTION, "options": OPTIONS, "group": GROUPS[0], **changes}


def label(**changes):
    return json.dumps(query(**changes))


# Equality with the core


def test_predictions_are_the_models(client, model):
    context = context_to_json(model.contexts[GROUPS[1]])
    queries = [query(), query(group=GROUPS[1]), query(group=None, context=context)]
    reply = client.post("/v1/predict", json={"queries": queries})
    assert reply.status_code == 200
    predictions = reply.json()["predictions"]
    for prediction, group in zip(predictions, (*GROUPS, GROUPS[1]), strict=True):
        forecast = model.predict(QUESTION, OPTIONS, group)
        assert prediction["shares"] == pytest.approx(forecast.shares, abs=1e-6)
        assert prediction["spread"] == pytest.approx(forecast.spread, abs=1e-6)


@pytest.mark.parametrize("measure", ["share", "jensen_shannon", "borda", "raw_mean"])
def test_scores_are_the_cores(client, model, measure):
    completions = ["B", "[0.2, 0.5, 0.3]", "B > A > C", "?"]
    items = [
        query(completion=text, group=group) for text in completions for group in (*GROUPS, None)
    ]
    reply = client.post(
        "/v1/score", json={"items": items, "measure": measure, "over_groups": "min"}
    )
    assert reply.status_code == 200
    expected = Scorer(model, measure, "min").score(
        [Item(i["completion"], i["question"], tuple(i["options"]), i["group"]) for i in items]
    )
    for score, right in zip(reply.json()["scores"], expected, strict=True):
        assert score["reward"] == pytest.approx(right.reward, abs=1e-6)
        assert score["by_group"] == pytest.approx(right.by_group, abs=1e-6)
        assert score["parsed"] == right.parsed
        assert score["in_distribution"] == (measure != "raw_mean")


def test_openrlhfs_request_is_answered_in_its_shape(client, model):
    body = {"query": ["Q? [0.2, 0.5, 0.3]</s>"], "prompts": ["Q?"], "labels": [label()]}
    reply = client.post("/get_reward", json=body).json()
    (score,) = Scorer(model).score([Item("[0.2, 0.5, 0.3]", QUESTION, tuple(OPTIONS), GROUPS[0])])
    assert reply["rewards"] == pytest.approx([score.reward], abs=1e-6)
    assert reply["scores"] == reply["rewards"]
    assert reply["extra_logs"]["reward/Avaria"] == reply["rewards"]


def test_empty_lists_are_answered(client):
    empty = {"rewards": [], "scores": [], "extra_logs": {"parsed": []}}
    for body in ({"query": [], "prompts": [], "labels": []}, {"query": []}):
        assert client.post("/get_reward", json=body).json() == empty
    assert client.post("/v1/predict", json={"queries": []}).json() == {"predictions": []}
    assert client.post("/v1/score", json={"items": []}).json() == {"scores": []}


def test_a_new_groups_file_becomes_a_context(client, model, write_survey):
    context = model.contexts[GROUPS[0]]
    rows = [
        {"question_id": str(n), "group": "new", **answer}
        for n, answer in enumerate(context_to_json(context))
    ]
    text = write_survey(rows).read_text()
    reply = client.post("/v1/context", content=text, headers={"content-type": "text/csv"})
    assert reply.status_code == 200
    shares = [answer["shares"] for answer in reply.json()["context"]]
    assert shares == [pytest.approx(answer.shares) for answer in context]
    wrong = client.post(
        "/v1/context", content=text.replace("new", "", 1), headers={"content-type": "text/csv"}
    )
    assert wrong.status_code == 422
    assert wrong.json()["detail"].startswith("the file, row 2: no group")


# Refusals


@pytest.mark.parametrize(
    ("path", "body", "reason"),
    [
        ("/v1/predict", {"queries": [query(group="Nowhere")]}, "'Nowhere'"),
        ("/v1/predict", {"queries": [query(group=None)]}, "query 0 has neither group nor context"),
        ("/v1/predict", {"queries": [query(options=["a"])]}, "body.queries.0.options"),
        ("/v1/predict", {"queries": [query(options=["a", "a"])]}, "lists an option twice"),
        ("/v1/predict", {"queries": [query(colour="red")]}, "colour: Extra inputs"),
        ("/v1/predict", {"queries": [query(question="\ud800")]}, "question"),
        (
            "/v1/predict",
            {
                "queries": [
                    query(context=[{"question": "q", "options": ["a", "b"], "shares": [1, 0]}])
                ]
            },
            "both a group and a context",
        ),
        (
            "/v1/predict",
            {
                "queries": [
                    query(
                        group=None,
                        context=[{"question": "q", "options": ["a", "b"], "shares": [0.2, 0.2]}],
                    )
                ]
            },
            "sum to 0.4",
        ),
        ("/v1/score", {"items": [query(completion="A", options=[])]}, "item 0: question"),
        ("/v1/score", {"items": [], "measure": "accuracy"}, "body.measure"),
        ("/get_reward", {"query": ["a"], "prompts": ["a"], "labels": []}, "differ in length"),
        ("/get_reward", {"query": ["a"], "prompts": ["a"], "labels": ["Japan"]}, "not JSON"),
        ("/get_reward", {"query": ["a"], "prompts": ["a"], "labels": [label(group="X")]}, "'X'"),
        ("/get_reward", {}, "body.query: Field required"),
        ("/get_reward", [], "body"),
    ],
)
def test_a_wrong_request_is_a_422_that_says_why(client, path, body, reason):
    reply = client.post(
        path, content=json.dumps(body), headers={"content-type": "application/json"}
    )
    assert reply.status_code == 422
    assert reason in reply.json()["detail"]
    assert client.get("/health").status_code == 200


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"9" * 10_000, b'{"queries": [NaN]}']
)
def test_a_body_that_is_no_json_is_refused(client, content):
    headers = {"content-type": "application/json"}
    reply = client.post("/v1/predict", content=content, headers=headers)
    assert reply.status_code in (400, 422)
    assert isinstance(reply.json()["detail"], str)


def test_what_costs_too_much_is_refused(make_client, model):
    client = make_client("max_items=3", "max_options=20", "max_context_options=30")
    many = client.post("/v1/predict", json={"queries": [query()] * 4})
    assert "max_items, 3" in many.json()["detail"]
    # Two groups: 3 items of 4 options are 24 options.
    wide = query(completion="A", group=None, options=["a", "b", "c", "d"])
    assert (
        "max_options, 20" in client.post("/v1/score", json={"items": [wide] * 3}).json()["detail"]
    )
    assert client.post("/v1/score", json={"items": [wide] * 2}).status_code == 200
    answer = {"question": "q", "options": list("abcdefghijklmnop"), "shares": [1, *[0] * 15]}
    for count, status in ((1, 200), (2, 422)):
        asked = query(group=None, context=[answer] * count)
        assert client.post("/v1/predict", json={"queries": [asked] * 2}).status_code == status


def test_an_oversized_body_is_refused_while_it_arrives(make_client):
    client = make_client("max_body_bytes=1000")
    declared = client.post("/v1/predict", content=b"x" * 1001)
    sent = []

    def endless():
        for _ in range(10_000):
            sent.append(1)
            yield b"x" * 100

    streamed = client.post("/v1/predict", content=endless())
    for reply in (declared, streamed):
        assert reply.status_code == 413
        assert "1000 bytes" in reply.json()["detail"]
    assert client.post("/v1/predict", json={"queries": [query()]}).status_code == 200


def test_another_host_name_is_refused_without_a_token(client, make_client):
    assert client.get("/v1/model", headers={"host": "evil.example"}).status_code == 400
    guarded = make_client(token=TOKEN)
    headers = {"host": "reward.example", "authorization": f"Bearer {TOKEN}"}
    assert guarded.get("/v1/model", headers=headers).status_code == 200


def test_the_token_opens_all_but_health(make_client):
    client = make_client(token=TOKEN)
    assert client.get("/health").status_code == 200
    for path in ("/", "/docs", "/openapi.json", "/metrics", "/v1/model", "/nowhere"):
        reply = client.get(path)
        assert reply.status_code == 401
        assert reply.headers["www-authenticate"].startswith("Basic")
    basic = base64.b64encode(f"anyone:{TOKEN}".encode()).decode()
    for right in (f"Bearer {TOKEN}", f"bearer  {TOKEN}", f"Basic {basic}"):
        assert client.get("/v1/model", headers={"authorization": right}).status_code == 200
    wrong = base64.b64encode(b"anyone:nothing").decode()
    for value in (TOKEN, f"Bearer {TOKEN}x", "Bearer ", "Basic ???", f"Basic {wrong}", "Digest x"):
        assert client.get("/v1/model", headers={"authorization": value}).status_code == 401


async def ask_slowly(app, finished, path="/v1/predict"):
    """Send the start of a body and then nothing, until `finished`; returns the status."""
    scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode()}
    scope |= {"query_string": b"", "headers": [(b"host", b"127.0.0.1")], "http_version": "1.1"}
    scope |= {"scheme": "http", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 5000)}
    begun, replies = [], []

    async def receive():
        if begun:
            await finished.wait()
            return {"type": "http.request", "body": b"", "more_body": False}
        begun.append(True)
        return {"type": "http.request", "body": b"{", "more_body": True}

    async def send(message):
        replies.append(message)

    await app(scope, receive, send)
    return replies[0]["status"]


def test_a_slow_body_is_given_up(model):
    app = make_app(model, serve_config("body_timeout=0.05"), None)
    assert asyncio.run(ask_slowly(app, asyncio.Event())) == 408


def test_more_requests_than_fit_are_answered_503(model):
    app = make_app(model, serve_config("max_concurrency=2"), None)

    async def run():
        finished = asyncio.Event()
        waiting = [asyncio.create_task(ask_slowly(app, finished)) for _ in range(2)]
        await asyncio.sleep(0)
        refused = await ask_slowly(app, finished)
        finished.set()
        return refused, [await task for task in waiting], await ask_slowly(app, finished)

    # A body of "{" alone is no JSON: 422.
    assert asyncio.run(run()) == (503, [422, 422], 422)


# Batches, metrics


def test_requests_that_wait_are_computed_together():
    passes = []

    def work(inputs):
        passes.append(list(inputs))
        time.sleep(0.05)
        return [10 * one for one in inputs]

    async def run():
        batcher = Batcher(max_inputs=4, metrics=Metrics())
        worker = asyncio.create_task(batcher.serve())
        outputs = await asyncio.gather(
            *(batcher.run("key", work, [n, n]) for n in range(5)), batcher.run("other", work, [9])
        )
        worker.cancel()
        batcher.close()
        return outputs

    outputs = asyncio.run(run())
    assert outputs == [[10 * n, 10 * n] for n in range(5)] + [[90]]
    # The first batch takes what has arrived, until it is full.
    assert passes == [[0, 0, 1, 1], [2, 2, 3, 3], [4, 4], [9]]


def test_a_failing_batch_fails_its_requests_and_no_others():
    def work(inputs):
        return [1 / one for one in inputs]

    async def run():
        batcher = Batcher(max_inputs=1, metrics=Metrics())
        worker = asyncio.create_task(batcher.serve())
        replies = await asyncio.gather(
            *(batcher.run("key", work, [n]) for n in (0, 2)), return_exceptions=True
        )
        worker.cancel()
        batcher.close()
        return replies

    failed, done = asyncio.run(run())
    assert isinstance(failed, RuntimeError)
    assert done == [0.5]


def test_metrics_count_requests_and_batches(make_client):
    client = make_client()
    client.post("/v1/predict", json={"queries": [query(), query()]})
    client.post("/v1/predict", json={})
    client.get("/nowhere/<script>")
    lines = client.get("/metrics").text.splitlines()
    for line in (
        'plurallm_requests_total{path="/v1/predict",status="200"} 1',
        'plurallm_requests_total{path="/v1/predict",status="422"} 1',
        'plurallm_requests_total{path="other",status="404"} 1',
        'plurallm_request_seconds_bucket{le="+Inf"} 3',
        "plurallm_batches_total 1",
        "plurallm_batched_inputs_total 2",
        "plurallm_requests_in_flight 1",
    ):
        assert line in lines


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
        (["port=70000"], "port must be 0..65535"),
        (["tls_key=k.pem"], "together with tls_certificate"),
        (["max_items=0"], "max_items must be >= 1"),
        (["prot=1"], "did you mean port?"),
    ],
)
def test_a_wrong_configuration_is_refused(overrides, reason):
    with pytest.raises(ConfigError, match=reason):
        serve_config(*overrides)


# The real process


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def start_server(bundle):
    started = []

    def start(*overrides, environment=None):
        port = free_port()
        command = [sys.executable, "-c", "from plurallm.cli import main; main()", "serve"]
        process = subprocess.Popen(
            [*command, str(bundle), f"port={port}", "threads=1", *overrides],
            env={**os.environ, **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        url = f"http://127.0.0.1:{port}"
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


def test_the_server_finishes_its_requests_when_it_is_told_to_end(start_server):
    process, url = start_server(environment={"PLURALLM_TOKEN": TOKEN})
    headers = {"authorization": f"Bearer {TOKEN}"}
    with httpx.Client(base_url=url, headers=headers, timeout=60) as client:
        reply = client.post("/v1/predict", json={"queries": [query()]})
        assert reply.status_code == 200
        assert "server" not in reply.headers

        def ask(number):
            body = {"queries": [query(question=f"Question {number} {n}?") for n in range(250)]}
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
