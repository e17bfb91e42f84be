"""The verbs of a deployment, as far as they need no server."""

import json
import os
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar

import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key
from flwr.common.config import parse_config_args
from local_deployment import program

from plurallm.deploy import certificates, node, operator, processes, submit, supernode, watchdog
from plurallm.deploy.node_check import node_config
from plurallm.federate.node.settings import node_settings
from plurallm.record import lock

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"


@pytest.mark.parametrize("script", ["certificates.sh", "server.sh", "node.sh", "submit.sh"])
def test_help_needs_no_installation(script: str) -> None:
    for arguments in (["--help"], []):
        shown = subprocess.run(
            ["bash", SCRIPTS / script, *arguments], capture_output=True, check=True
        )
        assert shown.stdout.startswith(b"Usage: ")


# Certificates


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_keys_are_their_owners_alone_and_nothing_is_written_over(tmp_path: Path) -> None:
    folder = tmp_path / "operator"
    assert certificates.main([str(folder), "plurallm.example.org", "10.1.2.3"]) == 0
    for name in ("ca.key", "server.key"):
        assert mode(folder / name) == 0o600
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert certificates.main([str(folder), "other.example.org"]) == 2
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    names = x509.load_pem_x509_certificate(before["server.crt"]).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert set(names.value.get_values_for_type(x509.DNSName)) == {
        "localhost",
        "plurallm.example.org",
    }
    addresses = names.value.get_values_for_type(x509.IPAddress)
    assert {str(address) for address in addresses} == {"127.0.0.1", "10.1.2.3"}


def test_a_renewed_certificate_is_of_the_same_authority(tmp_path: Path) -> None:
    certificates.make_certificates(tmp_path, ["a.example.org"])
    authority = (tmp_path / "ca.crt").read_bytes()
    for name in ("server.crt", "server.key"):
        (tmp_path / name).rename(tmp_path / f"old-{name}")
    certificates.make_certificates(tmp_path, ["b.example.org"])
    assert (tmp_path / "ca.crt").read_bytes() == authority
    renewed = x509.load_pem_x509_certificate((tmp_path / "server.crt").read_bytes())
    renewed.verify_directly_issued_by(x509.load_pem_x509_certificate(authority))


@pytest.mark.parametrize(
    "name",
    [
        *("", "a b", "https://x.org", "x.org:8443", "*", "256.1.1.1", "1.2.3", "-..-", "a..org"),
        *("-a.org", "a-.org", "a_b.org", ".org", "a.org.", f"{'a' * 64}.org", "a." * 127 + "org"),
    ],
)
def test_what_is_no_name_is_refused(tmp_path: Path, name: str) -> None:
    assert certificates.main(["--", str(tmp_path / "x"), name]) == 2


def test_names_are_good_in_upper_case_too(tmp_path: Path) -> None:
    assert certificates.main([str(tmp_path), "Plurallm.EXAMPLE.org", "3com.example"]) == 0
    for name in ("plurallm.example.org", "3com.example"):
        assert handshake(tmp_path, name) == "TLSv1.3"


def test_what_flower_says_of_a_certificate_is_explained(tmp_path: Path, monkeypatch) -> None:
    certificates.make_certificates(tmp_path / "good", ["a.example.org"])
    monkeypatch.setattr(certificates, "SERVER_DAYS", 0)
    certificates.make_certificates(tmp_path / "expired", ["a.example.org"])
    (tmp_path / "other").mkdir()
    for name, source in (("server.crt", "good"), ("server.key", "good"), ("ca.crt", "expired")):
        shutil.copy(tmp_path / source / name, tmp_path / "other" / name)
    for folder, name, said in (
        ("expired", "a.example.org", "the server's certificate has expired"),
        ("good", "b.example.org", "is not for the name in --superlink"),
        ("good", "10.1.2.3", "is not for the name in --superlink"),
        ("other", "a.example.org", "is not signed by the --ca"),
    ):
        with pytest.raises(ssl.SSLCertVerificationError) as error:
            handshake(tmp_path / folder, name)
        assert said in str(watchdog.explain(str(error.value)))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "server.key").chmod(0o644), "others may read"),
        (lambda folder: (folder / "ca.key").chmod(0o640), "ca.key: make a new one, or chmod 600"),
        (lambda folder: (folder / "ca.crt").write_text("none"), "ca.crt holds no certificate"),
        (lambda folder: (folder / "server.crt").unlink(), "server.crt is missing"),
    ],
)
def test_a_server_starts_with_good_certificates_only(tmp_path, monkeypatch, capsys, spoil, said):
    monkeypatch.setattr(operator, "run_to_end", lambda *_: pytest.fail("started"))
    certificates.make_certificates(tmp_path, ["a.example.org"])
    spoil(tmp_path)
    assert operator.main([str(tmp_path), "start"]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["SERVER_DAYS", "AUTHORITY_DAYS"])
