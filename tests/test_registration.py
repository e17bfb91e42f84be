"""What the operator's folder says of nodes and their groups, and the audit file."""

import json
import os
import subprocess
import sys

import pytest

from plurallm.deploy import operator
from plurallm.federate import registration
from plurallm.federate.registration import (
    RegistrationError,
    audit,
    bind,
    check_registration,
    unbind,
    unbound,
)

LOGGED = (
    "2026-11-29T07:47:13.824Z INFO [uvicorn.access] 127.0.0.1:35678 - "
    '"POST /v1/control/{} HTTP/1.1" {}\n'
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(registration.FOLDER, str(tmp_path))
    return tmp_path


def entries(folder):
    return [json.loads(line) for line in (folder / registration.AUDIT).read_text().splitlines()]


def test_a_key_may_bring_what_it_is_bound_to_until_it_is_unbound(folder):
    bind(folder, "1", ["North", "South"])
    bind(folder, "2", None)
    assert unbound(1, ["South"]) is None
    assert unbound(2, ["whatever"]) is None
    assert "'East', but for North, South" in unbound(1, ["North", "East"])
    assert "but for no group" in unbound(3, ["North"])
    bind(folder, "1", ["East"])
    assert unbound(1, ["East"]) is None
    unbind(folder, "1")
    assert "but for no group" in unbound(1, ["East"])
    assert unbound(2, ["whatever"]) is None


def test_no_binding_is_lost_when_several_commands_bind_at_once(folder):
    code = "import sys; from pathlib import Path; from plurallm.federate.registration import bind\n"
    code += "for n in range(20): bind(Path(sys.argv[1]), f'{sys.argv[2]}-{n}', ['North'])"
    several = [
        subprocess.Popen([sys.executable, "-c", code, str(folder), str(number)])
        for number in range(3)
    ]
    assert [one.wait(timeout=120) for one in several] == [0, 0, 0]
    assert len(json.loads((folder / registration.GROUPS).read_text())) == 60


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "groups.json is missing"),
        ("{", "groups.json cannot be read"),
        ('{"1": "North"}', "must have a list of groups, or null, for each node"),
        ("[]", "must have a list of groups"),
        ('{"1": [3]}', "must have a list of groups"),
    ],
)
def test_bindings_that_cannot_be_read_let_nobody_in(folder, text, reason):
    if text is not None:
        (folder / registration.GROUPS).write_text(text)
    with pytest.raises(RegistrationError, match=reason):
        check_registration()


def test_without_an_operators_folder_nothing_is_enforced_and_that_is_refused(monkeypatch):
    monkeypatch.delenv(registration.FOLDER, raising=False)
    with pytest.raises(RegistrationError, match=r"PLURALLM_OPERATOR is not set.*plurallm server"):
        check_registration()


def test_the_audit_file_is_only_appended_to_and_is_its_owners_alone(folder):
    audit("register", node="1")
    before = (folder / registration.AUDIT).read_bytes()
    audit("bind", node="1", who="somebody")
    after = (folder / registration.AUDIT).read_bytes()
    assert after.startswith(before)
    assert (folder / registration.AUDIT).stat().st_mode & 0o777 == 0o600
    first, second = entries(folder)
    assert first["what"] == "register"
    assert first["who"]
    assert second["who"] == "somebody"
    assert all(entry["time"].endswith("+00:00") for entry in (first, second))


def test_a_node_cannot_fill_the_audit_file_with_names(folder):
    audit("node admitted", groups=["g" * 300] * 10**5, why="x" * 10**6)
    (entry,) = entries(folder)
    assert len(entry["groups"]) == 101
    assert entry["groups"][-1] == "... and 99900 more"
    assert len(entry["why"]) == 1003


def test_lines_of_several_processes_do_not_mix(folder):
    code = (
        "from plurallm.federate.registration import audit\n"
        "for n in range(50): audit('x', text='y' * 900)"
    )
    several = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(3)]
    assert [one.wait(timeout=120) for one in several] == [0, 0, 0]
    assert len(entries(folder)) == 150


@pytest.mark.parametrize("request_", ["stop-run", "start-run", "register-node", "unregister-node"])
def test_what_is_asked_of_flower_past_the_scripts_is_kept(folder, request_):
    operator.note_request(folder, LOGGED.format(request_, 200))
    (entry,) = entries(folder)
    assert entry["what"] == "asked of Flower"
    assert entry["request"] == request_
    assert entry["who"] == "from 127.0.0.1:35678"


@pytest.mark.parametrize(
    "line",
    [
        LOGGED.format("list-nodes", 200),
        LOGGED.format("stop-run", 400),
        "round 1: " + LOGGED.format("stop-run", 200),
        LOGGED.format("stop-run", 200).replace("control", "fleet"),
        "anything\n",
    ],
)
def test_what_changes_nothing_is_not_kept(folder, line):
    operator.note_request(folder, line)
    assert not os.path.exists(folder / registration.AUDIT)
