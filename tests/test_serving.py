"""The server through its HTTP interface."""

import asyncio
import base64
import json
import time

import httpx
import pytest
from bundle import GROUPS, export_tiny, train_tiny
from fastapi.testclient import TestClient

from plurallm.config.compose import load_tool_config
from plurallm.config.services import ServeConfig
from plurallm.data.context import context_to_json
from plurallm.data.non_answers import is_non_answer
from plurallm.reward import Item, PreferenceRewardModel, Scorer
from plurallm.reward.http.app import make_app
from plurallm.reward.http.batching import Batcher
from plurallm.reward.http.metrics import Metrics

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
    assert reply["extra_logs"] == {"parsed": [1]}


def test_empty_lists_are_answered(client):
    empty = {"rewards": [], "scores": [], "extra_logs": {"parsed": []}}
    for body in ({"query": [], "prompts": [], "labels": []}, {"query": []}):
        assert client.post("/get_reward", json=body).json() == empty
    assert client.post("/v1/predict", json={"queries": []}).json() == {"predictions": []}
    assert client.post("/v1/score", json={"items": []}).json() == {"scores": []}


def test_a_new_groups_file_becomes_a_context(client, model, write_survey):
    context = [a for a in model.contexts[GROUPS[0]] if not any(map(is_non_answer, a.options))]
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


def test_a_file_that_predictions_would_refuse_is_refused_at_once(client, write_survey):
    def refusal(rows):
        text = write_survey(rows).read_text()
        reply = client.post("/v1/context", content=text, headers={"content-type": "text/csv"})
        assert reply.status_code == 422
        return reply.json()["detail"]

    row = {"question": "q", "options": ["a", "b"], "shares": [0.5, 0.5], "group": "new"}
    many = [{**row, "question_id": str(n), "question": f"q{n}"} for n in range(201)]
    assert refusal(many) == "context: List should have at most 200 items after validation, not 201"
    long = [{**row, "question_id": "1", "question": "q" * 10_001}]
    assert refusal(long) == "context.0.question: String should have at most 10000 characters"


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
        (
            "/get_reward",
            {
                "query": ["a[1, 0]"],
                "prompts": ["a"],
                "labels": [label(options=["\ud800", "b"], group=None)],
            },
            "",
        ),
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
    client = make_client(
        "max_items=3", "max_options=20", "max_contexts=2", "max_context_options=30"
    )
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
    small = {"options": ["a", "b"], "shares": [1, 0]}
    asked = [query(group=None, context=[{"question": f"q{n}", **small}]) for n in range(3)]
    assert client.post("/v1/predict", json={"queries": [*asked[:2], asked[0]]}).status_code == 200
    refused = client.post("/v1/predict", json={"queries": asked})
    assert "3 contexts, more than the server's max_contexts, 2" in refused.json()["detail"]


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


@pytest.mark.parametrize("config_host", ["127.0.0.1", "'::1'", "127.9.9.9"])
def test_another_host_name_is_refused_without_a_token(make_client, config_host):
    client = make_client(f"host={config_host}")
    ours = ["localhost", "LocalHost:5000", "127.0.0.1:1", "[::1]", "[::1]:5000"]
    for host in (*ours, *(["127.9.9.9:5000"] if config_host == "127.9.9.9" else [])):
        assert client.get("/v1/model", headers={"host": host}).status_code == 200
    for host in ("evil.example", "localhost.evil.example", "[::2]:5000", "[", "", "::1"):
        refused = client.get("/v1/model", headers={"host": host})
        assert refused.status_code == 400
        assert "host name" in refused.json()["detail"]
        assert refused.headers["x-content-type-options"] == "nosniff"
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


async def ask_slowly(app, finished, method="POST", path="/v1/predict", token=None):
    """Send the start of a body and then nothing, until `finished`; returns the status."""
    headers = [(b"host", b"127.0.0.1")]
    if token is not None:
        headers.append((b"authorization", f"Bearer {token}".encode()))
    scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode()}
    scope |= {"query_string": b"", "headers": headers, "http_version": "1.1"}
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


def test_requests_without_the_token_keep_nobody_out(model):
    app = make_app(model, serve_config("max_concurrency=1"), TOKEN)

    async def run():
        never, now = asyncio.Event(), asyncio.Event()
        now.set()
        strangers = [("GET", "/health"), ("POST", "/health"), ("POST", "/v1/predict")]
        waiting = [asyncio.create_task(ask_slowly(app, never, *one)) for one in strangers]
        await asyncio.sleep(0)
        known = await ask_slowly(app, now, token=TOKEN)
        return known, await asyncio.wait_for(asyncio.gather(*waiting), 10)

    # A body of "{" alone is no JSON: 422. Nobody waits for the body of the others.
    assert asyncio.run(run()) == (422, [200, 405, 401])


# Batches, metrics, faults


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
        batcher = Batcher(max_inputs=4, metrics=Metrics())
        worker = asyncio.create_task(batcher.serve())
        replies = await asyncio.gather(
            *(batcher.run("key", work, [n]) for n in (4, 0, 2)), return_exceptions=True
        )
        worker.cancel()
        batcher.close()
        return replies

    before, failed, after = asyncio.run(run())
    assert isinstance(failed, ZeroDivisionError)
    assert (before, after) == ([0.25], [0.5])


class Picky(PreferenceRewardModel):
    """Finds some texts wrong that the checks of requests let through."""

    def predict_batch(self, queries):
        for one in queries:
            if one.question == "Unspeakable?":
                raise ValueError("half a letter: \ud800")
        return super().predict_batch(queries)


def test_a_request_that_cannot_be_computed_is_a_422_of_its_own(bundle):
    app = make_app(Picky.from_pretrained(bundle), serve_config(), None)
    bodies = [{"queries": [query(question=f"{n}?")]} for n in range(6)]
    bodies[3] = {"queries": [query(question="Unspeakable?")]}

    async def run():
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client,
        ):
            return await asyncio.gather(*(client.post("/v1/predict", json=b) for b in bodies))

    replies = asyncio.run(run())
    assert [reply.status_code for reply in replies] == [200, 200, 200, 422, 200, 200]
    assert replies[3].json() == {"detail": "half a letter: ?"}


class Forgetful(PreferenceRewardModel):
    """Has a fault that no request causes."""

    @property
    def texts_embedded(self):
        raise ValueError("forgot")


def test_a_fault_of_the_server_is_no_fault_of_the_request(bundle):
    app = make_app(Forgetful.from_pretrained(bundle), serve_config(), None)
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        assert client.get("/metrics").status_code == 500
        assert client.get("/health").status_code == 200


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
