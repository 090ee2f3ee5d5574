"""Changes of what a cell computes with, noticed between two calls at the price of one comparison.

What a layer compiles or records holds what the step read from its cell: numbers, functions, lists,
arrays, other objects. A `Watch` walks once through all that can be reached from its roots and keeps
one flat list of it. A check reads the same places again and compares them by identity, which takes
some microseconds; only where something differs is the walk made anew, and the two are compared by
value.

Values of `keras.Variable` and of tensors that are trained do not count: compiled functions take
them as arguments. Neither does what Keras keeps on its layers for itself. Not seen are attributes
of modules, and what an object of another language keeps inside.
"""

from __future__ import annotations

import array
import collections
import enum
import functools
import hashlib
import io
import itertools
import operator
import random
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np

_PLAIN = (type(None), bool, int, float, complex, str, bytes)
_FRAMEWORKS = frozenset(("keras", "tensorflow", "torch", "jax", "jaxlib", "numpy", "cellkit"))
# Their objects belong to the process, not to a cell.
_APART = frozenset(
    "logging threading _thread concurrent multiprocessing asyncio io _io socket inspect".split()
)
# Attributes of Keras and PyTorch that a step computes with; the rest is bookkeeping.
_COUNTED = frozenset(
    "_dtype_policy _trainable training activity_regularizer _modules _parameters _buffers".split()
)
# Things that Keras' cells keep for one call, the mirror of the variables, caches of this package.
_PASSING = frozenset(
    "_build_shapes_dict _dropout_mask _recurrent_dropout_mask _torch_params _memo".split()
)
_CLASS_BOOKKEEPING = frozenset("__dict__ __weakref__ __doc__ __module__ _abc_impl".split())
_SMALL = 2**14  # bytes of an array that are kept as they are
_MOST = 20_000  # places to look at
_MISSING = object()


class Watch:
    """Notices every change of what can be reached from some objects.

    Args:
        *roots: A layer, its cell, or any other objects.

    Example:
    >>> import types
    >>> cell = types.SimpleNamespace(scale=2.0, taps=[1, 2])
    >>> watch = Watch(cell)
    >>> watch.changed()
    False
    >>> cell.taps[0] = 5
    >>> watch.changed(), watch.changed()
    (True, False)
    """

    def __init__(self, *roots: Any) -> None:
        self._roots = roots
        self._lock = threading.Lock()
        self._view = View(roots)
        self._edition = 0
        self._seen = 0

    def key(self) -> int:
        """Return a number that differs from that of every earlier call if anything changed since.

        What is compiled or recorded is kept under this number.
        """
        view = self._view
        if not view.same():
            with self._lock:
                new = View(self._roots)
                if not new.equals(self._view):
                    self._edition += 1
                self._view = new
        return self._edition

    def changed(self) -> bool:
        """Tell whether anything changed since the last call of this method, or the beginning."""
        seen, self._seen = self._seen, self.key()
        return seen != self._seen

    def forget(self) -> None:
        """Count as a change: for changes that cannot be seen."""
        with self._lock:
            self._view = View(self._roots)
            self._edition += 1

    @property
    def unseen(self) -> str | None:
        """The reachable object that may change unseen, in words, or None."""
        return self._view.unseen

    def __deepcopy__(self, memo: Any) -> None:
        """Leave a copied layer without a watch of its own: it makes one at its first call."""

    def __reduce__(self) -> Any:
        return (type(None), ())


