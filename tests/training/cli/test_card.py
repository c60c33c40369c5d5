"""`surefoot card` and `surefoot push`: front matter that the Hub takes, what is known of a policy, one commit."""

import base64
import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest

from surefoot.envs import EnvConfig
from surefoot.evaluation.policies import AnyPolicy, load_any
from surefoot.evaluation.policies.opened import sha256_of
from surefoot.training.cli.card import Request, _task_of
from surefoot.training.cli.main import main
from surefoot.training.runs.shared_policy import read_stress

POLE = EnvConfig("InvertedPendulum-v5", max_episode_steps=12)
STRESS = ["--sets", "inverted-pendulum-1", "--budget", "170"]


def test_a_card_says_where_the_policy_fails_and_the_hub_can_read_it(make_run, capsys):
    run = make_run("pole", 3, env=POLE)
    assert main(["stress", str(run), *STRESS]) == 0
    assert main(["card", str(run), "--license", "mit"]) == 0
    text = (run / "README.md").read_text()
    data = huggingface_hub.ModelCard(text).data
    assert (data.license, data.library_name, data.pipeline_tag) == ("mit", "surefoot", "reinforcement-learning")
    assert {"sac", "InvertedPendulum-v5"} <= set(data.tags)
    found = {result.metric_type: result for result in data.eval_results}
    record = json.loads((run / "stress.json").read_text())["policies"][0]
    nominal = record["nominal"]
    assert found["mean_reward"].metric_value == f"{nominal['mean']:.2f} +/- {nominal['std']:.2f}"
    assert found["mean_reward"].dataset_type == "InvertedPendulum-v5"
    assert set(found) == {"mean_reward", "mean_reward_average", "mean_reward_worst"}
    for words in ("training seed | `3`", "Not tried", "mass of pole (kg)", "policy-000000100.pt", "gymnasium"):
        assert words in text


def test_a_card_without_a_stress_test_says_so(make_run):
    run = make_run("pole", env=POLE)
    assert main(["card", str(run)]) == 0
    text = (run / "README.md").read_text()
    assert "**Not measured.**" in text
    assert huggingface_hub.ModelCard(text).data.eval_results is None


@pytest.mark.parametrize("content", ["{}", '{"stress": 1, "policies": [{}, {}]}', "no json", "[]"])
def test_a_file_that_is_no_stress_test_of_one_policy_is_refused(content, make_run, tmp_path, capsys):
    run, other = make_run("pole", env=POLE), tmp_path / "other.json"
    other.write_text(content)
    assert main(["card", str(run), "--stress", str(other)]) == 2
    assert str(other) in capsys.readouterr().err
    assert not (run / "README.md").exists()


@pytest.mark.parametrize("command", ["card", "export"])
@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("agent", "td3", "agent td3, not sac"),
        ("step", 90, "step 90, not 100"),
        ("training_seed", 4, "training seed 4, not 3"),
        ("env", {"id": "Hopper-v5"}, "task Hopper-v5, not InvertedPendulum-v5"),
        ("sha256", "0" * 64, f"SHA-256 {'0' * 64}, not "),
    ],
)
def test_the_stress_test_of_another_policy_is_refused(command, key, value, words, make_run, tmp_path, capsys):
    run, model = make_run("pole", 3, env=POLE), tmp_path / "pole.onnx"
    (policy,) = (run / "checkpoints").glob("policy-*.pt")
    known = {"agent": "sac", "step": 100, "training_seed": 3, "env": {"id": POLE.id}, "sha256": sha256_of(policy)}
    (run / "stress.json").write_text(json.dumps({"stress": 1, "policies": [known | {key: value}]}))
    assert main([command, str(run), *([str(model)] if command == "export" else [])]) == 2
    error = capsys.readouterr().err
    assert f"stress.json: of another policy ({words}" in error
    assert error.endswith("; stress it again\n")
    assert not (run / "README.md").exists()
    assert not model.exists()


def test_a_run_has_the_checksum_of_its_checkpoint_and_a_test_without_one_is_taken(make_run):
    run = make_run("pole", 3, env=POLE)
    (file,) = (run / "checkpoints").glob("policy-*.pt")
    policy = load_any(run)
    assert policy.sha256 == load_any(file).sha256 == sha256_of(file)
    known = {"agent": "sac", "step": 100, "training_seed": 3, "env": {"id": POLE.id}, "sha256": None}
    (run / "stress.json").write_text(json.dumps({"stress": 1, "policies": [known]}))
    assert read_stress(run, policy)["policies"] == [known]


