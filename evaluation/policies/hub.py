"""`hf:ORG/REPO[/FILE][@REVISION]`: a policy on the Hugging Face Hub, downloaded by its library (extra `hub`)."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from surefoot.evaluation.policies.sb3_settings import NORMALIZERS

PREFIX = "hf:"
REFERENCE = re.compile(r"hf:(?P<repo>[\w.-]+/[\w.-]+)(/(?P<file>[^@]+))?(@(?P<revision>[\w./-]+))?")
KINDS = (".zip", ".onnx", ".pt")
BESIDE = ("config.yml", "args.yml", "env_kwargs.yml", *NORMALIZERS)


class Downloaded(NamedTuple):
    """A file of the Hub on this machine."""

    path: Path
    source: str  # with the commit it was read at
    repo: str


def download(reference: str) -> Downloaded:
    """Return a policy file of a model repository, and fetch what lies beside it; nothing is fetched twice.

    Without FILE it is the only policy file at the top of the repository. A download that broke off is resumed.

    Raises:
        ImportError: the extra is missing.
        ValueError: no such reference, or several files to choose from.
        FileNotFoundError: no such repository, revision or file.
        ConnectionError: the Hub cannot be reached.
    """
    found = REFERENCE.fullmatch(reference)
    if found is None:
        raise ValueError(f"{reference}: write hf:ORG/REPO, hf:ORG/REPO/FILE or either with @REVISION")
    try:
        import huggingface_hub as hub
    except ModuleNotFoundError as error:
        raise ImportError('huggingface_hub is not installed: pip install "surefoot[hub]"') from error
    try:
        return _download(hub, reference, **found.groupdict())
    except (hub.errors.HfHubHTTPError, hub.errors.LocalEntryNotFoundError, hub.errors.HFValidationError) as error:
        raise _in_one_line(hub, reference, error) from error
    except (ValueError, FileNotFoundError):
        raise
    except Exception as error:  # of its transport, which differs between versions
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise ConnectionError(f"{reference}: the download broke off ({reason}); the same command resumes it") from error


def _download(hub: Any, reference: str, repo: str, file: str | None, revision: str | None) -> Downloaded:
    endpoint = os.environ.get("HF_ENDPOINT")
    info = hub.HfApi(endpoint=endpoint).model_info(repo, revision=revision)
    names = [sibling.rfilename for sibling in info.siblings or ()]
    chosen = file or _only(reference, names)
    if chosen not in names:
        raise FileNotFoundError(f"{reference}: no file {chosen}; there are {_listed(names)}")
    folder, stem = Path(chosen).parent, Path(chosen).with_suffix("")
    wanted = [chosen] + [n for n in names if Path(n).parent in (folder, stem) and Path(n).name in BESIDE]
    paths = [Path(hub.hf_hub_download(repo, name, revision=info.sha, endpoint=endpoint)) for name in wanted]
    return Downloaded(paths[0], f"{PREFIX}{repo}/{chosen}@{info.sha}", repo)


def _only(reference: str, names: list[str]) -> str:
    """Return the one policy file at the top of a repository."""
    candidates = [name for name in names if "/" not in name and name.endswith(KINDS)]
    if len(candidates) != 1:
        count = f"{len(candidates)} policy files at its top"
        raise ValueError(f"{reference}: {count}; name one of {_listed(candidates or names)} after the repository")
    return candidates[0]


def _listed(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") or "none"


def _in_one_line(hub: Any, reference: str, error: Exception) -> Exception:
    if isinstance(error, hub.errors.GatedRepoError):
        return PermissionError(f"{reference}: gated; ask for access on its page and log in with `hf auth login`")
    if isinstance(error, hub.errors.RevisionNotFoundError):
        return FileNotFoundError(f"{reference}: the repository has no such revision")
    if isinstance(error, hub.errors.RepositoryNotFoundError):
        return FileNotFoundError(f"{reference}: no such repository, or a private one; log in with `hf auth login`")
    if isinstance(error, hub.errors.LocalEntryNotFoundError):
        return ConnectionError(f"{reference}: the Hub cannot be reached, and the file was not downloaded before")
    return ConnectionError(f"{reference}: the Hub answers {' '.join(str(error).split())[:120]}")