class View:
    """The objects that could be reached at one moment.

    Args:
        roots: The objects to begin with.

    Attributes:
        unseen: An object that may change unseen, in words, or None.
        sized: Dicts, lists and sets: those whose number of entries counts.
        buffers: Arrays, tensors and bytes.
        closures: The cells of closures.
        slotted: Objects with slots, each with the names of these.
        spaces: Dicts of global names, each with the names that count.
    """

    def __init__(self, roots: tuple[Any, ...]) -> None:
        self.unseen: str | None = None
        self.sized: list[Any] = []
        self.buffers: list[Any] = []
        self.closures: list[Any] = []
        self.slotted: list[tuple[Any, list[str]]] = []
        self._lists: list[Any] = []  # lists and sets
        self._getters: list[Callable[[Any], Iterable[Any]]] = []  # of entries ...
        self._owners: list[Any] = []  # ... of these objects
        self._probes: list[Callable[[], bool]] = []
        self._variables: list[Any] = []
        self.spaces: dict[int, tuple[dict[str, Any], dict[str, None]]] = {}
        self._kept: list[Any] = [roots]  # an id must not be given away
        self._seen: set[int] = set()
        self._todo: list[Any] = []
        self._tokens: list[Any] = []
        self._room = _MOST
        try:
            self._put("root", roots)
            while self._todo and self._room >= 0:
                self._visit(self._todo.pop())
            for space, names in self.spaces.values():
                self._get(_getter(operator.itemgetter, list(names)), space)
            self._get(_trainable, self._variables)
            self._lengths = list(map(len, self.sized))
            self._flat = tuple(self._places())
        except RuntimeError:  # another thread changes a container: nothing of this view is right
            self._lengths, self._tokens = [-1], [object()]

    def same(self) -> bool:
        """Tell whether every place still holds the same object, and every array its content."""
        try:
            return (
                list(map(len, self.sized)) == self._lengths
                and all(map(operator.is_, self._places(), self._flat))
                and all([probe() for probe in self._probes])
            )
        except (RuntimeError, KeyError, ValueError):
            return False  # something is gone, or is being changed by another thread

    def equals(self, other: View) -> bool:
        """Tell whether all that counts is the same by value, where values can be compared."""
        return self._tokens == other._tokens

    def _places(self) -> Iterator[Any]:
        chain = itertools.chain.from_iterable
        return itertools.chain(
            chain(map(operator.call, self._getters, self._owners)), chain(self._lists)
        )

    # The walk -----------------------------------------------------------------------------------

    def _put(self, where: Any, value: Any) -> None:
        """Note what stands in a place, and come back for what is inside."""
        kind = type(value)
        if kind in _PLAIN or isinstance(value, np.generic):
            self._tokens.append((where, kind, repr(value)))
            return
        by_value = kind in (tuple, frozenset) or (kind is np.ndarray and not value.dtype.hasobject)
        self._tokens.append((where, kind, None if by_value else id(value)))
        if by_value or id(value) not in self._seen:
            self._seen.add(id(value))
            self._kept.append(value)
            self._todo.append(value)

    def _size(self, container: Any) -> None:
        self.sized.append(container)
        self._room -= len(container)
        if self._room < 0:
            self.unseen = f"more than {_MOST} objects"

    def _list(self, container: Any) -> None:
        """Watch a list or a set."""
        self._size(container)
        self._lists.append(container)
        for i, value in enumerate(list(container)):
            self._put(i, value)

    def _items(self, container: Any, skip: Any = _PASSING) -> None:
        """Watch a dict."""
        self._size(container)
        pairs = [(k, v) for k, v in list(container.items()) if k not in skip]
        for key, value in pairs:
            self._put(key if isinstance(key, str) else id(key), value)
        self._kept.append(pairs)
        self._get(_getter(operator.itemgetter, [k for k, _ in pairs]), container)

    def _get(self, getter: Callable[[Any], Iterable[Any]] | None, owner: Any) -> None:
        if getter is not None:
            self._getters.append(getter)
            self._owners.append(owner)

    def _visit(self, x: Any) -> None:
        torch = sys.modules.get("torch")
        if isinstance(x, keras.Variable):
            self._variables.append(x)
            self._tokens.append(x.trainable)
        elif isinstance(x, np.ndarray):
            self._array(x)
        elif torch is not None and isinstance(x, torch.Tensor):
            self._tensor(x)
        elif isinstance(x, (types.FunctionType, types.MethodType, types.BuiltinMethodType)):
            self._function(x)
        elif isinstance(x, io.IOBase):
            self.unseen = f"a stream ({type(x).__name__})"
        elif not _apart(x):
            self._object(x)
        if _foreign(type(x)):  # a function that was decorated or compiled
            self._put("wrapped", getattr(x, "__wrapped__", None))
            self._put("wrapped", getattr(x, "python_function", None))

    def _object(self, x: Any) -> None:
        if isinstance(x, (dict, types.MappingProxyType)):
            self._items(x)
        elif isinstance(x, (list, collections.deque, set, frozenset)):
            self._list(x)
        elif isinstance(x, tuple):
            for i, value in enumerate(x):
                self._put(i, value)
        elif isinstance(x, (bytearray, memoryview, array.array)):
            self._content(x, bytes)
        elif isinstance(x, functools.partial):
            self._put("func", x.func)
            self._put("args", x.args)
            self._put("keywords", x.keywords)
        elif isinstance(x, weakref.ref):
            self._put("referent", x())
            self._get(_referent, x)
        elif isinstance(x, (np.random.Generator, np.random.RandomState, random.Random)):
            self._content(x, _random_state)
        elif isinstance(x, Iterator):
            self.unseen = f"an iterator ({type(x).__name__})"
        elif isinstance(x, property):
            self._put("get", x.fget)
            self._put("set", x.fset)
        elif isinstance(x, functools.cached_property):
            self._put("function", x.func)
        self._attributes(x)

    def _attributes(self, x: Any) -> None:
        """Watch the attributes of an object, and those of its class where that is the user's."""
        kind = type(x)
        attributes = getattr(x, "__dict__", None)
        foreign = _foreign(kind)
        if type(attributes) is dict and (attributes or not foreign):
            if isinstance(x, keras.layers.Layer):
                self._items(attributes, bookkeeping())
            elif "_modules" in attributes:
                self._items(attributes, _module_bookkeeping())
            elif not (foreign and isinstance(x, (list, dict, set))):
                self._items(attributes)
        if foreign and kind.__module__ in ("builtins", "functools", "collections"):
            return
        for base in kind.__mro__[:-1]:
            slots = base.__dict__.get("__slots__", ())
            slots = [slots] if isinstance(slots, str) else list(slots)
            names = [n for n in slots if not n.startswith("__")]
            if names:
                getter = functools.partial(_slots, names=names)
                for name, value in zip(names, getter(x), strict=True):
                    self._put(name, value)
                self._get(getter, x)
                self.slotted.append((x, names))
            if not _foreign(base) and id(base) not in self._seen:
                self._seen.add(id(base))
                self._items(vars(base), _CLASS_BOOKKEEPING)

    def _function(self, x: Any) -> None:
        if not isinstance(x, types.FunctionType):
            if x.__self__ is not None and not isinstance(x.__self__, types.ModuleType):
                self._put("self", x.__self__)
            self._put("function", getattr(x, "__func__", None))
            return
        if _foreign(x):
            return
        if x.__dict__:
            self._items(x.__dict__)
        self._put("defaults", x.__defaults__)
        self._put("keywords", x.__kwdefaults__)
        if x.__closure__:
            for value in _closure(x.__closure__):
                self._put("closure", value)
            self._get(_closure, x.__closure__)
            self.closures += x.__closure__
        space = x.__globals__
        _, known = self.spaces.setdefault(id(space), (space, {}))
        for name in _global_names(x.__code__):
            value = space.get(name)
            if name in known or name not in space or _apart(value):
                continue
            if isinstance(value, types.FunctionType) and _foreign(value):
                continue
            known[name] = None
            self._put(name, value)

    def _array(self, x: Any) -> None:
        if x.dtype.hasobject:
            for value in x.flat:
                self._put("element", value)
            self._get(_elements, x)
            return
        self.buffers.append(x)
        token = (x.dtype.str, x.shape, _digest(x.tobytes()))
        self._tokens.append(token)
        if not (x.base is None and not x.flags.writeable):
            if x.nbytes <= _SMALL:
                self._probes.append(
                    functools.partial(_same_bytes, x, x.dtype, x.shape, x.tobytes())
                )
            else:
                self._probes.append(functools.partial(_same_content, x, x.dtype, x.copy()))

    def _tensor(self, x: Any) -> None:
        """Watch a tensor of PyTorch's outside variables: its content where that costs little."""
        if x.requires_grad:  # trained: its value is an argument, as a variable's is
            return
        self.buffers.append(x)
        state = _tensor_state(x)
        self._tokens.append(state[1:])
        self._probes.append(lambda: _tensor_state(x) == state)

    def _content(self, x: Any, read: Callable[[Any], Any]) -> None:
        self.buffers.append(x)
        content = read(x)
        self._tokens.append(content)
        self._probes.append(lambda: bool(read(x) == content))


