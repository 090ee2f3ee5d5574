"""How a worker starts: Keras and its backend, without what a check of cells never needs.

A worker lives for seconds, and imports are the larger part of the quick profile. Everything that
is left out here is there as ever for a cell that asks for it.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

OPTIONAL = {
    "jax": {"matplotlib", "requests"},
    "torch": {"matplotlib", "requests"},
    "tensorflow": {"matplotlib", "scipy"},
}
"""For plots, callbacks that report to a server, models of TensorFlow 1: Keras does without them."""

GARBAGE = 10_000
"""New objects after which Python looks for garbage among them; 700 where nobody says otherwise."""

COMPILER = "torch._dynamo"

_late: list[tuple[Any, Any]] = []
"""Functions that the late import of the compiler replaced, with those that they replaced."""


def as_imported(value: Any) -> Any:
    """Give the function that the late import of the compiler replaced; other values as they are.

    Args:
        value: Anything that a module holds.
    """
    return next((function for late, function in _late if late is value), value)


@contextmanager
def uncollected() -> Iterator[None]:
    """Import many modules without looking for garbage; what there is after is there to stay.

    Modules are hundreds of thousands of objects, and no garbage. To look through them again and
    again takes a fifth of a start, and later a tenth of the checks.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        # What is imported later is no garbage either: a backend's symbols, for one.
        gc.set_threshold(max(GARBAGE, gc.get_threshold()[0]), *gc.get_threshold()[1:])


def import_keras(backend: str, compiler: bool = False) -> None:
    """Import Keras without what it takes for its plots and for other backends, where installed.

    That is a second or more of every start, and the compiler of PyTorch another two. What a cell's
    module imports it finds as ever.

    Args:
        backend: The backend of this process.
        compiler: Whether PyTorch's compiler is wanted too. Without, it is imported by the first
            who asks for it.
    """
    unwanted = (OPTIONAL.keys() - {backend}) | OPTIONAL[backend]
    with _absent(unwanted - {*sys.modules}):
        if backend == "torch" and not compiler:
            importlib.import_module("torch")
            if COMPILER not in sys.modules:
                sys.modules[COMPILER] = Later(importlib.util.find_spec(COMPILER))
        importlib.import_module("keras")


@contextmanager
def _absent(names: set[str]) -> Iterator[None]:
    """Let the import of some packages fail."""
    sys.modules.update(dict.fromkeys(names))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


class Later(types.ModuleType):
    """Stands for PyTorch's compiler until somebody asks for more than to be left alone by it.

    Keras and PyTorch keep some of their functions out of what is compiled, in every process, and
    import the whole compiler to say so: half of the start of a worker, none of which compiles
    anything unless a cell does. Here such functions are remembered. Whoever wants anything else
    of the compiler gets the real one, which is told of them before it compiles a first line.

    Args:
        spec: Where the compiler is.
    """

    def __init__(self, spec: Any) -> None:
        super().__init__(COMPILER)
        self.__spec__, self.__file__ = spec, spec.origin
        self._of_keras: list[types.FunctionType] = []
        self._of_torch: list[Callable[..., Any]] = []

    def __getattr__(self, name: str) -> Any:
        # Who looks through all modules for such names does not mean to compile.
        if name.startswith("__") and name != "__path__":
            raise AttributeError(name)
        return getattr(self._settle(), name)

    def disable(self, function: Any = None, *args: Any, **options: Any) -> Any:
        """Keep a function out of what is compiled, as `torch._dynamo.disable` does."""
        if sys.modules.get(COMPILER) is self:
            if function is None and not args and not options:
                return self._disable_of_keras
            if options == {"wrapping": False}:  # by PyTorch, which keeps the answer, see below
                self._of_torch.append(function)
                return function
        return self._settle().disable(function, *args, **options)

    def _disable_of_keras(self, function: types.FunctionType) -> Any:
        if function.__module__.startswith("keras."):
            self._of_keras.append(function)
            return function
        return self._settle().disable()(function)

    def _settle(self) -> Any:
        """Import the compiler and do what has been put off."""
        if sys.modules.get(COMPILER) is not self:
            return importlib.import_module(COMPILER)
        del sys.modules[COMPILER]
        torch = importlib.import_module("torch")
        before = dict(vars(torch))
        compiler = importlib.import_module(COMPILER)
        # On its import the compiler disables functions of PyTorch's itself.
        now = vars(torch)
        _late.extend((now[name], old) for name, old in before.items() if now.get(name) is not old)
        for function in self._of_torch:
            function.__dict__.pop("__dynamo_disable", None)  # so that PyTorch asks again
        for function in self._of_keras:
            late = compiler.disable()(function)
            setattr(sys.modules[function.__module__], function.__name__, late)
            _late.append((late, function))
        return compiler
