"""`surefoot push`: a policy with its model card and its stress test to the Hugging Face Hub."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from surefoot.evaluation.policy_files import policy_path
from surefoot.training.cli import card
from surefoot.training.cli.options import read_options
from surefoot.training.runs.shared_policy import stress_page


@dataclass(frozen=True)
class Request(card.Request):
    """The policy, where to send it, and what its file does not say."""

    to: str = ""
    """Repository on the Hub, ORG/NAME; made where it does not exist."""
    private: bool = False
    """Make a new repository private."""


def main(arguments: list[str]) -> int:
    """Send card, policy and stress test in one commit, and return the exit code."""
    request = read_options(Request, args=arguments, prog="surefoot push")
    if request.to.count("/") != 1 or not all(request.to.split("/")):
        raise ValueError(f"--to is {request.to!r}; it is the repository, ORG/NAME")
    own = {field.name: getattr(request, field.name) for field in fields(card.Request)}
    text = card.text_of(card.Request(**own), name=request.to.split("/")[1])
    address = push(request, text, files_of(request))
    print(f"pushed: {address}")
    return 0


def files_of(request: Request) -> dict[str, Path]:
    """Return what is sent besides the card, by its name in the repository."""
    path = request.policy
    file = policy_path(path, request.checkpoint) if path.is_dir() else path
    numbers = request.stress or stress_page(path).with_suffix(".json")
    beside = {"stress.html": numbers.with_suffix(".html"), "stress.json": numbers}
    if path.is_dir():
        beside |= {name: path / name for name in ("config.yaml", "meta.json", "policy.onnx")}
    elif path.with_suffix(".onnx").is_file():
        beside["policy.onnx"] = path.with_suffix(".onnx")
    return {file.name: file} | {name: place for name, place in beside.items() if place.is_file()}


def push(request: Request, text: str, files: dict[str, Path]) -> str:
    """Send everything in one commit and return its address; HF_ENDPOINT names another server than the Hub.

    Raises:
        ImportError: the extra `hub` is not installed.
        OSError: the server refused or could not be reached, in one line.
    """
    hub = _hub()
    api = hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    operations = [hub.CommitOperationAdd("README.md", text.encode())]
    operations += [hub.CommitOperationAdd(name, str(path)) for name, path in files.items()]
    try:
        api.create_repo(request.to, private=request.private, exist_ok=True)
        done = api.create_commit(request.to, operations, commit_message="Add a policy with where it fails")
    except (hub.errors.HfHubHTTPError, hub.errors.LocalTokenNotFoundError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise OSError(f"{request.to}: not sent ({reason}); log in with `hf auth login`, or set HF_TOKEN") from error
    except Exception as error:  # of its transport, which differs between versions
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ConnectionError(
            f"{request.to}: not sent, for the Hub cannot be reached ({reason}); send it again when it can"
        ) from error
    return str(done.commit_url)


def _hub() -> Any:
    try:
        import huggingface_hub
    except ModuleNotFoundError as error:
        raise ImportError('huggingface_hub is not installed: pip install "surefoot[hub]"') from error
    return huggingface_hub