def _apart(x: Any) -> bool:
    """Tell whether an object is left out: it never changes, or belongs to no cell."""
    if isinstance(x, (type, types.ModuleType, enum.Enum, types.CodeType, keras.KerasTensor)):
        return True
    package = type(x).__module__.partition(".")[0]
    if package == "keras":
        return not isinstance(x, _followed())
    if package == "cellkit":
        return not isinstance(x, keras.layers.Layer)
    if package == "torch":
        return not hasattr(x, "_modules")
    return package in _APART or package in ("jax", "jaxlib", "tensorflow")


@functools.cache
def _followed() -> tuple[type, ...]:
    """Return the classes of Keras whose objects a step may compute with."""
    return (
        keras.layers.Layer,
        keras.initializers.Initializer,
        keras.regularizers.Regularizer,
        keras.constraints.Constraint,
        keras.random.SeedGenerator,
        list,
        dict,
        set,
    )


@functools.cache
def bookkeeping() -> frozenset[str]:
    """Return the attributes that Keras keeps on every layer for itself."""
    return frozenset(vars(keras.layers.Layer(name="bare"))) - _COUNTED | _PASSING


@functools.cache
def _module_bookkeeping() -> frozenset[str]:
    """Return the attributes that PyTorch keeps on every module for itself."""
    return frozenset(vars(sys.modules["torch"].nn.Module())) - _COUNTED | _PASSING


