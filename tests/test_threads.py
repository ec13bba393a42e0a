"""LAPACK has one thread while bounds are computed, and as many as before afterwards."""

import threading

import jax
import jax.numpy as jnp
import pytest
import scipy.linalg  # noqa: F401
from threadpoolctl import ThreadpoolController, threadpool_limits

from poolax import bounds, empirical
from poolax._threads import on_one_thread
from poolax.bounds import _linalg


def threads():
    found = {
        library["num_threads"] for library in ThreadpoolController().select(user_api="blas").info()
    }
    return found.pop() if len(found) == 1 else found


@pytest.fixture(autouse=True)
def three_threads():
    """Whatever the machine has: a number that nothing here would choose."""
    with threadpool_limits(3, user_api="blas"):
        yield


def test_a_call_has_one_thread_and_leaves_as_many_as_before():
    seen = on_one_thread(lambda: (threads(), on_one_thread(threads)(), threads()))()
    assert seen == (1, 1, 1)
    assert threads() == 3


def test_an_error_leaves_as_many_as_before():
    def fails():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        on_one_thread(fails)()
    assert threads() == 3


def test_threads_beside_each_other_leave_as_many_as_before():
    """The other one comes while there is one thread, and goes when there are three again."""
    is_in, goes, seen = threading.Event(), threading.Event(), []

    @on_one_thread
    def of_other():
        seen.append(threads())
        is_in.set()
        assert goes.wait(60)

    other = threading.Thread(target=of_other)

    @on_one_thread
    def of_main():
        other.start()
        assert is_in.wait(60)

    of_main()
    assert threads() == 3
    goes.set()
    other.join(60)
    assert seen == [1]
    assert threads() == 3


def test_what_is_measured_has_one_thread_until_its_result_is_there():
    seen = []

    def fn(x):
        jax.debug.callback(lambda _: seen.append(threads()), x[0])
        return jnp.tanh(x)

    empirical.jacobian_norm(fn, jnp.ones(3))
    assert set(seen) == {1}
    assert threads() == 3


def test_bounds_have_one_thread_for_every_caller(monkeypatch):
    seen, exact = [], _linalg.exact_norm

    def noting(matrix):
        seen.append(threads())
        return exact(matrix)

    monkeypatch.setattr(_linalg, "exact_norm", noting)
    kernel = jnp.eye(7)[:, None] / 3  # a shape that no other test compiles
    bounds.spectral_norm(kernel[:, 0])
    bounds.dot_product_attention(
        kernel, kernel, kernel, jnp.moveaxis(kernel, 0, -1), num_tokens=5, radius=1.0
    )
    assert len(seen) > 1
    assert set(seen) == {1}
    assert threads() == 3