def test_a_server_does_not_start_with_an_expired_certificate(tmp_path, monkeypatch, capsys, kind):
    monkeypatch.setattr(operator, "run_to_end", lambda *_: pytest.fail("started"))
    monkeypatch.setattr(certificates, kind, 0)
    certificates.make_certificates(tmp_path, ["a.example.org"])
    assert operator.main([str(tmp_path), "start"]) == 2
    assert "expired on" in capsys.readouterr().err


@pytest.mark.parametrize("left", ["ca.crt", "ca.key", "key", "key.pub"])
def test_half_a_pair_is_not_completed(tmp_path: Path, capsys, left: str) -> None:
    (tmp_path / left).write_text("kept")
    if left.startswith("ca"):
        assert certificates.main([str(tmp_path), "a.example.org"]) == 2
    else:
        assert node.main([str(tmp_path), "key"]) == 2
    assert f"{left} is there without" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == [left]
    assert (tmp_path / left).read_text() == "kept"


def handshake(folder: Path, dialled: str) -> str:
    """Speak TLS over loopback as a node would, checking authority and name; give the protocol."""
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(folder / "server.crt", folder / "server.key")
    calling = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    ours, theirs = socket.socketpair()

    def serve() -> None:
        with suppress(OSError), serving.wrap_socket(theirs, server_side=True) as stream:
            stream.recv(1)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with calling.wrap_socket(ours, server_hostname=dialled) as stream:
            stream.send(b"x")
            return str(stream.version())
    finally:
        ours.close()
        thread.join()
        theirs.close()


def test_the_certificate_is_good_for_its_names_and_no_other(tmp_path: Path) -> None:
    certificates.make_certificates(tmp_path, ["plurallm.example.org", "10.1.2.3"])
    for name in ("plurallm.example.org", "10.1.2.3", "localhost"):
        assert handshake(tmp_path, name) == "TLSv1.3"
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(tmp_path, "other.example.org")


# The node


def test_the_nodes_key_is_what_flower_reads(tmp_path: Path) -> None:
    assert node.main([str(tmp_path / "north"), "key"]) == 0
    secret = tmp_path / "north" / "key"
    assert mode(secret) == 0o600
    key = load_ssh_private_key(secret.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    public = load_ssh_public_key((tmp_path / "north" / "key.pub").read_bytes())
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert public.public_numbers() == key.public_key().public_numbers()
    before = secret.read_bytes()
    assert node.main([str(tmp_path / "north"), "key"]) == 2
    assert secret.read_bytes() == before


def survey_rows(group: str, count: int = 40) -> list[dict[str, object]]:
    return [
        {
            "question_id": f"q{number}",
            "question": f"Question {number}?",
            "options": ["Yes", "No"],
            "group": group,
            "counts": [number + 1, 7],
        }
        for number in range(count)
    ]


def test_a_good_file_is_described(tmp_path, write_survey, capsys) -> None:
    survey = write_survey(survey_rows("North") + survey_rows("South", 5))
    check = [str(tmp_path / "n"), "check", "--survey", str(survey)]
    assert node.main([*check, "--group", "North"]) == 0
    assert "North: 40 questions" in capsys.readouterr().out
    assert node.main([*check, "--group", "South"]) == 0
    assert "fewer than the 21" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda rows: rows[3].update(counts=[1]), "row 5: group 'North' has 1 shares or counts"),
        (lambda rows: rows.clear(), "no usable row"),
        (lambda rows: [row.update(group="East") for row in rows], "has no group 'North'"),
        (lambda rows: [row.pop("options") for row in rows], "column 'options' is missing"),
    ],
)
def test_a_bad_file_ends_the_node_before_it_connects(
    tmp_path, write_survey, capfd, spoil, said
) -> None:
    rows = survey_rows("North")
    survey = write_survey(rows)
    spoil(rows)
    if rows:
        survey = write_survey(rows)
    else:
        survey.write_text(survey.read_text().splitlines()[0] + "\n")
    start = [str(tmp_path / "n"), "start", "--survey", str(survey), "--group", "North"]
    assert node.main([*start, "--superlink", "127.0.0.1:9", "--ca", "ca.crt"]) == 2
    assert said in capfd.readouterr().err
    assert not (tmp_path / "n/flower").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--epsilon", "4"], "the survey has only shares of group 'North'"),
        (["--epsilon", "0"], "privacy.epsilon must be above 0"),
        (["--device", "cuda:99"], "device=cuda:99 is not available"),
        (["--device", "abacus"], "device=abacus is not available"),
        (["--threads", "0"], "threads must be >= 1"),
        (["--group", ""], "--group is empty"),
        (["--layout", "excel"], "layout must be one of"),
    ],
)
def test_what_the_node_could_not_do_is_refused_by_check(
    tmp_path, write_survey, capsys, options, said
) -> None:
    rows = survey_rows("North")
    for row in rows:
        del row["counts"]
        row["shares"] = [0.4, 0.6]
    check = [str(tmp_path / "n"), "check", "--survey", str(write_survey(rows)), "--group", "North"]
    assert node.main(check) == 0
    capsys.readouterr()
    assert node.main([*check, *options]) == 2
    assert said in capsys.readouterr().err


