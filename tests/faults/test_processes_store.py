"""A pass over the backbone that is stopped, killed or damaged on disk, and goes on."""

import jax
import numpy as np
import pytest

from poolax.backbones import Bert, BertConfig, ImagePreprocess, ViT, ViTConfig
from poolax.data import digits
from poolax.training import PreemptedError
from poolax.training._states import padding, shards
from poolax.training._states.features import FeaturePass
from poolax.training._states.store import open_store

NUM, BATCH = 150, 16


class Stopper:
    """Asked to stop at the n-th batch."""

    def __init__(self, at):
        self.calls, self.at = 0, at

    def __call__(self):
        self.calls += 1
        return self.calls == self.at


def images(**options):
    config = ViTConfig(8, 4, 1, width=8, num_layers=1, num_heads=2, mlp_dim=8)
    vit = ViT.init(config, jax.random.key(0), ImagePreprocess(scale=1 / 16))
    return FeaturePass(vit, digits().inputs[:NUM], **{"batch_size": BATCH, **options})


def texts(**options):
    config = BertConfig(20, 32, width=8, num_layers=1, num_heads=2, mlp_dim=8)
    rng = np.random.default_rng(0)
    mask = np.arange(32) < rng.integers(1, 33, (NUM, 1))
    ids = np.where(mask, rng.integers(0, 20, mask.shape), 0)
    bert = Bert.init(config, jax.random.key(0))
    return FeaturePass(bert, ids, mask, **{"batch_size": BATCH, **options})


PASSES = {"images": images, "texts": texts}


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(shards, "_SHARD_BYTES", 3_000)
    monkeypatch.setattr(padding, "_LEAST_SAVING", 1)
    monkeypatch.setattr(padding, "_MOST_LENGTHS", 2)


def whole_and_tries(make, folder):
    whole = open_store(folder / "whole", make(), {})
    batches = [positions for positions, _ in make().batches()]
    assert len(batches) >= 10
    return whole.fetch(np.arange(NUM)), batches


def problem_of(make, folder, expected, num_done=None):
    """Opens the store of an unfinished pass; what is wrong with it, or None."""
    done = []
    store = open_store(folder, make(), {}, progress=lambda name, count, total: done.append(count))
    found = store.fetch(np.arange(NUM))
    if not np.array_equal(found.states, expected.states):
        return "other states"
    if expected.mask is not None and not np.array_equal(found.mask, expected.mask):
        return "another mask"
    left = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
    if len(left) != 1 or list(folder.glob("*/shard-*")) or list(folder.glob("*/rows-*")):
        return f"left {left}"
    if num_done is not None and len(done) != num_done:
        return f"{len(done)} batches computed, of which {num_done} were missing"
    return None


@pytest.mark.parametrize(
    ("name", "every"),
    [("images", 6), ("texts", 5), *(pytest.param(n, 1, marks=pytest.mark.slow) for n in PASSES)],
)
def test_a_stopped_pass_goes_on_after_its_last_batch(name, every, tmp_path, attack):
    make = PASSES[name]
    expected, batches = whole_and_tries(make, tmp_path)
    outcomes = []
    for at in range(every, len(batches), every):
        folder = tmp_path / str(at)
        with pytest.raises(PreemptedError):
            open_store(folder, make(should_stop=Stopper(at)), {})
        outcomes.append(problem_of(make, folder, expected, len(batches) - at))
    attack(f"a stopped pass over {name} goes on", outcomes)


@pytest.mark.parametrize(
    "num_tries", [pytest.param(2, id="few"), pytest.param(60, id="many", marks=pytest.mark.slow)]
)
def test_what_a_killed_pass_left_is_compared_with_its_checksums(num_tries, tmp_path, attack):
    expected, batches = whole_and_tries(texts, tmp_path)
    rng = np.random.default_rng(num_tries)
    outcomes = []
    for attempt in range(num_tries):
        folder, at = tmp_path / str(attempt), int(rng.integers(2, len(batches)))

        last = sum(len(positions) for positions in batches[:at])

        def dies(name, count, total, last=last):
            if count > last:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            open_store(folder, texts(), {}, progress=dies)
        [incomplete] = folder.glob("incomplete.*")
        path = rng.choice(sorted(incomplete.iterdir()))
        content = bytearray(path.read_bytes())
        if attempt % 3 == 0:
            path.unlink()
        elif attempt % 3 == 1:
            path.write_bytes(content[: rng.integers(len(content))])
        else:
            content[rng.integers(len(content))] ^= 1 << rng.integers(8)
            path.write_bytes(content)
        wrong = problem_of(texts, folder, expected)
        outcomes.append(wrong and f"try {attempt}, {path.name}: {wrong}")
    attack("files of a killed pass that are gone, cut or flipped", outcomes)


def test_other_batches_are_another_pass_and_leave_the_first_alone(tmp_path):
    expected, batches = whole_and_tries(images, tmp_path)
    folder = tmp_path / "store"
    for size in (BATCH, 2 * BATCH):
        with pytest.raises(PreemptedError):
            open_store(folder, images(should_stop=Stopper(3), batch_size=size), {})
    assert len(list(folder.glob("incomplete.*"))) == 2
    # Both are gone once the store is whole.
    assert problem_of(images, folder, expected, len(batches) - 3) is None
