"""What was mistyped or mistaken for something else is told with what was meant."""

import jax.numpy as jnp
import numpy as np
import pytest

from poolax import attention, backbones, bounds, cli, data, pooling


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["bonds"], "did you mean 'bounds'"),
        (["data", "lst"], "did you mean 'list'"),
        (["bounds", "--num-token", "4"], "did you mean --num-tokens"),
        (["lipschitz", "model", "--txt", "a"], "did you mean --text"),
        (["data", "show", "digit"], "did you mean 'digits'"),
        (["bounds", "--poolers", "wav"], "did you mean 'wavg'"),
        (["lipschitz", "model", "--text"], "text: expected at least one behind --text, got none"),
    ],
)
def test_command_lines(arguments, meant, capsys):
    assert cli.main(arguments) == cli.USAGE
    (line,) = capsys.readouterr().err.splitlines()
    assert meant in line


@pytest.mark.parametrize("command", ["quickstart", "bounds", "lipschitz", "data show"])
def test_the_help_shows_no_types_of_python(command, capsys):
    assert cli.main([*command.split(), "--help"]) == cli.COMPLETE
    assert "{None}" not in capsys.readouterr().out


def refuse_the_network(*_, **__):
    raise ConnectionError("asked the network")


@pytest.mark.parametrize("name", ["gpt2", "google/vit-base-patch16-224"])
def test_hub_ids_are_looked_up_whatever_folders_there_are(name, tmp_path, monkeypatch):
    for folder in ("gpt2-out", "google/my-vit"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse_the_network)
    with pytest.raises(ValueError, match="asked the network"):
        backbones.load(name)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("my-model/backbon", "got 'my-model/backbon'; did you mean 'my-model/backbone'?"),
        ("my-modle", "expected a directory or a hub id, got 'my-modle'; did you mean 'my-model'?"),
    ],
)
def test_mistyped_folders_are_not_looked_up(path, message, tmp_path, monkeypatch):
    (tmp_path / "my-model" / "backbone").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse_the_network)
    with pytest.raises(ValueError, match="path_or_hub_id: ") as raised:
        backbones.load(path)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: data.entry("digts"), "did you mean 'digits'"),
        (lambda: pooling.from_name("averag"), "did you mean 'avg'"),
        (lambda: attention.from_name("cosin"), "expected one of dot, l2, cosine, got 'cosin'; did you"),
        (lambda: attention.from_name("l2", tau=1.0), "options of 'l2': expected plain_values, got tau"),
        (lambda: attention.from_name(attention.L2(), tau=1.0), "expected none beside a kind"),
        (
            lambda: attention.MultiHeadAttention(2, "cosine").init(
                jnp.zeros(2, jnp.uint32), jnp.ones((3, 4))
            ),
            r"kind: expected DotProduct, L2 or Cosine, got 'cosine'; attention.from_name\('cosine'\)",
        ),
        (
            lambda: bounds.pooling_factor("avg", num_tokens=(4, 16), dim=8),
            r"num_tokens: expected a number or a bounds.TokenRange\(low, high\), got \(4, 16\)",
        ),
    ],
)
def test_names(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_kinds_of_attention_by_name():
    assert attention.from_name("dot") == attention.DotProduct()
    assert attention.from_name("l2", plain_values=True) == attention.L2(plain_values=True)
    assert attention.from_name(attention.Cosine()) == attention.Cosine()


def test_tensors_of_torch():
    torch = pytest.importorskip("torch")
    with pytest.raises(ValueError, match=r"z: expected a JAX or NumPy array, got a torch.Tensor"):
        pooling.average_pool(torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"mask: expected a JAX or NumPy array, got a torch.Tensor"):
        pooling.average_pool(np.ones((2, 3), np.float32), torch.ones(2, dtype=torch.bool))