def test_check_notes_nothing_down(tmp_path, write_survey) -> None:
    survey = write_survey(survey_rows("North"))
    arguments = ["check", "--survey", str(survey), "--group", "North", "--epsilon", "4"]
    assert node.main([str(tmp_path / "n"), *arguments]) == 0
    assert not (tmp_path / "n").exists()


@pytest.fixture
def start(tmp_path, write_survey, monkeypatch):
    """Start a node with a good key and authority, and options instead of the usual ones."""
    monkeypatch.setattr(supernode, "run_to_end", lambda *_, **__: pytest.fail("started"))
    folder = tmp_path / "node"
    certificates.make_certificates(folder, ["a.example.org"])
    node.make_key(folder)

    def start(**options: str) -> int:
        usual = {
            **{"survey": str(write_survey(survey_rows("North"))), "group": "North"},
            **{"superlink": "a.example.org:8443", "ca": str(folder / "ca.crt")},
        }
        words = (word for key, value in (usual | options).items() for word in (f"--{key}", value))
        return node.main([str(folder), "start", *words])

    start.folder = folder
    return start


@pytest.mark.parametrize(
    "superlink",
    ["a.example.org", ":8443", "a.org:", "a.org:0", "a.org:99999", "https://a.org:1", "::1", "a:²"],
)
def test_an_address_without_host_or_port_is_refused(start, capsys, superlink) -> None:
    with pytest.raises(SystemExit, match="2"):
        start(superlink=superlink)
    assert "must be HOST:PORT" in capsys.readouterr().err


@pytest.mark.parametrize("superlink", ["a.example.org:8443", "10.1.2.3:1", "[2001:db8::1]:65535"])
def test_addresses_are_host_and_port(superlink) -> None:
    assert node.address(superlink) == superlink


def test_an_authority_that_is_none_is_refused(start, capsys, monkeypatch) -> None:
    (start.folder / "text").write_text("no certificate")
    assert start(ca=str(start.folder / "text")) == 2
    assert "text holds no certificate in PEM form: ask the operator" in capsys.readouterr().err
    monkeypatch.setattr(certificates, "AUTHORITY_DAYS", 0)
    certificates.make_certificates(start.folder / "old", ["a.example.org"])
    assert start(ca=str(start.folder / "old/ca.crt")) == 2
    assert "ca.crt expired on" in capsys.readouterr().err


def test_a_key_that_others_may_read_is_refused(start, capsys) -> None:
    (start.folder / "key").chmod(0o644)
    assert start() == 2
    assert f"chmod 600 {start.folder / 'key'}" in capsys.readouterr().err
    (start.folder / "key").chmod(0o600)
    with pytest.raises(pytest.fail.Exception, match="started"):
        start()


def test_what_flower_keeps_is_its_owners_alone(tmp_path: Path) -> None:
    options = processes.surroundings(tmp_path / "flower")
    subprocess.run(["touch", tmp_path / "flower/state.db"], check=True, **options)
    assert mode(tmp_path / "flower") == 0o700
    assert mode(tmp_path / "flower/state.db") == 0o600


