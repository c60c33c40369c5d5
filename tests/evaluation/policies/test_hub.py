"""The Hub, spoken by a server on 127.0.0.1: what is fetched, recorded, resumed, and refused."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import old_archives
import pytest
import torch

from surefoot.evaluation.policies import hub, load_any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """One repository, `org/repo`; `breaks` downloads break off after half of a file."""

    def __init__(self, files):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.requests, self.breaks = files, [], 0
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.respond(body=False)

    def do_GET(self):
        self.respond(body=True)

    def respond(self, body):
        self.server.requests.append((self.command, self.path, self.headers.get("Range")))
        path = self.path.partition("?")[0]
        if path.startswith("/api/models/org/repo"):
            known = path in (
                "/api/models/org/repo",
                f"/api/models/org/repo/revision/{COMMIT}",
                "/api/models/org/repo/revision/main",
            )
            return self.info() if known else self.missing("RevisionNotFound")
        if path.startswith("/api/models/"):
            return self.missing("RepoNotFound")
        name = path.removeprefix(f"/org/repo/resolve/{COMMIT}/")
        return self.file(self.server.files[name], body) if name in self.server.files else self.missing("EntryNotFound")

    def info(self):
        siblings = [{"rfilename": name} for name in self.server.files]
        self.send(
            200, json.dumps({"id": "org/repo", "modelId": "org/repo", "sha": COMMIT, "siblings": siblings}).encode()
        )

    def missing(self, code):
        self.send(404, b"{}", {"X-Error-Code": code})

    def file(self, content, body):
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        first = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        headers = {"ETag": etag, "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if first:
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        if body and self.server.breaks and not first:
            self.server.breaks -= 1
            self.send(200, content[: len(content) // 2], headers, length=len(content))
            self.close_connection = True
            return
        self.send(206 if first else 200, content[first:] if body else b"", headers, length=len(content) - first)

    def send(self, status, content, headers=None, length=None):
        self.send_response(status)
        for name, value in {"Content-Length": str(length or len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


@pytest.fixture
def server(tmp_path, monkeypatch):
    archive = old_archives.write(tmp_path / "policy.zip").read_bytes()
    config = b"normalize: true\n"
    statistics = old_archives.old_statistics(*torch.tensor([[0.5] * 3, [0.25] * 3], dtype=torch.float64).numpy())
    files = {"ppo-Pendulum-v1.zip": archive, "config.yml": config, "vec_normalize.pkl": statistics, "README.md": b"#"}
    served = Hub(files)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{served.server_port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path / "cache"), raising=False)
    yield served
    served.shutdown()
    served.server_close()


def test_a_repository_with_one_policy_is_opened_with_what_lies_beside_it(server):
    opened = load_any("hf:org/repo")
    assert opened.source == f"hf:org/repo/ppo-Pendulum-v1.zip@{COMMIT}"
    assert opened.sha256 == hashlib.sha256(server.files["ppo-Pendulum-v1.zip"]).hexdigest()
    assert (opened.label, opened.env_config.id, opened.wrappers) == ("hf:org/repo", "Pendulum-v1", ("normalised",))
    assert not any("README" in path for _, path, _ in server.requests)


@pytest.mark.parametrize("reference", ["hf:org/repo/ppo-Pendulum-v1.zip", f"hf:org/repo@{COMMIT}", "hf:org/repo@main"])
def test_a_file_and_a_revision_may_be_named(server, reference):
    assert load_any(reference).source.endswith(f"ppo-Pendulum-v1.zip@{COMMIT}")


def test_what_is_there_is_not_fetched_again(server):
    load_any("hf:org/repo")
    server.requests.clear()
    load_any("hf:org/repo")
    assert not any(command == "GET" and "/resolve/" in path for command, path, _ in server.requests)


def test_a_download_that_broke_off_is_resumed(server, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 256)  # what is written at once
    server.breaks = 1
    try:
        opened = load_any("hf:org/repo")
    except ConnectionError as error:
        assert "the same command resumes it" in str(error)  # noqa: PT017 - some versions resume by themselves
        opened = load_any("hf:org/repo")
    assert opened.sha256 == hashlib.sha256(server.files["ppo-Pendulum-v1.zip"]).hexdigest()
    assert any((asked or "bytes=0-") > "bytes=1" for _, _, asked in server.requests)  # the rest alone


@pytest.mark.parametrize(
    ("reference", "error", "message"),
    [
        ("hf:org", ValueError, "write hf:ORG/REPO"),
        ("hf:org/other", FileNotFoundError, "no such repository, or a private one"),
        ("hf:org/repo@v9", FileNotFoundError, "the repository has no such revision"),
        ("hf:org/repo/model.zip", FileNotFoundError, r"no file model\.zip; there are ppo-Pendulum-v1\.zip, config"),
    ],
)
def test_what_is_not_there_is_one_line(server, reference, error, message):
    with pytest.raises(error, match=message) as caught:
        load_any(reference)
    assert "\n" not in str(caught.value)


def test_several_policies_are_listed(server):
    server.files["best.onnx"] = b""
    with pytest.raises(
        ValueError, match=r"2 policy files at its top; name one of ppo-Pendulum-v1\.zip, best\.onnx after"
    ):
        load_any("hf:org/repo")


def test_without_the_hub_it_is_said(server):
    server.shutdown()
    server.server_close()
    with pytest.raises(ConnectionError, match="hf:org/repo: ") as caught:
        hub.download("hf:org/repo")
    assert "\n" not in str(caught.value)
