"""Deployments of real processes: TLS, keys, and what happens when something goes wrong.

Each test says in its output how long what it is about has taken (``pytest -s``).
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from local_deployment import SMALL, LocalDeployment, program, write_surveys
from safetensors.numpy import load_file

from plurallm.cli import export
from plurallm.deploy.processes import ask, surroundings
from plurallm.federate.client_app import app as client_app

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parent.parent
LONG = 900.0  # seconds; only a machine with much else to do comes near it


def wait_for(condition, what, seconds=LONG):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, f"waited too long for {what}"
        time.sleep(0.2)


def lines(folder, file="metrics.jsonl"):
    path = folder / file
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]


def report(what, seconds):
    print(f"\n{what}: {seconds:.0f} s")


@pytest.fixture(scope="module")
def deployment(tmp_path_factory):
    """A server and the nodes of four groups; the last one is held out."""
    folder = tmp_path_factory.mktemp("deployment")
    with LocalDeployment(folder) as running:
        running.files = write_surveys(folder, 6)
        running.start_server()
        for group in list(running.files)[:4]:
            running.add_node(group, running.files[group])
        running.wait_for_nodes(4)
        yield running


def overrides(deployment, *more, fourth=4):
    """Overrides of a run that trains three groups and a further one, by its number."""
    groups = list(deployment.files)
    first, second, third, held_out = groups[:4]
    return [
        *SMALL,
        *("evaluation.every=99", "federation.nodes=4", "federation.wait_seconds=300"),
        f"data.train_groups=[{first},{second},{third},{groups[fourth]}]",
        f"data.held_out_groups=[{held_out}]",
        *more,
    ]


def in_process(deployment, folder, absent, *more, fourth=4):
    """The same run in one process: ``absent[group]`` are the rounds that a group misses."""
    from flwr.app import Context, RecordDict
    from test_deployment import Presence

    from plurallm.federate.server_app import app as server_app

    groups = list(deployment.files)
    rounds_of = {
        number: [n for n in range(1, 99) if n not in absent.get(group, ())]
        for number, group in enumerate(groups, start=1)
    }
    cache = str(deployment.folder / "cache")
    nodes = [
        {"survey": str(deployment.files[group]), "groups": group, "cache-dir": cache}
        for group in groups
    ]
    run_config = {
        "overrides": " ".join(["data=nodes", *overrides(deployment, *more, fourth=fourth)]),
        "server-overrides": f"output_dir={folder}",
    }
    context = Context(
        run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config=run_config
    )
    server_app(Presence(rounds_of, client_app, nodes, run_config), context)
    return folder


def same_model(one, other):
    a, b = (load_file(folder / "model/model.safetensors") for folder in (one, other))
    return a.keys() == b.keys() and all((a[name] == b[name]).all() for name in a)


def without_place(bundle):
    """A bundle's files without what says, or depends on, where the answers were.

    In a deployment no place has all of the survey, nor the answers of two groups.
    """
    files = {file.name: file.read_bytes() for file in bundle.iterdir()}
    config = json.loads(files["config.json"])
    places = (config["content"].pop("survey"), config["provenance"].pop("data"))
    assert places[1] == ("custom" if places[0] else "nodes")
    config["provenance"].pop("plurality", None)
    card, plurality = files["README.md"].decode().split("## Plurality\n")
    card = card.replace(f"Data: `{places[1]}`", "")
    return files | {"config.json": config, "README.md": (card, plurality.split("## Limits")[1])}


def test_the_script_shows_the_same_model_as_the_engine_in_one_process(tmp_path):
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, REPOSITORY / "scripts/local_deployment.py", tmp_path / "all"],
        capture_output=True,
        text=True,
        timeout=2 * LONG,
        check=False,
    )
    report("a whole deployment of 4 nodes and 5 rounds", time.monotonic() - started)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the same to the bit" in done.stdout
    log = (tmp_path / "all/server.log").read_text()
    assert "Starting Flower SuperLink" in log
    # Its operator exports it like any other run; released answers come from their holder's file.
    group = next(path.stem for path in (tmp_path / "all").glob("*.csv") if path.stem != "all")
    released = [f"release_context=[{group}]", f"survey={tmp_path / 'all' / f'{group}.csv'}"]
    bundles = []
    for run in ("run", "in-process"):
        bundle = tmp_path / f"bundle-{run}"
        export([f"run={tmp_path / 'all' / run}", f"folder={bundle}", *released])
        bundles.append(without_place(bundle))
    assert bundles[0] == bundles[1]
    assert "model.safetensors" in bundles[0]


def test_nodes_on_separate_hosts_give_the_same_model(tmp_path):
    started = time.monotonic()
    done = subprocess.run(
        [
            *(sys.executable, REPOSITORY / "scripts/local_deployment.py", tmp_path / "all"),
            "--separate-hosts",
        ],
        capture_output=True,
        text=True,
        timeout=2 * LONG,
        check=False,
    )
    if "makes no separate hosts" in done.stderr:
        pytest.skip(done.stderr.strip())
    report("a deployment on five hosts", time.monotonic() - started)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the same to the bit" in done.stdout


def test_killed_node_comes_back_and_another_joins(deployment, tmp_path):
    groups = list(deployment.files)
    killed, late = groups[1], groups[4]
    folder = tmp_path / "run"
    more = ("federation.rounds=12", "federation.min_groups=2")
    run = deployment.submit(*overrides(deployment, *more), f"output_dir={folder}", log="faults")
    wait_for(lambda: lines(folder), "round 1")
    begin = time.monotonic()
    deployment.kill(killed)  # round 2 is under way
    wait_for(lambda: len(lines(folder)) > 1, "round 2")
    report("the round in which a node was killed", time.monotonic() - begin)
    begin = time.monotonic()
    deployment.add_node(killed, deployment.files[killed])
    deployment.add_node(late, deployment.files[late])
    wait_for(
        lambda: killed in lines(folder)[-1]["groups_trained"] or run.poll() is not None,
        "the killed node",
    )
    report("until the killed node trained again", time.monotonic() - begin)
    assert run.wait(timeout=LONG) == 0, deployment.log("faults")
    rounds = lines(folder)
    assert [line["round"] for line in rounds] == list(range(1, 13))
    absent = {group: [] for group in groups}
    for line in rounds:
        for group in (*groups[:3], late):
            if group not in line["groups_trained"]:
                absent[group].append(line["round"])
    print({group: missed for group, missed in absent.items() if missed})
    print(rounds[1]["groups_refused"])
    assert killed in rounds[1]["groups_refused"]
    assert absent[killed], "the killed node missed no round"
    assert 12 not in absent[killed], "the killed node did not come back"
    assert absent[late] == list(range(1, len(absent[late]) + 1))
    assert len(absent[late]) < 12, "the late node did not join"
    assert absent[groups[0]] == absent[groups[2]] == []
    deployment.stop(late)
    absent[groups[5]] = range(99)
    expected = in_process(deployment, tmp_path / "expected", absent, *more)
    assert same_model(folder, expected)


def with_home(home):
    everything = psutil.process_iter(["environ"])
    return [p for p in everything if (p.info["environ"] or {}).get("FLWR_HOME") == str(home)]


def test_an_update_that_comes_late_is_left_out_and_named(deployment, tmp_path):
    groups = list(deployment.files)
    late, home, folder = groups[1], deployment.folder / groups[1] / "flower", tmp_path / "run"
    more = ("federation.rounds=8", "federation.min_groups=1", "federation.round_timeout=60")
    said_before = len(deployment.log(late))
    run = deployment.submit(*overrides(deployment, *more), f"output_dir={folder}", log="late")
    wait_for(lambda: lines(folder), "round 1")
    wait_for(
        lambda: any("flwr-clientapp" in " ".join(p.cmdline()) for p in with_home(home)),
        "the message of round 2",
    )
    # All but the SuperNode, whose heartbeat would be given up before the round is.
    stopped = [p for p in with_home(home) if "flower-supernode" not in " ".join(p.cmdline())]
    begin = time.monotonic()
    for process in stopped:
        process.suspend()
    try:
        wait_for(lambda: len(lines(folder)) > 1, "the end of round 2")
        report("the round in which a node stood still", time.monotonic() - begin)
    finally:
        for process in stopped:
            process.resume()
    assert run.wait(timeout=LONG) == 0, deployment.log("late")
    rounds = lines(folder)
    assert re.fullmatch(r"no reply from node \d+", rounds[1]["groups_refused"][late])
    # It finished its work all the same, after the round.
    assert "train round=2" in deployment.log(late)[said_before:]
    absent = {group: range(99) for group in groups[4:]}
    for group in groups[:3]:  # a busy machine may be late by itself
        absent[group] = [line["round"] for line in rounds if group not in line["groups_trained"]]
    print(f"missed rounds: {absent}")
    assert 2 in absent[late]
    assert len(absent[late]) < 7, "it did not take part again"
    assert same_model(folder, in_process(deployment, tmp_path / "expected", absent, *more))


def send(process, *numbers):
    for number in numbers:
        process.send_signal(number)
        time.sleep(0.05)  # Python would take those that come together in the order of their numbers


@pytest.mark.parametrize(
    "numbers",
    [
        (signal.SIGTERM, signal.SIGTERM),
        (signal.SIGINT, signal.SIGTERM, signal.SIGINT),
        (signal.SIGHUP, signal.SIGHUP),
    ],
)
def test_signals_end_all_that_node_and_server_have_started(tmp_path, numbers):
    with LocalDeployment(tmp_path) as running:
        files = write_surveys(tmp_path, 2)
        running.start_server()
        group = next(iter(files))
        running.add_node(group, files[group])
        running.wait_for_nodes(1)
        for name, home in ((group, tmp_path / group), ("server", running.server)):
            assert len(with_home(home / "flower")) >= 2  # SuperNode or SuperLink, and SuperExec
            send(running.processes[name], *numbers)
            expected = 0 if numbers[0] == signal.SIGTERM else 128 + numbers[0]
            assert running.processes[name].wait(timeout=60) == expected
            assert with_home(home / "flower") == []


def test_a_submission_that_is_ended_leaves_nothing_behind_and_its_run_goes_on(
    deployment, tmp_path, monkeypatch
):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    folder = tmp_path / "run"
    asked = [*overrides(deployment, "federation.rounds=1"), f"output_dir={folder}"]
    run = deployment.submit(*asked, log="ended")
    wait_for(lambda: psutil.Process(run.pid).children() and list(tmp_path.glob("tmp*")), "the log")
    wait_for(lambda: "submitted" in deployment.log("ended"), "the submission")
    children = psutil.Process(run.pid).children(recursive=True)
    assert children
    send(run, signal.SIGTERM, signal.SIGTERM, signal.SIGINT)
    assert run.wait(timeout=60) == 128 + signal.SIGTERM
    assert not any(child.is_running() for child in children)
    assert list(tmp_path.glob("tmp*")) == []
    wait_for(lambda: (folder / "summary.json").exists(), "the run's end")


def test_ctrl_c_stops_the_run(deployment, tmp_path):
    asked = [*overrides(deployment, "federation.rounds=50"), f"output_dir={tmp_path / 'run'}"]
    run = deployment.submit(*asked, log="stopped")
    wait_for(lambda: "submitted" in deployment.log("stopped"), "the submission")
    send(run, signal.SIGINT, signal.SIGINT)
    assert run.wait(timeout=60) == 130
    assert "Stopping the run" in deployment.log("stopped")
    number = re.search(r"Run (\d+) submitted", deployment.log("stopped"))[1]
    assert run_state(deployment, number)["status"] == "finished:stopped"


def test_the_operator_sees_who_is_there(deployment):
    command = [*program("operator"), deployment.server, "nodes"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for group in list(deployment.files)[:4]:
        assert re.search(rf"^\d+ +online .* {re.escape(group)}$", shown, re.MULTILINE), shown


def test_two_nodes_with_one_group_are_both_named(deployment, tmp_path):
    first = next(iter(deployment.files))
    begin = time.monotonic()
    deployment.add_node("double", deployment.files[first], group=first)
    try:
        deployment.wait_for_nodes(5)
        run = deployment.submit(
            *overrides(deployment, "federation.nodes=5", "federation.rounds=1"),
            f"output_dir={tmp_path / 'run'}",
            log="double-run",
        )
        assert run.wait(timeout=LONG) == 1
        said = deployment.log("double-run")
        assert re.search(rf"group '{first}' is hosted by two nodes, \d+ and \d+", said)
    finally:
        deployment.stop("double")
    report("a run with two nodes of one group", time.monotonic() - begin)


def test_an_unregistered_key_is_turned_away(deployment):
    begin = time.monotonic()
    first = next(iter(deployment.files))
    deployment.add_node("stranger", deployment.files[first], "--tries", "1", group=first, key=False)
    process = deployment.processes["stranger"]
    assert process.wait(timeout=LONG) == 1
    assert "the server does not let this key in" in deployment.log("stranger")
    deployment.stop("stranger")
    report("a node with an unregistered key", time.monotonic() - begin)


def test_another_authoritys_server_is_not_spoken_to(deployment, tmp_path):
    begin = time.monotonic()
    make = [*program("certificates"), tmp_path / "other", "localhost"]
    subprocess.run(make, check=True, capture_output=True)
    first = next(iter(deployment.files))
    process = start_by_hand(
        deployment, "impostor", ["--root-certificates", str(tmp_path / "other/ca.crt")]
    )
    assert "CERTIFICATE_VERIFY_FAILED" in wait_to_end(process)
    report(f"a node of {first} that expects another authority", time.monotonic() - begin)


def test_a_plain_text_client_gets_nothing(deployment):
    begin = time.monotonic()
    with socket.create_connection(("127.0.0.1", deployment.port), 10) as plain:
        plain.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        try:
            answer = plain.recv(1000)
        except ConnectionResetError:
            answer = b""
    assert b"HTTP/1.1 200" not in answer
    process = start_by_hand(deployment, "plain", ["--insecure"])
    said = wait_to_end(process)
    assert "SuperNode ID" not in said
    report("a plain-text node", time.monotonic() - begin)


def start_by_hand(deployment, name, options, **environment):
    """Start Flower's SuperNode without our script."""
    home = deployment.folder / f"{name}-home"
    home.mkdir(exist_ok=True)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        *("flower-supernode", "--superlink", f"127.0.0.1:{deployment.port}", "--port", str(port)),
        *("--max-retries", "1", *options),
    ]
    return subprocess.Popen(
        command,
        cwd=home,
        env=os.environ | quiet | {"PATH": path, "FLWR_HOME": str(home)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_to_end(process, seconds=60):
    """What a process said until it ended, or was ended after some time."""
    try:
        return process.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.communicate()[0]


def test_a_broken_file_is_refused_before_the_node_connects(deployment, tmp_path):
    begin = time.monotonic()
    first = next(iter(deployment.files))
    broken = tmp_path / "broken.csv"
    text = deployment.files[first].read_text()
    broken.write_text(text.replace('"[0.', '"[7.', 1))
    deployment.add_node("broken", broken, group=first, key=False)
    assert deployment.processes["broken"].wait(timeout=LONG) == 2
    said = deployment.log("broken")
    assert "broken.csv, row 2: the shares of group" in said
    assert "SuperNode" not in said
    deployment.stop("broken")
    report("a node with a broken file", time.monotonic() - begin)


def run_state(deployment, number):
    options = surroundings(deployment.server / "flower")
    return ask(options, "ls", "server", "--run-id", number)["runs"][0]


def flwr_run(deployment, app, run_config):
    """Submit with Flower's own command, past what our script checks; give the run's state."""
    settings = deployment.folder / "run.toml"
    settings.write_text("".join(f"{key} = {json.dumps(v)}\n" for key, v in run_config.items()))
    options = surroundings(deployment.server / "flower")
    number = ask(options, "run", str(app), "server", "--run-config", str(settings))["run-id"]
    limit = time.monotonic() + LONG
    while time.monotonic() < limit:
        state = run_state(deployment, number)
        if state["status"].startswith("finished"):
            return state
        time.sleep(1)
    raise AssertionError("the run did not end")


def copy_of_app(folder):
    app = folder / "app"
    for name in ("plurallm", "conf"):
        shutil.copytree(REPOSITORY / name, app / name)
    shutil.copy2(REPOSITORY / "pyproject.toml", app)
    return app


def test_a_run_that_asks_for_another_file_is_refused_by_every_node(deployment, tmp_path):
    begin = time.monotonic()
    secret = tmp_path / "secret.csv"
    secret.write_text("a very private thing\n")
    asked = f"data=custom data.path={secret} federation.nodes=4 federation.wait_seconds=60"
    state = flwr_run(
        deployment,
        copy_of_app(tmp_path),
        {"overrides": asked, "server-overrides": f"output_dir={tmp_path / 'run'}"},
    )
    assert state["status"] == "finished:failed"
    assert "data.path is not among the keys that a run may set here" in state["status-details"]
    refusals = [deployment.log(group) for group in list(deployment.files)[:4]]
    assert all("data.path is not among the keys" in log for log in refusals)
    report("a run that asks for another file", time.monotonic() - begin)


def test_nodes_run_their_own_code_and_one_that_sends_nan_is_left_out(deployment, tmp_path):
    """The run brings a spoiled ClientApp: only a node that is not pinned runs it."""
    begin = time.monotonic()
    app = copy_of_app(tmp_path)
    client = app / "plurallm/federate/client_app.py"
    mark = "    # One array after the other"
    text = client.read_text()
    assert text.count(mark) == 1
    spoil = "    for values in stacked.values():\n        values[...] = float('nan')\n"
    client.write_text(text.replace(mark, spoil + mark))
    sixth = list(deployment.files)[5]
    script = [*program("node"), tmp_path / "open", "key"]
    subprocess.run(script, check=True, capture_output=True)
    register = [
        *(*program("operator"), deployment.server, "register"),
        *(tmp_path / "open/key.pub", sixth),
    ]
    subprocess.run(register, check=True, capture_output=True)
    settings = tmp_path / "node.toml"
    settings.write_text(
        f'survey = "{deployment.files[sixth]}"\ngroups = "{sixth}"\n'
        f'cache-dir = "{tmp_path / "cache"}"\n'
    )
    process = start_by_hand(
        deployment,
        "open",
        [
            *("--root-certificates", str(deployment.server / "ca.crt")),
            *("--auth-supernode-private-key", str(tmp_path / "open/key")),
            *("--node-config", str(settings)),
        ],
    )
    try:
        deployment.wait_for_nodes(5)
        folder = tmp_path / "run"
        asked = overrides(deployment, "federation.nodes=5", "federation.rounds=2", fourth=5)
        state = flwr_run(
            deployment,
            app,
            {
                "overrides": " ".join(["data=nodes", *asked]),
                "server-overrides": f"output_dir={folder}",
            },
        )
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        wait_to_end(process, 30)
    assert state["status"] == "finished:completed", state
    assert len(lines(folder)) == 2
    for line in lines(folder):
        assert list(line["groups_trained"]) == list(deployment.files)[:3]
        assert "is not finite" in line["groups_refused"][sixth]
    absent = {group: range(99) for group in list(deployment.files)[4:]}
    without = in_process(deployment, tmp_path / "without", absent, "federation.rounds=2", fourth=5)
    assert same_model(folder, without)
    report("two rounds with a node that sends NaN", time.monotonic() - begin)


def test_a_node_that_trusts_signed_apps_only_refuses_ours(deployment, tmp_path):
    begin = time.monotonic()
    group = list(deployment.files)[4]
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", tmp_path / "signer"],
        check=True,
    )
    entities = tmp_path / "trusted.yaml"
    entities.write_text(f"fpk_some: '{(tmp_path / 'signer.pub').read_text().strip()}'\n")
    deployment.add_node(
        "careful", deployment.files[group], "--trusted-entities", str(entities), group=group
    )
    try:
        deployment.wait_for_nodes(5)
        run = deployment.submit(
            *overrides(deployment, "federation.nodes=5", "federation.rounds=1"),
            f"output_dir={tmp_path / 'run'}",
            log="careful-run",
        )
        assert run.wait(timeout=LONG) == 1
        assert "could not be verified" in deployment.log("careful")
    finally:
        deployment.stop("careful")
    report("a node that trusts signed apps only", time.monotonic() - begin)


def test_a_killed_server_comes_back_and_the_run_goes_on(deployment, tmp_path):
    folder = tmp_path / "run"
    more = ("federation.rounds=6", "federation.checkpoint_every=1")
    asked = [*overrides(deployment, *more), f"output_dir={folder}"]
    run = deployment.submit(*asked, log="cut")
    wait_for(lambda: len(lines(folder)) > 2, "round 3")
    begin = time.monotonic()
    deployment.kill("server")
    deployment.start_server()
    assert run.wait(timeout=LONG) == 1
    assert f"resume={folder}" in deployment.log("cut")
    deployment.wait_for_nodes(4)
    report("until the restarted server had its nodes again", time.monotonic() - begin)
    resumed = deployment.submit(f"resume={folder}", log="resumed")
    assert resumed.wait(timeout=LONG) == 0, deployment.log("resumed")
    report("until the resumed run ended", time.monotonic() - begin)
    assert [line["round"] for line in lines(folder)] == [1, 2, 3, 4, 5, 6]
    absent = {group: range(99) for group in list(deployment.files)[4:]}
    whole = in_process(deployment, tmp_path / "whole", absent, *more)
    assert same_model(folder, whole)
