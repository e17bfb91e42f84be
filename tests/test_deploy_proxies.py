"""Three proxies for the public port, ours, nginx and Caddy, before an echo: what comes through."""

import http.client
import ssl
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import strangers

from plurallm.deploy import certificates
from plurallm.deploy.processes import free_port


class Superlink(BaseHTTPRequestHandler):
    """Echoes what reaches it, and keeps the paths."""

    protocol_version = "HTTP/1.1"
    reached: list[str] = []  # noqa: RUF012

    def do_POST(self):
        self.reached.append(self.path)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def __getattr__(self, name):
        if name.startswith("do_"):
            self.reached.append(f"{name} {self.path}")
        raise AttributeError(name)

    def log_message(self, *_):
        pass


@contextmanager
def echo(folder):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Superlink)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module", params=["own", "nginx", "caddy"])
def port(request, tmp_path_factory):
    operator = tmp_path_factory.mktemp("operator")
    certificates.make_certificates(operator, ["localhost", "127.0.0.1"])
    folder = tmp_path_factory.mktemp("proxy")
    public = free_port()
    with (
        echo(operator) as inner,
        strangers.proxy(request.param, operator, public, inner, folder),
    ):
        yield public, operator / "ca.crt"


def test_what_nodes_send_comes_through_and_back(port):
    context = ssl.create_default_context(cafile=port[1])
    connection = http.client.HTTPSConnection("127.0.0.1", port[0], context=context, timeout=60)
    for body in (b"", b"hello", bytes(range(256)) * 2**13):
        connection.request("POST", strangers.FLEET, body)
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, body)
    connection.close()


def test_nothing_else_reaches_the_superlink(port):
    Superlink.reached.clear()
    assert strangers.not_refused(*port) == {}
    assert set(Superlink.reached) <= {strangers.FLEET}
