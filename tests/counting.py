"""Every example counts once, whatever the task and the number of devices; run with that number."""

import sys

import jax
import numpy as np

SPLITS = {"train": 37, "validation": 257, "test": 263}


def cases():
    """Each task with targets that fit it."""
    from poolax import training

    rng = np.random.default_rng(0)
    count = sum(SPLITS.values())

    def values(width):
        array = rng.normal(size=(count, width)).astype(np.float32)
        array[rng.uniform(size=array.shape) < 0.3] = np.nan
        return array

    def series(width):
        shift, scale = rng.normal(size=count), rng.uniform(0.5, 2, count)
        return {
            "values": values(width),
            "shift": shift.astype(np.float32),
            "scale": scale.astype(np.float32),
        }

    cells = rng.integers(0, 3, (count, 4, 4))
    cells[rng.uniform(size=cells.shape) < 0.2] = 255
    return (
        (training.Classification(3), rng.integers(0, 3, count)),
        (training.NextToken(20, top_k=3), rng.integers(0, 20, count)),
        (training.SentenceSimilarity(4), rng.uniform(size=count).astype(np.float32)),
        (training.SentenceCompletion(projection_dim=4), rng.integers(0, 4, count)),
        (training.Inpainting(5), values(5)),
        (training.Segmentation(3, output_grid=4), cells),
        (training.Forecasting(6), series(6)),
        (training.Imputation(7), series(7)),
    )


def check(task, targets):
    """Losses and metrics of an epoch without a step are those of all examples, taken at once."""
    from poolax import pooling, training

    count = sum(SPLITS.values())
    parts = () if task.num_parts == 1 else (task.num_parts,)
    rng = np.random.default_rng(1)
    states = rng.normal(size=(count, *parts, 2, 6)).astype(np.float32)
    order = np.split(rng.permutation(count), np.cumsum(list(SPLITS.values()))[:-1])
    splits = dict(zip(SPLITS, order, strict=True))
    module = training.HeadModule(pooling.AveragePool(), task.num_outputs)
    heads = training.train_heads(
        module, states[None], None, targets, task,
        splits=splits, runs=[(0.0, 0)], epochs=1, batch_size=10,
    )  # fmt: skip
    variables = jax.tree.map(lambda leaf: leaf[0, 0], heads.variables)
    for split, indices in splits.items():
        chosen = jax.tree.map(lambda array, i=indices: array[i], targets)
        outputs = module.apply(variables, states[indices])
        loss = getattr(heads, "train_loss" if split == "train" else "validation_loss")
        if split != "test":
            expected = np.mean(task.loss(outputs, chosen))
            np.testing.assert_allclose(loss[0, 0, 0], expected, rtol=1e-5, err_msg=split)
        if split != "train":
            expected = task.metrics(np.asarray(task.score(outputs, chosen)), chosen)
            found = getattr(heads, f"{split}_metrics")
            assert set(found) == set(expected)
            for name, value in expected.items():
                np.testing.assert_allclose(found[name][0, 0], value, rtol=1e-5, err_msg=name)


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
    for case in cases():
        check(*case)
