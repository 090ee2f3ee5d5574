"""Pytest plugin that puts cellkit's layers in the place of Keras' own.

`run.py` loads it into a pytest that runs the tests shipped inside the installed keras package.
Those tests say `layers.RNN(...)`, where `layers` is `keras.src.layers`; this is why the plugin,
alone in this project, reaches into `keras.src`.

The environment says what to do:

* `KERAS_COMPAT_MODE`: `off` replaces nothing (the baseline); `name` replaces `RNN`,
  `Bidirectional` and `StackedRNNCells` where the tests look them up; `bases` also makes
  `cellkit.RNN` the base class of `SimpleRNN`, `LSTM`, `GRU` and `ConvLSTM`, so that the stock
  layers run on it.
* `KERAS_COMPAT_REPORT`: the file that receives the outcome of every test as JSON.
"""

from __future__ import annotations

import functools
import json
import os

import pytest

MODES = ("off", "name", "bases")
COUNTS = {"loop": 0, "bidirectional": 0}
RECORDS: dict[str, dict] = {}


def _count(cls: type, method: str, counter: str) -> None:
    """Wrap a method so that every call of it is counted.

    Only a method that the class itself defines is wrapped: an inherited one would count Keras'
    loop and call it ours.
    """
    if method not in vars(cls):
        raise pytest.UsageError(
            f"{cls.__module__}.{cls.__name__} does not define `{method}`, so nothing would prove "
            "that a test reaches it. Count another method in tests/keras_compat/plugin.py."
        )
    original = vars(cls)[method]

    @functools.wraps(original)
    def counted(self, *args, **kwargs):
        COUNTS[counter] += 1
        return original(self, *args, **kwargs)

    setattr(cls, method, counted)


def _install(mode: str) -> None:
    """Put cellkit's classes in the place of Keras'."""
    try:
        import torch  # noqa: F401  # before TensorFlow, or both crash: Keras' conftest says so
    except ImportError:
        pass
    import keras
    from keras.src import layers as keras_layers
    from keras.src.layers.rnn import conv_lstm, gru, lstm, rnn, simple_rnn

    if mode == "off":
        _count(rnn.RNN, "inner_loop", "loop")
        _count(keras_layers.Bidirectional, "call", "bidirectional")
        return

    import cellkit

    # Every cellkit class is made before anything is replaced, with Keras' classes as its bases.
    replacements = {
        "RNN": cellkit.RNN,
        "Bidirectional": cellkit.Bidirectional,
        "StackedRNNCells": cellkit.StackedCells,
    }
    _count(cellkit.RNN, "inner_loop", "loop")
    _count(cellkit.Bidirectional, "call", "bidirectional")
    if mode == "bases":
        for cls in (simple_rnn.SimpleRNN, lstm.LSTM, gru.GRU, conv_lstm.ConvLSTM):
            if cls.__bases__ != (rnn.RNN,):
                raise pytest.UsageError(f"{cls} no longer derives from keras.layers.RNN alone.")
            cls.__bases__ = (cellkit.RNN,)
    for name, cls in replacements.items():
        if not issubclass(cls, getattr(keras_layers, name)):
            raise pytest.UsageError(f"{cls} is not a subclass of keras.layers.{name}.")
        setattr(keras.layers, name, cls)
        setattr(keras_layers, name, cls)
    _expect_masks(cellkit.RNN, cellkit.Bidirectional)


def _expect_masks(*classes: type) -> None:
    """Expect of cellkit's layers that they hand masks on, also where those of Keras do not.

    Keras' layers do so up to 3.15; from 3.16 on their tests insist that they don't. The rest of
    such a test holds for both.
    """
    from keras.src.testing.test_case import TestCase

    original = TestCase.run_layer_test

    @functools.wraps(original)
    def run_layer_test(self, layer_cls, *args, **kwargs):
        if issubclass(layer_cls, classes) and kwargs.get("supports_masking") is False:
            kwargs["supports_masking"] = True
        return original(self, layer_cls, *args, **kwargs)

    TestCase.run_layer_test = run_layer_test


def _is_controller(config: pytest.Config) -> bool:
    """True if this process only hands tests out to xdist's workers."""
    return bool(getattr(config.option, "numprocesses", None)) and not hasattr(config, "workerinput")


def pytest_configure(config: pytest.Config) -> None:
    """Register Keras' markers and install the drop-ins."""
    for marker in ("requires_trainable_backend", "multi_device"):
        config.addinivalue_line("markers", marker)
    mode = os.environ.get("KERAS_COMPAT_MODE", "bases")
    if mode not in MODES:
        raise pytest.UsageError(f"KERAS_COMPAT_MODE is {mode!r}, expected one of {MODES}.")
    if not _is_controller(config):
        _install(mode)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item: pytest.Item):
    """Note how often the drop-ins were reached while the test ran."""
    before = dict(COUNTS)
    yield
    for counter, count in COUNTS.items():
        item.user_properties.append((counter, count - before[counter]))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Collect the outcome; a test fails if its setup, its body or its teardown does."""
    record = RECORDS.setdefault(report.nodeid, {"outcome": "passed", "seconds": 0.0})
    record["seconds"] += report.duration
    record.update({name: value for name, value in report.user_properties if name in COUNTS})
    if report.outcome != "passed" and record["outcome"] != "failed":
        record["outcome"] = report.outcome
        record["text"] = report.longreprtext
        if report.skipped and isinstance(report.longrepr, tuple):
            record["text"] = report.longrepr[2]


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """A file that can't be collected is a failure of its own."""
    if report.failed:
        RECORDS[report.nodeid] = {"outcome": "failed", "seconds": 0.0, "text": report.longreprtext}


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write what was collected, once, from the process that saw every test."""
    path = os.environ.get("KERAS_COMPAT_REPORT")
    if path and not hasattr(session.config, "workerinput"):
        with open(path, "w", encoding="utf-8") as file:
            json.dump(RECORDS, file)