def test_flower_hands_hostile_settings_to_the_app_unchanged(tmp_path: Path) -> None:
    groups = ["plain", "a, b", 'quo"ted', "it's", "日本 🎉", "tab\there", "back\\slash", "del\x7f"]
    survey = tmp_path / 'it\'s "here", a=b.csv'
    options = node.parse(
        [
            *(str(tmp_path), "check", "--survey", str(survey), "--threads", "3"),
            *("--allow", "embedding.model", "--role", "score"),
            *(word for group in groups for word in ("--group", group)),
        ]
    )
    config = node_config(tmp_path, options)
    file = supernode.write_toml(tmp_path / "node.toml", config)
    settings = node_settings(parse_config_args([str(file)]))
    assert settings is not None
    assert settings.groups == tuple(groups)
    assert settings.survey == survey
    assert settings.allow == ("embedding.model",)
    assert (settings.role, settings.threads) == ("score", 3)


def test_the_pinned_client_imports_nothing_of_what_a_run_brings(tmp_path: Path) -> None:
    brought = tmp_path / "apps" / "plurallm"
    (brought / "plurallm/federate").mkdir(parents=True)
    (brought / "plurallm/federate/client_app.py").write_text("raise SystemExit('its code ran')")
    (brought / "sklearn.py").write_text("raise SystemExit('the run's code ran')")
    (brought / "surely_no_module.py").write_text("")
    script = f"""
import runpy, sys
sys.argv = ["flwr-clientapp", "--help"]
try:
    runpy.run_path({str(supernode.PINNED / "flwr-clientapp")!r}, run_name="__main__")
except SystemExit as end:
    assert end.code in (None, 0), end
sys.path.insert(0, {str(brought)!r})  # as Flower does
import sklearn
import plurallm.federate.client_app
assert {str(brought)!r} not in sklearn.__file__ + plurallm.federate.client_app.__file__
try:
    import surely_no_module
except ImportError:
    print("shut out")
"""
    environment = os.environ | {"FLWR_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.stdout.endswith("shut out\n"), done.stderr


# One folder, one process


def test_a_folder_that_is_in_use_is_left_alone(tmp_path, write_survey, capsys, monkeypatch) -> None:
    survey = write_survey(survey_rows("North"))
    folder = tmp_path / "used"
    certificates.make_certificates(folder, ["a.example.org"])
    node.make_key(folder)
    starts = {
        (operator, operator): ["start"],
        (node, supernode): [
            *("start", "--survey", str(survey), "--group", "North", "--superlink", "127.0.0.1:9"),
            *("--ca", str(folder / "ca.crt")),
        ],
    }
    with processes.only_one(folder):
        before = sorted(folder.rglob("*"))
        for (verb, starter), arguments in starts.items():
            with monkeypatch.context() as patch:
                patch.setattr(starter, "run_to_end", lambda *_, **__: pytest.fail("started"))
                assert verb.main([str(folder), *arguments]) == 2
            assert "is in use" in capsys.readouterr().err
        assert sorted(folder.rglob("*")) == before
    with processes.only_one(folder):
        pass


# Signals


STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, lambda *_: time.sleep(1) or os._exit(0))
if "child" not in sys.argv:
    command = [sys.executable, "-c", sys.argv[1], sys.argv[1], "child"]
    subprocess.Popen(command, start_new_session=True)
else:
    print("both run", flush=True)
