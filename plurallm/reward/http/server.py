"""Run the server: who may reach it, and how it ends."""

import ipaddress
import logging
import os
import socket
import ssl
import string
from pathlib import Path

import torch
import uvicorn

from plurallm.config.device import choose_device
from plurallm.config.services import ServeConfig
from plurallm.data.context import AnsweredQuestion, Group
from plurallm.reward import PreferenceRewardModel
from plurallm.reward.http.app import make_app
from plurallm.reward.http.request_limits import in_url

TOKEN_VARIABLE = "PLURALLM_TOKEN"
"""Environment variable that may hold the token."""

_SHORTEST_TOKEN = 16
_LONGEST_HEADERS = 65_536

logger = logging.getLogger("plurallm")


def run_server(config: ServeConfig) -> None:
    """Serve until SIGINT or SIGTERM; requests at work are finished first.

    Parameters
    ----------
    config : ServeConfig
        What to serve, and how.

    Raises
    ------
    ValueError
        When it would be reachable beyond this machine without a token or TLS, or the bundle's
        embedder is not there.
    FileNotFoundError
        Naming the file of the token, certificate or key that is not there.
    """
    token = read_token(config)
    check_exposure(config, token)
    check_tls(config)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    model = PreferenceRewardModel.from_pretrained(config.bundle)
    model.to(choose_device(config.device))
    trial = AnsweredQuestion("Ready?", ("Yes", "No"), (1.0, 0.0))
    groups: list[Group] = [(trial,), *model.groups]
    for group in groups:  # loads the embedder, encodes the contexts
        model.predict(trial.question, trial.options, group)
    _Server(
        uvicorn.Config(
            make_app(model, config, token),
            host=config.host,
            port=config.port,
            ssl_certfile=config.tls_certificate,
            ssl_keyfile=config.tls_key,
            timeout_graceful_shutdown=config.shutdown_timeout,
            http="h11",  # httptools would take headers of any length
            h11_max_incomplete_event_size=_LONGEST_HEADERS,
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            ws="none",
        )
    ).run()


class _Server(uvicorn.Server):
    """Says where it listens, once it does."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            scheme = "https" if self.config.is_ssl else "http"
            port = self.servers[0].sockets[0].getsockname()[1]
            logger.info("serving on %s://%s:%d", scheme, in_url(self.config.host), port)


def read_token(config: ServeConfig) -> str | None:
    """Read the token from its file or the environment.

    Raises
    ------
    ValueError
        When it is shorter than 16 characters or holds others than letters, digits and signs.
    """
    if config.token_file is not None:
        source, token = config.token_file, Path(config.token_file).read_text("utf-8").strip()
    elif TOKEN_VARIABLE in os.environ:
        source, token = f"the variable {TOKEN_VARIABLE}", os.environ[TOKEN_VARIABLE].strip()
    else:
        return None
    if len(token) < _SHORTEST_TOKEN:
        raise ValueError(f"the token in {source} has fewer than {_SHORTEST_TOKEN} characters")
    if not set(token) <= set(string.ascii_letters + string.digits + string.punctuation):
        raise ValueError(f"the token in {source} holds other characters than ASCII signs")
    return token


def check_exposure(config: ServeConfig, token: str | None) -> None:
    """Refuse to be reachable beyond this machine without a token and TLS.

    Raises
    ------
    ValueError
        Saying what is missing.
    """
    if config.allow_insecure or _is_loopback(config.host):
        return
    missing = []
    if token is None:
        missing.append(f"a token (token_file=... or the variable {TOKEN_VARIABLE})")
    if config.tls_certificate is None:
        missing.append("TLS (tls_certificate=... tls_key=...)")
    if missing:
        raise ValueError(
            f"host={config.host} is reachable from other machines, which takes "
            f"{' and '.join(missing)}; or say allow_insecure=true"
        )


def check_tls(config: ServeConfig) -> None:
    """Refuse a certificate and key that cannot be used.

    Raises
    ------
    FileNotFoundError
        Naming the file that is not there.
    ValueError
        When they are no certificate with its key.
    """
    if config.tls_certificate is None or config.tls_key is None:
        return
    for key in ("tls_certificate", "tls_key"):
        if not Path(getattr(config, key)).is_file():
            raise FileNotFoundError(f"{key}={getattr(config, key)}: there is no such file")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
            config.tls_certificate, config.tls_key
        )
    except ssl.SSLError as error:
        raise ValueError(
            f"tls_certificate={config.tls_certificate} and tls_key={config.tls_key} are no "
            f"certificate with its key, in PEM ({error.reason})"
        ) from error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
