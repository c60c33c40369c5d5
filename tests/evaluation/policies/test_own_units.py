"""Functions, ONNX models and TorchScript programs: the task's own units, and everything they can get wrong."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

import surefoot
from surefoot.envs import EnvConfig
from surefoot.evaluation.episodes import evaluate
from surefoot.evaluation.policies import fitted, for_task, load_any

WEIGHT = np.array([[0.1], [-0.2], [0.3]], np.float32)


def obs(n=5):
    return torch.from_numpy(np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32))


def onnx_model(path, shape=("batch", 3), outputs=("action",), dtype=TensorProto.FLOAT, extra_inputs=(), **metadata):
    """A linear policy for Pendulum; further outputs are copies."""
    inputs = [helper.make_tensor_value_info("obs", dtype, shape)]
    inputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, ("batch", 1)) for name in extra_inputs]
    kind = np.float64 if dtype == TensorProto.DOUBLE else np.float32
    nodes = [helper.make_node("MatMul", ["obs", "weight"], [outputs[0]])]
    nodes += [helper.make_node("Identity", [outputs[0]], [name]) for name in outputs[1:]]
    given = [helper.make_tensor_value_info(name, dtype, (*shape[:-1], 1)) for name in outputs]
    weight = onnx.numpy_helper.from_array(WEIGHT.astype(kind), "weight")
    model = helper.make_model(helper.make_graph(nodes, "policy", inputs, given, [weight]), ir_version=9)
    model.opset_import[0].version = 17
    helper.set_model_props(model, metadata)
    onnx.save(model, path)
    return path


def ready(path, task="Pendulum-v1", **allowed):
    opened = for_task(load_any(path, **allowed), task)
    return fitted(opened, EnvConfig(task))


@pytest.mark.parametrize("shape", [("batch", 3), (1, 3), (3,), (None, 3)])
@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.DOUBLE])
def test_an_onnx_model_acts_in_the_own_units_of_its_task(shape, dtype, tmp_path):
    policy = ready(onnx_model(tmp_path / "p.onnx", shape, dtype=dtype))
    np.testing.assert_allclose(2 * policy.act(obs()).numpy(), obs().numpy() @ WEIGHT, atol=1e-6)
    assert policy.act(obs()).dtype == torch.float32
    assert (policy.agent_name, len(policy.sha256)) == ("onnx", 64)


def test_an_onnx_model_may_name_its_task(tmp_path):
    loaded = surefoot.load_policy(onnx_model(tmp_path / "p.onnx", outputs=("value", "action"), task="Pendulum-v1"))
    assert loaded.env == EnvConfig("Pendulum-v1")
    np.testing.assert_allclose(loaded.predict(obs().numpy()), obs().numpy() @ WEIGHT, atol=1e-6)
    assert loaded.predict(obs().numpy()[0]).shape == (1,)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shape": ("batch", "width")}, r"takes obs \(float\) \['batch', 'width'\], of no fixed number of values"),
        ({"shape": (4, 3)}, r"export it with a dynamic first dimension, or 1"),
        ({"extra_inputs": ("mask",)}, r"takes obs .* and mask .*; known is one input, of observations \(N, obs\)"),
        ({"outputs": ("mean", "value")}, r"gives mean .* and value .*; name the one of the actions `action`"),
        ({"shape": ("batch", 2, 3)}, r"known are floats \(N, obs\)"),
    ],
)
def test_an_onnx_model_with_other_inputs_or_outputs_is_refused(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message) as caught:
        load_any(onnx_model(tmp_path / "p.onnx", **settings))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path))


def test_a_damaged_onnx_file_is_one_line(tmp_path):
    whole = onnx_model(tmp_path / "p.onnx").read_bytes()
    for content in (b"", b"<html>", whole[:40], whole[:-20]):
        (tmp_path / "bad.onnx").write_bytes(content)
        with pytest.raises(ValueError, match=r"bad\.onnx: (not an ONNX model|takes|gives)") as caught:
            load_any(tmp_path / "bad.onnx")
        assert "\n" not in str(caught.value)


def test_a_file_too_large_for_a_model_is_not_read(tmp_path):
    with (tmp_path / "large.onnx").open("wb") as file:
        file.truncate(10 * 2**30)  # a sparse one
    with pytest.raises(ValueError, match=r"large\.onnx: no ONNX model: it has 10,737,418,240 bytes"):
        load_any(tmp_path / "large.onnx")


def test_a_policy_for_another_task_is_refused_with_its_shape(tmp_path):
    with pytest.raises(ValueError, match=r"sees Box\(3,\), but CartPole-v1 shows Box\(4,\)"):
        ready(onnx_model(tmp_path / "p.onnx"), "CartPole-v1")
    with pytest.raises(ValueError, match=r"answers in its task's own units; which task\? pass env"):
        surefoot.load_policy(tmp_path / "p.onnx")


# --- TorchScript ------------------------------------------------------------------------------------------------------


class Linear(torch.nn.Module):
    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return 2.0 * torch.tanh(obs.sum(1, keepdim=True))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_torchscript_program_runs_only_where_it_is_allowed(tmp_path):
    torch.jit.script(Linear()).save(tmp_path / "p.pt")
    with pytest.raises(ValueError, match=r"p\.pt: a TorchScript program, which runs as code; add --allow-code"):
        load_any(tmp_path / "p.pt")
    policy = ready(tmp_path / "p.pt", allow_code=True)
    np.testing.assert_allclose(policy.act(obs()), torch.tanh(obs().sum(1, keepdim=True)), atol=1e-6)
    (tmp_path / "p.pt").write_bytes((tmp_path / "p.pt").read_bytes().replace(b"code", b"cXde"))
    with pytest.raises(ValueError, match="damaged, or no TorchScript program") as caught:
        load_any(tmp_path / "p.pt", allow_code=True)
    assert "\n" not in str(caught.value)


# --- functions --------------------------------------------------------------------------------------------------------


def test_a_function_is_named_by_its_module(tmp_path, monkeypatch):
    (tmp_path / "my_own_policies.py").write_text(
        "def swing(obs):\n    return 2 * obs[:, :1].clip(-1, 1)\n\nNUMBER = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    policy = ready("my_own_policies:swing")
    np.testing.assert_allclose(policy.act(obs()), obs()[:, :1].clamp(-1, 1), atol=1e-6)
    assert (policy.agent_name, policy.label, len(policy.sha256)) == ("function", "my_own_policies:swing", 64)
    for name, error, message in (
        ("my_own_policies:sway", ValueError, "has no function sway"),
        ("my_own_policies:NUMBER", ValueError, "has no function NUMBER"),
        ("no_such_module:act", ImportError, "cannot import 'no_such_module'"),
    ):
        with pytest.raises(error, match=message):
            load_any(name)


def test_a_function_that_raises_is_one_line_with_the_place(tmp_path, monkeypatch):
    (tmp_path / "my_broken_policies.py").write_text("def act(obs):\n    raise RuntimeError('no\\nmodel')\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"^my_broken_policies:act: raised RuntimeError: no model \(.*, line 2\)$"):
        ready("my_broken_policies:act").act(obs())


def test_a_function_of_python_is_a_policy_with_its_task():
    loaded = surefoot.load_policy(lambda obs: np.tanh(obs @ WEIGHT), "Pendulum-v1")
    np.testing.assert_allclose(loaded.predict(obs().numpy()), np.tanh(obs().numpy() @ WEIGHT), atol=1e-6)
    same = evaluate(loaded.act, EnvConfig("Pendulum-v1"), episodes=2, seed=3).returns
    np.testing.assert_array_equal(surefoot.evaluate(loaded, episodes=2, seed=3).returns, same)


@pytest.mark.parametrize(
    ("task", "answer", "message"),
    [
        ("Pendulum-v1", np.full((5, 1), np.nan), r"gave actions that are not finite, such as \[nan\]"),
        ("Pendulum-v1", np.zeros((5, 2)), r"shape \(5, 2\) for 5 observations; the task takes \(5, 1\) numbers"),
        ("Pendulum-v1", np.zeros(5), r"shape \(5,\) for 5 observations"),
        ("Pendulum-v1", np.zeros((4, 1)), r"shape \(4, 1\) for 5 observations"),
        ("Pendulum-v1", np.full((5, 1), 2.1), r"gave 2\.1 for action 0, which is within \[-2, 2\]; clip it"),
        ("Pendulum-v1", None, "gave object of shape"),
        ("Pendulum-v1", [["left"]] * 5, "gave <U4 of shape"),
        ("Pendulum-v1", [[1.0], [1.0, 2.0]], "inhomogeneous"),
        ("CartPole-v1", np.zeros((5, 2)), r"takes \(5,\) whole numbers, the actions of Discrete\(2\)"),
        ("CartPole-v1", np.zeros(5), "gave float64 of shape"),
        ("CartPole-v1", np.full(5, 2), "gave action 2, and there are 0 to 1"),
    ],
)
def test_a_wrong_answer_is_one_line(task, answer, message):
    loaded = surefoot.load_policy(lambda obs: answer, task)
    shown = np.zeros((5, loaded.spaces.observation.shape[0]))
    with pytest.raises(ValueError, match=message) as caught:
        loaded.predict(shown)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"(gave|inhomogeneous)"):
        surefoot.evaluate(lambda obs: answer, task, episodes=1)


def test_numbers_of_actions_may_be_a_column():
    loaded = surefoot.load_policy(lambda obs: (obs[:, :1] > 0).astype(np.int32), "CartPole-v1")
    assert loaded.predict(np.array([[1.0, 0, 0, 0], [-1.0, 0, 0, 0]])).tolist() == [1, 0]


def test_rounding_beyond_a_bound_is_clipped():
    loaded = surefoot.load_policy(lambda obs: np.full((len(obs), 1), 2.00001), "Pendulum-v1")
    assert loaded.predict(obs(2).numpy()).tolist() == [[2.0], [2.0]]