def _foreign(x: Any) -> bool:
    """Tell whether a class or function comes with a framework, a plugin of ours, or Python."""
    module = getattr(x, "__module__", None) or "builtins"
    package = module.partition(".")[0]
    return module != "__main__" and (
        package in _FRAMEWORKS
        or package in sys.stdlib_module_names
        or package.startswith("cellkit_")
    )


def _global_names(code: types.CodeType) -> Iterator[str]:
    """Yield the names that a function may read from its module."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _global_names(constant)


def _getter(kind: Any, names: list[Any]) -> Any:
    """Return what reads entries or attributes as a tuple, or None where there is none to read."""
    # A getter of a single name returns no tuple.
    return kind(*names, *names[:1]) if names else None


def _closure(cells: Any) -> tuple[Any, ...]:
    try:
        return tuple([cell.cell_contents for cell in cells])
    except ValueError:  # one of them is empty yet
        return tuple([getattr(cell, "cell_contents", _MISSING) for cell in cells])


def _slots(x: Any, names: list[str]) -> tuple[Any, ...]:
    return tuple([getattr(x, name, _MISSING) for name in names])


def _elements(x: Any) -> tuple[Any, ...]:
    return tuple(x.flat)


def _referent(x: Any) -> tuple[Any, ...]:
    return (x(),)


def _trainable(variables: list[Any]) -> list[bool]:
    return [variable.trainable for variable in variables]


def _random_state(x: Any) -> str:
    if isinstance(x, random.Random):
        return repr(x.getstate())
    state = x.bit_generator.state if isinstance(x, np.random.Generator) else x.get_state()
    return (
        repr(state) if isinstance(state, dict) else repr([np.asarray(s).tobytes() for s in state])
    )


def _digest(content: bytes) -> bytes:
    return content if len(content) <= _SMALL else hashlib.blake2b(content).digest()


def _same_bytes(x: Any, dtype: Any, shape: Any, content: bytes) -> bool:
    return x.tobytes() == content and x.dtype == dtype and x.shape == shape


def _same_content(x: Any, dtype: Any, copy: Any) -> bool:
    if x.dtype != dtype or x.shape != copy.shape:
        return False
    return bool(np.array_equal(x, copy)) or x.tobytes() == copy.tobytes()


def _tensor_state(x: Any) -> tuple[Any, ...]:
    """Return what tells whether a tensor changed: its place, version, and bytes if small."""
    state: tuple[Any, ...] = (x.data_ptr(), x.requires_grad, x.dtype, x.shape)
    if not x.is_inference():
        state += (x._version,)
    if x.device.type == "cpu" and x.layout.__str__() == "torch.strided":
        if x.numel() * x.element_size() <= _SMALL or x.is_inference():
            raw = x.detach().contiguous().flatten()
            state += (bytes(raw.view(sys.modules["torch"].uint8).numpy()),)
    return state