time.sleep(60)
"""
"""Starts a child in a session of its own, as Flower does; either takes its time to end."""

KEEPER = f"""
import sys
from pathlib import Path
from plurallm.deploy.processes import surroundings
from plurallm.deploy.supervision import FirstSignal, run_to_end
signals = FirstSignal()
command = [sys.executable, "-c", {STUBBORN!r}, {STUBBORN!r}]
run_to_end([command], surroundings(Path(sys.argv[1])), lambda line: None, signals)
sys.exit(signals.exit_status)
"""


def with_home(home: Path) -> list[int]:
    everything = psutil.process_iter(["environ"])
    return [p.pid for p in everything if (p.info["environ"] or {}).get("FLWR_HOME") == str(home)]


@contextmanager
def keep_two(home: Path) -> Iterator["subprocess.Popen[bytes]"]:
    command = [sys.executable, "-c", KEEPER, home]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as keeper:
        assert keeper.stdout is not None
        assert keeper.stdout.readline() == b"both run\n"
        assert len(with_home(home)) == 2
        yield keeper


@pytest.mark.parametrize(
    ("numbers", "status"),
    [
        ([signal.SIGTERM], 0),
        ([signal.SIGINT], 130),
        ([signal.SIGHUP, signal.SIGTERM], 129),
        ([signal.SIGTERM, signal.SIGTERM, signal.SIGINT, signal.SIGHUP], 0),
        ([signal.SIGINT, signal.SIGINT, signal.SIGTERM], 130),
    ],
)
def test_whatever_signals_come_no_process_is_left(tmp_path: Path, numbers, status) -> None:
    home = tmp_path / "flower"
    with keep_two(home) as keeper:
        for number in numbers:
            keeper.send_signal(number)
            time.sleep(0.2)  # each finds it at another step of ending the two
        assert keeper.wait(timeout=60) == status
    assert with_home(home) == []


def test_what_a_killed_one_has_left_ends_with_the_next_start(tmp_path: Path) -> None:
    home = tmp_path / "flower"
    with keep_two(home) as killed:
        left = with_home(home)
        killed.kill()
        with keep_two(home) as keeper:
            assert not set(left) & set(with_home(home))
            keeper.terminate()
    assert with_home(home) == []


def test_ctrl_c_shows_no_traceback_while_torch_is_loaded(tmp_path, write_survey) -> None:
    survey = str(write_survey(survey_rows("North")))
    for verb, arguments in (
        ("submit", [str(tmp_path), "federation.nodes=1"]),
        ("node", [str(tmp_path), "check", "--survey", survey, "--group", "North"]),
    ):
        process = psutil.Popen(
            [*program(verb), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        while not any("libtorch" in part.path for part in process.memory_maps()):
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        assert process.communicate() == (b"", None)
        assert process.returncode == -signal.SIGINT


# Processes that serve another, and what hangs


def run_three(tmp_path: Path, *helpers: list[str], watch: str = "lambda: None") -> list[str]:
    """Run a first process that stays for 60 s, and others beside it; what was said to the end."""
    script = f"""
import sys, threading, time
from pathlib import Path
from plurallm.deploy import supervision
from plurallm.deploy.processes import surroundings
supervision.RESTART_SECONDS, supervision.WATCH_SECONDS = (0.05,), 0.1
first = [sys.executable, "-c", "import time; time.sleep(60)"]
try:
    supervision.run_to_end([first, *{list(helpers)!r}],
        surroundings(Path(sys.argv[1])), lambda line: None,
        supervision.FirstSignal(), watch={watch})
except supervision.RunError as error:
    print("ended:", error)
print(threading.active_count(), "threads")
"""
    command = [sys.executable, "-c", script, tmp_path / "flower"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout.splitlines()


def test_a_proxy_whose_port_is_taken_ends_the_server_with_the_reason(tmp_path: Path) -> None:
    certificates.make_certificates(tmp_path, ["a.example.org"])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        files = [
            word
            for name in ("certificate", "key", "ca")
            for word in (f"--{name}", str(tmp_path / FILES[name]))
        ]
        where = ["--listen", f"127.0.0.1:{port}", "--superlink", f"127.0.0.1:{port}"]
        proxy = [sys.executable, "-m", "plurallm.deploy.proxy", *where, *files]
        said = run_three(tmp_path, proxy)
    last = said[-2]
    assert last.startswith("ended: ")
    assert "plurallm.deploy.proxy does not come up: " in last
    assert "address already in use" in last
    assert sum("is started again in" in line for line in said) == 2
    assert said[-1] == "1 threads"


FILES = {"certificate": "server.crt", "key": "server.key", "ca": "ca.crt"}


def test_a_process_that_was_steady_is_started_again_however_often_it_ends(tmp_path: Path) -> None:
    """It is started again 25 times; no thread of an earlier one is left meanwhile."""
    count = f"""