def test_a_task_that_contradicts_what_is_known_is_refused(make_run, capsys):
    run = make_run("pole", env=POLE)
    for command in (["card", str(run)], ["push", str(run), "--to", "org/pole"]):
        assert main([*command, "--task", "Hopper-v5"]) == 2
        said = f"surefoot: error: {run}: is for InvertedPendulum-v5, not Hopper-v5; leave --task out\n"
        assert capsys.readouterr().err == said
    assert not (run / "README.md").exists()
    assert main(["card", str(run), "--task", "InvertedPendulum-v5"]) == 0
    assert "A policy for `InvertedPendulum-v5`" in (run / "README.md").read_text()


@pytest.mark.parametrize(
    ("task", "said"), [("Hopper-v5", "Hopper-v5"), ("Hopper-v3", "Hopper-v3"), (None, "Hopper-v5")]
)
def test_the_older_id_that_a_file_names_is_no_contradiction(task, said):
    policy = AnyPolicy(None, None, None, "sb3-sac", "a.zip", 0, EnvConfig("Hopper-v5"), trained_on="Hopper-v3")
    assert _task_of(Request(Path("a.zip"), task=task), policy, None) == said


def test_a_task_may_not_contradict_the_stress_test_either():
    policy = AnyPolicy(None, None, None, "function", "mine:act", 0, None)
    stress = {"policies": [{"env": {"id": "Hopper-v5"}}]}
    assert _task_of(Request(Path("mine:act")), policy, stress) == "Hopper-v5"
    with pytest.raises(ValueError, match=r"^mine:act: is for Hopper-v5, not Ant-v5; leave --task out$"):
        _task_of(Request(Path("mine:act"), task="Ant-v5"), policy, stress)
    assert _task_of(Request(Path("mine:act"), task="Ant-v5"), policy, None) == "Ant-v5"
    with pytest.raises(ValueError, match=r"add --task$"):
        _task_of(Request(Path("mine:act")), policy, None)


class Hub(BaseHTTPRequestHandler):
    """The few answers of the Hub that a commit of small files needs."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.calls.append((self.path, self.headers.get("authorization")))
        if self.server.refuse:
            return self.answer({"error": "You are not allowed to do that"}, 403)
        if self.path.endswith("/commit/main"):
            lines = [json.loads(line) for line in body.decode().splitlines()]
            files = [line["value"] for line in lines if line["key"] == "file"]
            self.server.files = {file["path"]: base64.b64decode(file["content"]) for file in files}
            return self.answer({"commitUrl": f"{self.server.url}/org/pole/commit/1", "commitOid": "1", "success": True})
        if "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            asked = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
            return self.answer({"files": asked})
        return self.answer({"url": f"{self.server.url}/org/pole", "errors": [], "warnings": []})

    def answer(self, content, status=200):
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.calls, server.files, server.refuse = [], {}, False
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    server.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    yield server
    server.shutdown()
    server.server_close()


def test_card_policy_and_stress_test_go_in_one_commit(make_run, hub, capsys):
    run = make_run("pole", env=POLE)
    assert main(["stress", str(run), *STRESS]) == 0
    assert main(["push", str(run), "--to", "org/pole"]) == 0
    assert f"pushed: {hub.url}/org/pole/commit/1" in capsys.readouterr().out
    sent = {"README.md", "policy-000000100.pt", "stress.html", "stress.json", "config.yaml", "meta.json"}
    assert set(hub.files) == sent
    (policy,) = (run / "checkpoints").glob("policy-*.pt")
    assert hub.files["policy-000000100.pt"] == policy.read_bytes()
    assert hub.files["README.md"].decode().splitlines()[0] == "---"
    assert "# pole" in hub.files["README.md"].decode()
    assert {token for _, token in hub.calls} == {"Bearer hf_of_a_test"}


def test_a_refusal_of_the_hub_is_one_line(make_run, hub, capsys):
    run = make_run("pole", env=POLE)
    assert main(["push", str(run), "--to", "pole"]) == 2
    assert "--to is 'pole'" in capsys.readouterr().err
    hub.refuse = True
    assert main(["push", str(run), "--to", "org/pole"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("surefoot: error: org/pole: not sent (")
    assert error.count("\n") == 1
    assert not hub.files


def test_a_hub_that_cannot_be_reached_is_one_line(make_run, monkeypatch, capsys):
    with socket.socket() as taken:  # a port at which nobody listens
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}")
        monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
        assert main(["push", str(make_run("pole", env=POLE)), "--to", "org/pole"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("surefoot: error: org/pole: not sent, for the Hub cannot be reached (")
    assert error.endswith("); send it again when it can\n")
    assert error.count("\n") == 1
