"""The benchmark's parts of a step and of a sweep: they add up, and what cannot be is refused."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from heads import TASK, toy

from poolax.training import profile, sweep_states


def plane(*events):
    rows = [
        SimpleNamespace(
            start_ns=start,
            duration_ns=end - start,
            stats=[("hlo_module", module), ("hlo_op", name)],
        )
        for module, name, start, end in events
    ]
    return SimpleNamespace(lines=[SimpleNamespace(events=rows)])


def test_operations_inside_of_others_count_once():
    found = profile.operations(
        "mine",
        [
            plane(
                ("mine", "while", 0, 100),
                ("mine", "dot", 10, 40),
                ("mine", "fusion", 40, 60),
                ("mine", "dot", 70, 80),
                ("other", "dot", 0, 1000),
            )
        ],
    )
    assert found == pytest.approx({"while": 40e-9, "dot": 40e-9, "fusion": 20e-9})
    assert sum(found.values()) == pytest.approx(100e-9)


def test_every_operation_has_one_part():
    program = """HloModule mine, is_scheduled=true
%fused (p: f32[2]) -> f32[2] {
  ROOT %inner = f32[2]{0} dot(%p, %p), metadata={op_name="while/body/jvp()/dot_general"}
}
ENTRY %main (p: f32[2]) -> f32[2] {
  %products = f32[2]{0} fusion(%p), calls=%fused, metadata={op_name="body/jvp()/dot_general"}
  %softmax = f32[2]{0} exponential(%p), metadata={op_name="body/transpose(jvp())/exp"}
  %update = f32[2]{0} add(%p), metadata={op_name="body/optimizer/add"}
  %norm = f32[2]{0} multiply(%p), metadata={op_name="body/gradient_norm/square"}
  %rows = f32[2]{0} gather(%p), metadata={op_name="body/jvp(read_batch)/gather"}
  ROOT %copy = f32[2]{0} copy(%p)
}
"""
    names = ["products", "softmax", "rows", "norm", "update", "copy"]
    seconds = {name: float(2**index) for index, name in enumerate(names)}
    parts = profile.parts_of(program, seconds)
    assert list(parts.values()) == [2.0**index for index in range(6)]
    assert tuple(parts) == profile.PARTS
    assert profile.module_of(program) == "mine"
    for wrong in ({}, {"copy": -1.0}):
        with pytest.raises(ValueError, match="seconds: expected times of operations"):
            profile.parts_of(program, wrong)


# Raised inside of JAX's own profile reader, this warning about it would abort the process.
@pytest.mark.filterwarnings("ignore:builtin type .* has no __module__:DeprecationWarning")
def test_parts_of_a_step_and_phases_of_a_sweep_add_up(monkeypatch):
    monkeypatch.setattr(profile, "_REPEATS", 1)
    states, mask, targets, splits = toy()
    options = {"num_classes": 3, "num_runs": 2, "batch_size": 8, "learning_rate": 0.01}
    parts = profile.profile(states, mask, targets, ["avg", "sum"], **options)
    assert tuple(parts) == profile.PARTS
    for part in ("matrix products", "optimizer", "norm of the gradient", "reading the batch"):
        assert 0 < parts[part][1] <= parts[part][0] <= parts[part][2], part
    clocks = profile.Clocks()
    with clocks.running():
        sweep_states(
            states, mask, targets, TASK, splits=splits, poolers=["avg"], seeds=1, epochs=1, batch_size=8
        )
    assert min(clocks.seconds.values()) >= 0
    assert clocks.seconds["steps"] > 0
    assert clocks.seconds["compilation"] > 0
    with pytest.raises(ValueError, match="phases: expected parts of"), clocks.running():
        clocks.seconds["steps"] = 1e9
    assert jax.device_count() == 4
    assert np.isfinite(list(clocks.seconds.values())).all()
