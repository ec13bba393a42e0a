import dataclasses

import numpy as np

from poolax import data


def test_digits():
    digits = data.digits()
    assert digits.inputs.shape == (1797, 8, 8, 1)
    assert (digits.inputs.min(), digits.inputs.max()) == (0, 16)
    assert np.bincount(digits.targets).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    parts = np.concatenate([digits.splits[name] for name in ("train", "validation", "test")])
    assert sorted(parts) == list(range(1797))
    for split in digits.splits.values():
        shares = np.bincount(digits.targets[split]) / len(split)
        assert abs(shares - np.bincount(digits.targets) / 1797).max() < 0.01


def test_splits_are_fixed_and_fingerprints_tell_changes():
    one, other = data.digits(), data.digits()
    assert one.fingerprint == other.fingerprint
    assert all((one.splits[name] == other.splits[name]).all() for name in one.splits)
    targets = one.targets.copy()
    targets[0] += 1
    assert dataclasses.replace(one, targets=targets).fingerprint != one.fingerprint
    splits = {**one.splits, "test": one.splits["test"][1:]}
    assert dataclasses.replace(one, splits=splits).fingerprint != one.fingerprint
    named = {"shift": one.targets, "scale": targets}
    swapped = {"shift": targets, "scale": one.targets}
    assert (
        dataclasses.replace(one, targets=named).fingerprint
        != dataclasses.replace(one, targets=swapped).fingerprint
    )
    mask = np.ones((1797, 4), bool)
    assert dataclasses.replace(one, mask=mask).fingerprint != one.fingerprint
