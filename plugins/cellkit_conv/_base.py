"""Parts that the convolutional cells share: sizes, convolutions, and a convolution in NumPy."""

from __future__ import annotations

import itertools
from typing import Any, ClassVar

import keras
import numpy as np

from cellkit.cells import Cell, TensorSpec, plus, positive_int
from cellkit.errors import problem


class ConvCell(Cell):
    """Base class of the convolutional cells.

    It is to `cellkit.Cell` what `cellkit.GatedCell` is, with convolutions for the two products: a
    subclass names its gates, in the order of the weights' blocks, and writes `combine`. The
    convolution of the inputs has all the options; the one of the state keeps its size (stride 1,
    padding `"same"`, no dilation), since the new state has the shape of the old one.

    Args:
        filters: Number of channels of the states and of the output.
        kernel_size: Size of both kernels, one int for all spatial axes or one per axis.
        rank: Number of spatial axes, 1 to 3. Default None: as many as `kernel_size` has entries,
            and 2 when it is one int.
        strides: Strides of the convolution of the inputs.
        padding: `"valid"` (default, as in Keras) or `"same"`, of the convolution of the inputs.
        dilation_rate: Dilation of the convolution of the inputs.
        data_format: `"channels_last"` or `"channels_first"`. Default None: what
            `keras.config.image_data_format()` says. Kernels are channels last in any case.
        **kwargs: Options of `cellkit.Cell`.
    """

    gates: ClassVar[dict[str, str]] = {}
    states: ClassVar[tuple[str, ...]] = ("h",)

    def __init__(
        self,
        filters: int,
        kernel_size: Any,
        *,
        rank: int | None = None,
        strides: Any = 1,
        padding: str = "valid",
        dilation_rate: Any = 1,
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        cls = type(self)
        self.filters = positive_int(cls, "filters", filters)
        self.rank = _rank(cls, rank, kernel_size)
        self.kernel_size, self._size = _per_axis(cls, "kernel_size", kernel_size, self.rank)
        self.strides, self._stride = _per_axis(cls, "strides", strides, self.rank)
        self.dilation_rate, self._dilation = _per_axis(
            cls, "dilation_rate", dilation_rate, self.rank
        )
        self.padding = _one_of(cls, "padding", padding, ("valid", "same"))
        self.data_format = _one_of(
            cls,
            "data_format",
            data_format or keras.config.image_data_format(),
            ("channels_last", "channels_first"),
        )
        self.image_shape: tuple[int, ...] | None = None
        if self.units is not None:
            raise problem(
                f"{cls.__name__} has filters instead of units.",
                received=f"units={self.units}",
                expected="no `units`",
                fix="pass the number of channels as `filters`",
            )
        if max(self._stride) > 1 and max(self._dilation) > 1:
            raise problem(
                f"{cls.__name__} cannot stride and dilate at once.",
                received=f"strides={strides!r} and dilation_rate={dilation_rate!r}",
                expected="one of them to be 1",
                fix="leave out one of the two",
            )

    @property
    def state_size(self) -> list[TensorSpec]:
        """Shapes of the states, whose spatial axes follow from the inputs."""
        return [TensorSpec(self.with_channels((None,) * self.rank)) for _ in self.states]

    def state_spec(self) -> list[TensorSpec]:
        """Return the shapes of the states with the spatial axes of the built cell."""
        shape = self.with_channels(self.image_shape or (None,) * self.rank)
        return [TensorSpec(shape, spec.dtype) for spec in super().state_spec()]

    def with_channels(self, image: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return a shape with the channels where the data format has them."""
        first = self.data_format == "channels_first"
        return (self.filters, *image) if first else (*image, self.filters)

    def build(self, input_shape: Any) -> None:
        """Create `kernel`, `recurrent_kernel` and `bias`."""
        channels, image = _sizes(self, input_shape)
        self.image_shape = tuple(
            _length(self, *sizes)
            for sizes in zip(image, self._size, self._stride, self._dilation, strict=True)
        )
        super().build(input_shape)
        size, width = self._size, len(self.gates) * self.filters
        self.kernel = self.add_kernel((*size, channels, width))
        self.recurrent_kernel = self.add_recurrent_kernel((*size, self.filters, width))
        self.bias = self.add_bias((width,), initializer=self._gate_biases)

    def gate_bias_initializers(self) -> dict[str, Any]:
        """Return initializers for the biases of single gates; others use `bias_initializer`."""
        return {}

    def _gate_biases(self, shape: Any, dtype: Any = None) -> Any:
        return self.draw_by_gate(
            self.gates, self.gate_bias_initializers(), (self.filters,), dtype=dtype
        )

    def convolve(self, image: Any, kernel: Any, **options: Any) -> Any:
        """Convolve an image in the cell's data format, keeping its size unless told otherwise."""
        first = self.data_format == "channels_first"
        # TensorFlow has no channels-first convolutions on CPUs; channels last work everywhere.
        image = keras.ops.moveaxis(image, 1, -1) if first else image
        options = {"padding": "same", **options}
        y = keras.ops.conv(image, kernel, data_format="channels_last", **options)
        return keras.ops.moveaxis(y, -1, 1) if first else y

    def shift(self, image: Any, bias: Any) -> Any:
        """Add a bias per channel, if there is one."""
        if bias is None or self.data_format == "channels_last":
            return plus(image, bias)
        return image + keras.ops.reshape(bias, (-1, *(1,) * self.rank))

    def split(self, image: Any, count: int) -> list[Any]:
        """Split the channels of an image into `count` equal blocks."""
        axis = -1 if self.data_format == "channels_last" else 1
        return list(keras.ops.split(image, count, axis=axis))

    def project(self, inputs: Any) -> Any:
        """Return the convolution of the inputs, for all gates at once."""
        product = self.convolve(
            inputs,
            self.kernel,
            strides=self._stride,
            padding=self.padding,
            dilation_rate=self._dilation,
        )
        return self.shift(product, self.bias)

    def step(self, projected: Any, states: Any) -> tuple[Any, Any]:
        """Add the convolution of the state, apply each gate's activation, and `combine`."""
        z = projected + self.convolve(self.drop(states[0]), self.recurrent_kernel)
        blocks = self.split(z, len(self.gates))
        gates = {
            name: getattr(self, activation)(block)
            for (name, activation), block in zip(self.gates.items(), blocks, strict=True)
        }
        return self.combine(gates, states)

    def combine(self, gates: dict[str, Any], states: Any) -> tuple[Any, Any]:
        """Make the output and the new states from the activated gates."""
        raise NotImplementedError(f"{type(self).__name__} must define `combine(gates, states)`.")


def _rank(cls: type, rank: Any, kernel_size: Any) -> int:
    axes = len(kernel_size) if isinstance(kernel_size, (list, tuple)) else None
    rank = (axes or 2) if rank is None else rank
    if rank not in (1, 2, 3) or isinstance(rank, bool):
        raise problem(
            f"{cls.__name__} has no such number of spatial axes.",
            received=f"rank={rank!r} and kernel_size={kernel_size!r}",
            expected="1 for signals, 2 for images or 3 for volumes",
            fix="pass rank=2, or a kernel_size with one entry per spatial axis",
        )
    return int(rank)


def _per_axis(cls: type, name: str, value: Any, rank: int) -> tuple[Any, tuple[int, ...]]:
    """Return an option as it goes into the config, and as one positive int per spatial axis."""
    values = list(value) if isinstance(value, (list, tuple)) else [value] * rank
    if len(values) != rank:
        raise problem(
            f"`{name}` of {cls.__name__} does not fit the number of spatial axes.",
            received=f"{name}={value!r} with rank {rank}",
            expected=f"an int, or {rank} of them",
            fix=f"pass {name} as one int for all axes",
        )
    sizes = tuple(positive_int(cls, name, v) for v in values)
    return (list(sizes) if isinstance(value, (list, tuple)) else sizes[0]), sizes


def _one_of(cls: type, name: str, value: Any, known: tuple[str, ...]) -> str:
    lower = value.lower() if isinstance(value, str) else value
    if lower not in known:
        raise problem(
            f"`{name}` of {cls.__name__} is not known.",
            received=f"{name}={value!r}",
            expected=" or ".join(map(repr, known)),
            fix=f"pass {name}={known[0]!r}",
        )
    return str(lower)


def _sizes(cell: ConvCell, shape: Any) -> tuple[int, tuple[int, ...]]:
    """Return the channels and the spatial sizes of one step of inputs."""
    axes = ("time step", "row", "column", "slice")[1 : cell.rank + 1]
    order = ["batch", *axes]
    order.insert(1 if cell.data_format == "channels_first" else len(order), "channels")
    flat = isinstance(shape, (list, tuple)) and all(d is None or isinstance(d, int) for d in shape)
    if not flat or len(shape) != len(order) or None in shape[1:]:
        of_layer = ", ".join(["batch", "time", *order[1:]])
        raise problem(
            f"{type(cell).__name__} of rank {cell.rank} cannot take these inputs.",
            received=f"inputs of one step with shape {shape}",
            expected=f"({', '.join(order)}) per step, so ({of_layer}) for the "
            "layer, all but batch and time known, since they are the shape of the states",
            fix="add the axes that are missing, give the inputs a fixed size, and check `rank` and "
            "`data_format`",
        )
    first = cell.data_format == "channels_first"
    return (shape[1], tuple(shape[2:])) if first else (shape[-1], tuple(shape[1:-1]))


def _length(cell: ConvCell, size: int, kernel: int, stride: int, dilation: int) -> int:
    """Return the size of the convolved inputs along one axis."""
    if cell.padding == "same":
        return -(-size // stride)
    extent = (kernel - 1) * dilation + 1
    if extent > size:
        raise problem(
            f"The kernel of {type(cell).__name__} is larger than its inputs.",
            received=f"a kernel that covers {extent} of an axis of size {size}",
            expected="at most the size of the axis, with padding='valid'",
            fix="pass padding='same', or a smaller kernel_size or dilation_rate",
        )
    return (size - extent) // stride + 1


def convolve(x: Any, kernel: Any, config: Any = None) -> Any:
    """Cross-correlate in NumPy, for the references: one term per entry of the kernel.

    Args:
        x: Images `(batch, ..., channels)`, or `(batch, channels, ...)` when the config says so.
        kernel: Array of shape `(..., channels, filters)`.
        config: A cell's config, for the convolution of the inputs. None: stride 1, padding
            `"same"`, as for states that are channels last.
    """
    config = config or {}
    rank, sizes = kernel.ndim - 2, kernel.shape[:-2]
    first = config.get("data_format") == "channels_first"
    x = np.moveaxis(x, 1, -1) if first else x
    strides = np.broadcast_to(config.get("strides", 1), rank)
    dilation = np.broadcast_to(config.get("dilation_rate", 1), rank)
    extent = (np.array(sizes) - 1) * dilation + 1
    if config.get("padding", "same") == "same":
        lengths = -(-np.array(x.shape[1:-1]) // strides)
        total = np.maximum((lengths - 1) * strides + extent - x.shape[1:-1], 0)
        x = np.pad(x, [(0, 0), *((n // 2, n - n // 2) for n in total), (0, 0)])
    lengths = (np.array(x.shape[1:-1]) - extent) // strides + 1
    y = 0.0
    for offset in itertools.product(*map(range, sizes)):
        window = tuple(
            slice(o * d, o * d + (n - 1) * s + 1, s)
            for o, d, n, s in zip(offset, dilation, lengths, strides, strict=True)
        )
        y = y + x[(slice(None), *window)] @ kernel[offset]
    return np.moveaxis(y, -1, 1) if first else y


def convolve_state(h: Any, kernel: Any, config: Any) -> Any:
    """Cross-correlate a state, which keeps its size, in the data format of the config."""
    return convolve(h, kernel, {"data_format": config["data_format"]})


def along_channels(bias: Any, config: Any) -> Any:
    """Return a bias in the shape that adds to images of the config's data format."""
    if config["data_format"] == "channels_last":
        return bias
    return bias.reshape(-1, *(1,) * config["rank"])
