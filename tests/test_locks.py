import errno
import fcntl
import logging
import os
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest

from poolax._locks import alone_in
from poolax.training import Classification, Records, sweep, sweep_states
from poolax.training.holding import holding, holds_out

HELD = r"out: expected a folder that no other program writes to, got .*; wait until that one has ended"
HOLDER = """
import sys, time
from poolax._locks import alone_in
with alone_in(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_folder_is_let_go_when_its_holder_is_killed(tmp_path):
    command = [sys.executable, "-c", HOLDER, tmp_path]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(BlockingIOError, match=HELD), alone_in(tmp_path):
            pytest.fail("held twice")
    finally:
        holder.kill()
        holder.communicate()
    with alone_in(tmp_path), holding(tmp_path):
        pass


def test_a_thread_may_hold_a_folder_twice_and_another_may_not(tmp_path):
    errors = []

    def hold():
        try:
            with alone_in(tmp_path / "out"):
                pass
        except BlockingIOError as error:
            errors.append(error)

    def check(*, out):
        if out == "refused":
            raise ValueError("refused")

    @holds_out(check)
    def function(*, out=None):
        with holding(out):
            other = threading.Thread(target=hold)
            other.start()
            other.join()
        return out

    assert function(out=tmp_path / "out") == tmp_path / "out"
    assert len(errors) == 1
    hold()
    assert len(errors) == 1
    assert function() is None
    with pytest.raises(ValueError, match="refused"):
        function(out="refused")
    assert not os.path.exists("refused")


def test_no_folder_is_made_for_arguments_that_are_refused(tmp_path):
    out = tmp_path / "out"
    states = np.zeros((6, 2, 3))
    splits: dict[str, np.ndarray] = dict(
        zip(("train", "validation", "test"), np.arange(6).reshape(3, 2), strict=True)
    )
    options: dict[str, Any] = {"poolers": ["avg"], "out": out}
    nothing: Any = None
    with pytest.raises(ValueError, match="task: "):
        sweep_states(states, None, np.zeros(6, int), nothing, splits=splits, **options)
    with pytest.raises(ValueError, match="backbone: "):
        sweep(nothing, nothing, Classification(2), **options)
    assert not out.exists()


def test_errors_of_the_block_are_its_own(tmp_path):
    with pytest.raises(TimeoutError, match="mine"), alone_in(tmp_path):
        raise TimeoutError("mine")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_can_only_be_read_is_not_held(tmp_path):
    tmp_path.chmod(0o500)
    with alone_in(tmp_path):
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO])
def test_a_file_system_without_locks_is_told_of_and_not_held(tmp_path, monkeypatch, caplog, code):
    def flock(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    with caplog.at_level(logging.WARNING):
        if code == errno.EIO:
            with pytest.raises(OSError, match="Input/output error"), holding(tmp_path):
                pytest.fail("held")
        else:
            with holding(tmp_path):
                pass
    told = [
        f"{tmp_path}: its file system has no locks ({os.strerror(code)}); see to it that one program "
    ]
    assert [line[: len(told[0])] for line in caplog.messages] == ([] if code == errno.EIO else told)


def test_records_of_several_writers_are_all_kept(tmp_path):
    path, num_rows, start = tmp_path / "records.jsonl", 12, threading.Barrier(4)

    def write(writer):
        start.wait()
        for row in range(num_rows):
            Records([{"id": f"{writer}-{row}"}, {"id": "of all", "writer": writer}]).write_to(path)

    writers = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    found = [row["id"] for row in Records.read(path)]
    wanted = {f"{writer}-{row}" for writer in range(4) for row in range(num_rows)} | {"of all"}
    assert len(found) == len(wanted)
    assert set(found) == wanted
