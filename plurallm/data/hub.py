"""GlobalOpinionQA from the Hugging Face hub, kept in the hub library's own cache."""

import logging
import threading
from pathlib import Path

from plurallm.data.formats.tabular import SurveyError

logger = logging.getLogger("plurallm")

REPOSITORY = "Anthropic/llm_global_opinions"
FILE = "data/global_opinions.csv"

PATIENCE = 5.0
"""Seconds in which the hub must answer."""


def check_hub() -> None:
    """Ask the hub whether it is there, before a library that would ask again and again.

    Raises
    ------
    OSError
        When it does not answer within ``PATIENCE`` seconds, or it must not be asked.
    """
    # Not above: each message of a deployment is a process of its own, which needs no hub.
    from httpx import HTTPError
    from huggingface_hub import constants, get_session

    failed: list[Exception] = []

    def ask() -> None:
        try:
            get_session().head(constants.ENDPOINT, timeout=PATIENCE)
        except (HTTPError, OSError) as error:
            failed.append(error)

    # In a thread of its own: no time limit of a connection covers the look-up of a name.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(PATIENCE + 1)
    if asking.is_alive():
        raise OSError(f"{constants.ENDPOINT} did not answer within {PATIENCE} s")
    if failed:
        raise OSError(f"{constants.ENDPOINT}: {failed[0] or type(failed[0]).__name__}")


def download_globalopinionqa() -> Path:
    """Find the published file in the cache, or download it.

    What was downloaded once stays as it is: runs repeat, and no node asks the hub again.

    Returns
    -------
    Path
        ``global_opinions.csv``, in the original layout.

    Raises
    ------
    SurveyError
        Where it is in no cache and the hub does not give it.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(REPOSITORY, FILE, repo_type="dataset", local_files_only=True))
    except LocalEntryNotFoundError:
        logger.info("downloading GlobalOpinionQA from the Hugging Face hub")
    try:
        check_hub()
        return Path(hf_hub_download(REPOSITORY, FILE, repo_type="dataset"))
    except (OSError, ValueError) as error:
        cause = error.__cause__ or error
        reason = next(iter(str(cause).strip().splitlines()), repr(cause))
        raise SurveyError(
            f"data=globalopinionqa without data.path: {FILE} of the data set {REPOSITORY} is in "
            f"no cache here, and the Hugging Face hub did not give it ({reason}). Where the hub "
            "can be reached, download that file from the data set's page; then give "
            "data.path=global_opinions.csv"
        ) from error