from pathlib import Path
file = Path({str(tmp_path / "count")!r})
file.write_text(file.read_text() + "x" if file.exists() else "x")
"""
    watch = (
        f"lambda: (setattr(supervision, 'STEADY_SECONDS', -1), "
        f"f'{{threading.active_count()}} while it ran' "
        f"if len(Path({str(tmp_path / 'count')!r}).read_text()) > 25 else None)[1]"
    )
    (tmp_path / "count").write_text("")
    helper = [sys.executable, "-c", "import time; time.sleep(0.5)\n" + count]
    said = run_three(tmp_path, helper, watch=watch)
    assert int(said[-2].split()[1]) <= 3  # its own, one for each process that runs
    assert said[-1] == "1 threads"


def test_what_hangs_ends_with_the_reason(tmp_path: Path) -> None:
    said = run_three(tmp_path, watch="lambda: 'nothing was answered'")
    assert said[0] == "ended: nothing was answered"
    assert with_home(tmp_path / "flower") == []


def test_the_nodes_watchdog_knows_what_hangs(tmp_path: Path, monkeypatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(watchdog.time, "monotonic", lambda: now[0])
    dog = watchdog.Watchdog(tmp_path, 500)
    assert dog.look() is None
    assert not (tmp_path / "online").exists()
    dog.read("INFO :  SuperNode ID: 77")
    dog.read("INFO :  Receiving: train message (ID: ab)")
    now[0] += 499
    dog.beat.touch()
    assert dog.look() is None
    assert (tmp_path / "online").exists()
    now[0] += 2
    assert dog.look() == "a message came 501 s ago, but nothing was answered"
    dog.read("INFO :  Sending: train message (ID: cd)")
    assert dog.look() is None
    old = time.time() - 2 * watchdog.BEAT_SECONDS
    dog.began = old
    os.utime(dog.beat, (old, old))
    assert "no sign of life for 600 s" in dog.look()


def test_a_node_that_would_answer_one_message_late_is_started_again(tmp_path: Path) -> None:
    dog = watchdog.Watchdog(tmp_path, 500)
    dog.read("SuperNode ID: 7")
    dog.read("Receiving: train message (ID: ab)")
    dog.read("Run ID 5 is not in `RUNNING` status. Ignoring reply message ab.")
    assert dog.look() is None  # the run was stopped while the client worked: it is over
    dog.read("Receiving: train message (ID: cd)")
    dog.read("Run ID 6 is not in `RUNNING` status. Ignoring message cd.")
    assert "later ones would be answered too late" in dog.look()


def test_after_it_was_killed_a_node_waits_until_the_server_has_noticed(tmp_path, capsys) -> None:
    class Signals:
        number = None
        waited: ClassVar[list[float]] = []

        def wait(self, seconds: float) -> None:
            self.waited.append(seconds)

    online = tmp_path / "online"
    for age, due in ((6, 60), (65, 1), (100, None), (-500, None)):
        online.touch()
        os.utime(online, (time.time() - age,) * 2)
        Signals.waited.clear()
        watchdog.wait_until_given_up(online, Signals())
        assert not online.exists()
        assert Signals.waited == ([] if due is None else [pytest.approx(due, abs=0.5)])
    assert "it was killed 6 s ago: the server gives it up in 60 s" in capsys.readouterr().out
    dog = watchdog.Watchdog(tmp_path, 500)
    dog.read("SuperNode ID: 7")
    for status, left in ((0, False), (305, False), (-signal.SIGKILL, True)):
        dog.look()
        dog.ended(status)
        assert online.exists() == left


# Submitting


def test_what_cannot_be_submitted_is_refused_at_once(tmp_path: Path, capsys) -> None:
    assert submit.main([]) == 2
    assert submit.main([str(tmp_path)]) == 2
    assert "has no server" in capsys.readouterr().err
    (tmp_path / "flower").mkdir()
    (tmp_path / "flower/config.toml").write_text("")
    assert submit.main([str(tmp_path), "federation.roundz=3"]) == 2
    assert "roundz" in capsys.readouterr().err
    assert submit.main([str(tmp_path), "federation.rounds=3"]) == 2
    assert "federation.nodes must say how many nodes" in capsys.readouterr().err
    assert submit.main([str(tmp_path), f"resume={tmp_path}"]) == 2
    assert "not the folder of a run" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    entries = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert [entry["what"] for entry in entries] == ["run refused"] * 3
    assert entries[0]["overrides"] == ["federation.roundz=3"]
    assert "roundz" in entries[0]["why"]


@pytest.mark.parametrize("kept", [lock.SUBMITTED, lock.WRITING])
def test_a_run_is_submitted_once_at_a_time(tmp_path: Path, monkeypatch, capsys, kept) -> None:
    (tmp_path / "flower").mkdir()
    (tmp_path / "flower/config.toml").write_text("")
    asked = [str(tmp_path), "federation.nodes=1", f"output_dir={tmp_path / 'run'}"]
    monkeypatch.setattr(submit, "run_on_server", lambda *_: pytest.fail("submitted"))
    with lock.lock_run(tmp_path / "run", kept):
        assert submit.main(asked) == 2
    assert f"still goes on (process {os.getpid()} on " in capsys.readouterr().err

    def submitted(*_: object) -> None:
        with (
            pytest.raises(FileExistsError),
            lock.lock_run(tmp_path / "run", lock.SUBMITTED),
        ):
            pass
        sys.exit(3)

    monkeypatch.setattr(submit, "run_on_server", submitted)
    for _ in range(2):  # let go of with what held it
        with pytest.raises(SystemExit):
            submit.main(asked)
