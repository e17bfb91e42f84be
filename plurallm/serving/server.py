"""Run the server: who may reach it, and how it ends."""

import ipaddress
import logging
import os
import string
from pathlib import Path

import torch
import uvicorn

from plurallm.config import ServeConfig
from plurallm.device import choose_device
from plurallm.reward import PreferenceRewardModel
from plurallm.serving.app import make_app

TOKEN_VARIABLE = "PLURALLM_TOKEN"
"""Environment variable that may hold the token."""

_SHORTEST_TOKEN = 16

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
        When it would be reachable beyond this machine without a token or TLS.
    """
    token = read_token(config)
    check_exposure(config, token)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    model = PreferenceRewardModel.from_pretrained(config.bundle)
    model.to(choose_device(config.device))
    for group in model.groups:  # loads the embedder, encodes the context
        model.predict("Ready?", ["Yes", "No"], group)
    app = make_app(model, config, token)
    scheme = "http" if config.tls_certificate is None else "https"
    logger.info("serving %s on %s://%s:%d", config.bundle, scheme, config.host, config.port)
    uvicorn.Server(
        uvicorn.Config(
            app,
            host=config.host,
            port=config.port,
            ssl_certfile=config.tls_certificate,
            ssl_keyfile=config.tls_key,
            timeout_graceful_shutdown=config.shutdown_timeout,
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            ws="none",
        )
    ).run()


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


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
