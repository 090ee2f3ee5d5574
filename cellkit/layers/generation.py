"""`generate`: a trained decoder runs on from its states, on what it said itself."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import keras
import numpy as np

from cellkit.cells.watch import Watch
from cellkit.errors import problem
from cellkit.layers.initial_states import fitted_states
from cellkit.typing import States, Tensor, Tree

if TYPE_CHECKING:
    from cellkit.layers.rnn import RNN

__all__ = ["Generated", "generate"]

METHODS = ("greedy", "sample", "beam")
_KEPT = 8  # compiled loops of one layer
_NEVER = -1e9  # the score of what must not be chosen: finite, so that no NaN comes of it


class Generated(NamedTuple):
    """The result of `generate`.

    Attributes:
        tokens: int32 `(batch, steps)`, the best hypothesis of a beam search; `pad` after the stop
            token.
        lengths: int32 `(batch,)`, the number of tokens, the stop token included.
        scores: float32 `(batch,)`, the sum of the tokens' log-probabilities; of a beam search
            divided by the length penalty.
        states: The states of the layer after the last token, in the cell's structure.
        beams: int32 `(batch, beams, steps)`, all hypotheses of a beam search, the best one first;
            otherwise None.
        beam_scores: float32 `(batch, beams)`, their scores, or None.
    """

    tokens: Any
    lengths: Any
    scores: Any
    states: States
    beams: Any = None
    beam_scores: Any = None


@dataclasses.dataclass(frozen=True)
class _Plan:
    """The options of generating that a compiled loop is made for."""

    method: str
    steps: int
    temperature: float
    top_k: int | None
    top_p: float | None
    beams: int
    length_penalty: float
    stops: bool
    pad: int


def generate(
    layer: RNN,
    head: Callable[[Any], Any],
    start: Any,
    steps: int,
    *,
    embed: Callable[[Any], Any] | None = None,
    initial_state: States = None,
    constants: Tree = None,
    method: str = "greedy",
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    beams: int = 4,
    length_penalty: float = 0.0,
    stop: Any = None,
    pad: int = 0,
    seed: Any = None,
) -> Generated:
    """Let a trained decoder run on: each token it chooses is the input of its next step.

    The cell runs at inference. The whole loop is compiled on JAX and TensorFlow, and kept with the
    layer while `head` and `embed` are Keras layers; with other functions it is compiled anew.
    Greedy and beam search give the same tokens on every backend, up to ties and rounding.

    Args:
        layer: The decoder, a built `cellkit.RNN`.
        head: Maps an output of the layer to logits `(batch, vocabulary)`: a Keras layer, or a
            function. Probabilities will not do.
        start: The first tokens, integers `(batch,)`.
        steps: The largest number of tokens to generate.
        embed: Maps tokens `(batch,)` to the inputs of a step `(batch, features)`, e.g. the
            `keras.layers.Embedding` of training. Default: one-hot, as wide as the layer's inputs.
        initial_state: The states to run on from, in the cell's structure, e.g. those of an
            encoder. Default: the cell's own.
        constants: Tensors that the cell is handed at every step, as in a call of the layer.
        method: `"greedy"` takes the most probable token, `"sample"` draws one, `"beam"` keeps the
            `beams` most probable sequences.
        temperature: Divides the logits before a draw; above 0.
        top_k: Draws from the most probable `top_k` tokens only.
        top_p: Draws from the fewest tokens only whose probabilities add up to `top_p`.
        beams: Width of the beam search, at most the size of the vocabulary.
        length_penalty: The exponent alpha of ``((5 + length) / 6) ** alpha`` (Wu et al. 2016,
            arXiv:1609.08144, equation 14), by which scores are divided: 0 favours short sequences.
        stop: The token after which a row ends: one for all, or one for each row `(batch,)`.
            Default: no row ends before `steps`.
        pad: The entry of `tokens` behind the stop token.
        seed: Of the draws: an int, a `keras.random.SeedGenerator`, or None.

    Returns:
        `Generated`: tokens, lengths, scores, states, and all beams of a beam search.

    Raises:
        ValueError: If an argument is out of its range, or does not fit the layer.

    Example:
    >>> import numpy as np
    >>> import cellkit
    >>> layer, head = cellkit.RNN("gru", units=8), keras.layers.Dense(5)
    >>> layer.build((None, None, 5))
    >>> head.build((None, 8))
    >>> found = cellkit.generate(layer, head, start=[0, 0, 3], steps=7, stop=4)
    >>> tuple(found.tokens.shape)
    (3, 7)
    """
    tokens = _checked_start(layer, start, embed)
    for part in (head, embed):
        _check_built(part)
    batch = int(tokens.shape[0])
    plan = _Plan(
        _checked_method(method),
        _at_least_one("steps", steps),
        _positive("temperature", temperature),
        None if top_k is None else _at_least_one("top_k", top_k),
        None if top_p is None else _share(top_p),
        _at_least_one("beams", beams),
        _exponent(length_penalty),
        stop is not None,
        _integer("pad", pad),
    )
    noise = np.zeros((plan.steps, batch), "float32")
    if plan.method == "sample":
        noise = keras.random.uniform((plan.steps, batch), seed=seed)
    ends = np.full((batch,), -1, "int32") if stop is None else _checked_stop(stop, batch)
    first = _features(layer) if embed is None else embed
    if initial_state is None:
        initial_state = layer.get_initial_state(batch)
    else:
        initial_state = fitted_states(layer.runner, initial_state, batch)
    if constants is not None and plan.method == "beam":
        _check_constants(constants, batch)
    given = (tokens, initial_state, constants, ends, noise)
    arrays = keras.tree.map_structure(
        keras.ops.convert_to_tensor, [x for x in given if x is not None]
    )
    tokens, initial_state, *more = arrays
    constants = None if constants is None else more.pop(0)
    found = _loop(layer, head, first, plan)(tokens, initial_state, constants, *more)
    return Generated(*found)


# --- the loop ----------------------------------------------------------------------------------


def _loop(layer: RNN, head: Any, embed: Any, plan: _Plan) -> Callable[..., Any]:
    """Return the loop, compiled where the backend compiles."""

    def run(tokens: Any, states: States, constants: Tree, ends: Any, noise: Any) -> Any:
        step = _step_of(layer, head, embed, constants, plan)
        if plan.method == "beam":
            return _beam(step, tokens, states, ends, plan)
        return _one_by_one(step, tokens, states, ends, noise, plan)

    parts = [layer, head, *([embed] if not isinstance(embed, int) else [])]
    known = all(isinstance(part, keras.layers.Layer) for part in parts)
    if not known:
        return _compiled(run, parts)
    memo = layer._memo
    key = ("generate", id(head), embed if isinstance(embed, int) else id(embed))
    watch, kept = memo.memoize(key, lambda: (Watch(*parts, layer.cell), {}))
    edition = watch.key()
    if (edition, plan) not in kept:
        for old in [k for k in kept if k[0] != edition] or list(kept)[: len(kept) - _KEPT + 1]:
            kept.pop(old, None)
        kept[edition, plan] = _compiled(run, parts)
    return kept[edition, plan]


def _compiled(run: Callable[..., Any], parts: list[Any]) -> Callable[..., Any]:
    """Compile a loop that reads the variables of some layers, and records no gradient."""
    if keras.backend.backend() == "torch":
        import torch

        return torch.no_grad()(run)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(run, autograph=False)
    if keras.backend.backend() != "jax":
        return run  # no other backend compiles
    import jax

    layers = [part for part in parts if isinstance(part, keras.layers.Layer)]

    def variables() -> list[Any]:
        return list({id(v): v for part in layers for v in part.variables}.values())

    def pure(values: list[Any], *args: Any) -> Any:
        with keras.StatelessScope(zip(variables(), values, strict=True)):
            return run(*args)

    jitted = jax.jit(pure)
    return lambda *args: jitted([v.value for v in variables()], *args)


def _step_of(
    layer: RNN, head: Any, embed: Any, constants: Tree, plan: _Plan
) -> Callable[[Any, Any], tuple[Any, Any]]:
    """Return the function from tokens and states to log-probabilities and new states."""
    if constants is not None and plan.method == "beam":
        constants = keras.tree.map_structure(
            lambda x: keras.ops.repeat(x, plan.beams, axis=0), constants
        )

    def step(tokens: Any, states: States) -> tuple[Tree, States]:
        x = keras.ops.one_hot(tokens, embed) if isinstance(embed, int) else embed(tokens)
        output, states = layer.step(x, states, constants=constants)
        logits = keras.ops.cast(head(output), "float32")
        if len(logits.shape) != 2:
            raise problem(
                "The head of a decoder does not return one score per token.",
                received=f"logits of shape {tuple(logits.shape)}",
                expected="(batch, vocabulary)",
                fix="pass a layer such as keras.layers.Dense(vocabulary), or a function that takes "
                "the part of the output that it needs",
            )
        return logits, states

    return step


def _one_by_one(
    step: Any, tokens: Any, states: States, ends: Any, noise: Any, plan: _Plan
) -> tuple[Any, ...]:
    """Generate one sequence per row."""
    batch, structure = keras.ops.shape(tokens)[0], states
    places = keras.ops.arange(plan.steps, dtype="int32")[None]
    start = (
        keras.ops.zeros((), "int32"),
        keras.ops.cast(tokens, "int32"),
        keras.ops.full((batch, plan.steps), plan.pad, "int32"),
        keras.ops.zeros((batch,), "int32"),
        keras.ops.zeros((batch,), "float32"),
        keras.ops.zeros((batch,), "bool"),
        *keras.tree.flatten(states),
    )

    def going_on(t: Any, tokens: Any, said: Any, lengths: Any, scores: Any, done: Any, *_: Any):  # type: ignore[no-untyped-def]
        return keras.ops.logical_and(t < plan.steps, keras.ops.logical_not(keras.ops.all(done)))

    def body(  # type: ignore[no-untyped-def]
        t: Any, tokens: Any, said: Any, lengths: Any, scores: Any, done: Any, *leaves: Any
    ):
        logits, news = step(tokens, keras.tree.pack_sequence_as(structure, list(leaves)))
        logp = _log_softmax(logits)
        if plan.method == "sample":
            chosen = _draw(logits, keras.ops.take(noise, t, axis=0), plan)
        else:
            chosen = keras.ops.cast(keras.ops.argmax(logits, axis=-1), "int32")
        gained = keras.ops.squeeze(keras.ops.take_along_axis(logp, chosen[:, None], axis=1), 1)
        here = keras.ops.logical_and(places == t, keras.ops.logical_not(done)[:, None])
        said = keras.ops.where(here, chosen[:, None], said)
        scores = keras.ops.where(done, scores, scores + gained)
        lengths = keras.ops.where(done, lengths, lengths + 1)
        # The states of a row that has ended stay those after its last token.
        kept = [
            _choose(done, old, new)
            for old, new in zip(leaves, keras.tree.flatten(news), strict=True)
        ]
        done = keras.ops.logical_or(done, chosen == ends) if plan.stops else done
        return (t + 1, chosen, said, lengths, scores, done, *kept)

    _, _, said, lengths, scores, _, *leaves = keras.ops.while_loop(going_on, body, start)
    return said, lengths, scores, keras.tree.pack_sequence_as(structure, list(leaves))


def _beam(step: Any, tokens: Any, states: States, ends: Any, plan: _Plan) -> tuple[Any, ...]:
    """Keep the best sequences of each row."""
    batch, width, structure = keras.ops.shape(tokens)[0], plan.beams, states

    def flat(x: Tensor) -> Any:
        return keras.ops.reshape(x, (batch * width, *x.shape[2:]))

    def apart(x: Tensor) -> Any:
        return keras.ops.reshape(x, (batch, width, *x.shape[1:]))

    places = keras.ops.arange(plan.steps, dtype="int32")[None, None]
    # All beams of a row begin alike: the first one alone counts.
    lone = keras.ops.where(keras.ops.arange(width) == 0, 0.0, _NEVER)
    start = (
        keras.ops.zeros((), "int32"),
        keras.ops.repeat(keras.ops.cast(tokens, "int32")[:, None], width, axis=1),
        keras.ops.full((batch, width, plan.steps), plan.pad, "int32"),
        keras.ops.zeros((batch, width), "int32"),
        keras.ops.broadcast_to(keras.ops.cast(lone, "float32")[None], (batch, width)),
        keras.ops.zeros((batch, width), "bool"),
        *(keras.ops.repeat(s, width, axis=0) for s in keras.tree.flatten(states)),
    )

    def going_on(t: Any, tokens: Any, said: Any, lengths: Any, scores: Any, done: Any, *_: Any):  # type: ignore[no-untyped-def]
        return keras.ops.logical_and(t < plan.steps, keras.ops.logical_not(keras.ops.all(done)))

    def body(  # type: ignore[no-untyped-def]
        t: Any, tokens: Any, said: Any, lengths: Any, scores: Any, done: Any, *leaves: Any
    ):
        logits, news = step(flat(tokens), keras.tree.pack_sequence_as(structure, list(leaves)))
        vocabulary = logits.shape[-1]
        _check_beams(width, vocabulary)
        logp = apart(_log_softmax(logits))
        # A sequence that has ended goes on in one way only, which costs nothing.
        stay = keras.ops.where(keras.ops.arange(vocabulary) == 0, 0.0, _NEVER)
        stay = keras.ops.cast(stay, "float32")[None, None]
        sums = scores[..., None] + keras.ops.where(done[..., None], stay, logp)
        grown = keras.ops.where(done, lengths, lengths + 1)
        ranked = sums / _penalty(grown, plan)[..., None]
        ranked = keras.ops.reshape(ranked, (batch, width * vocabulary))
        _, best = keras.ops.top_k(ranked, width, sorted=True)
        best = keras.ops.cast(best, "int32")
        parent, chosen = best // vocabulary, best % vocabulary

        def of_parent(x: Tensor) -> Any:
            index = keras.ops.reshape(parent, (batch, width, *[1] * (len(x.shape) - 2)))
            index = keras.ops.broadcast_to(index, (batch, width, *x.shape[2:]))
            return keras.ops.take_along_axis(x, index, axis=1)

        old_done, said = of_parent(done), of_parent(said)
        scores = keras.ops.take_along_axis(
            keras.ops.reshape(sums, (batch, width * vocabulary)), best, axis=1
        )
        lengths = of_parent(grown)
        here = keras.ops.logical_and(places == t, keras.ops.logical_not(old_done)[..., None])
        said = keras.ops.where(here, chosen[..., None], said)
        kept = [
            flat(of_parent(apart(_choose(keras.ops.reshape(done, (-1,)), old, new))))
            for old, new in zip(leaves, keras.tree.flatten(news), strict=True)
        ]
        ended = chosen == ends[:, None] if plan.stops else keras.ops.zeros_like(old_done)
        done = keras.ops.logical_or(old_done, ended)
        return (t + 1, chosen, said, lengths, scores, done, *kept)

    _, _, said, lengths, scores, _, *leaves = keras.ops.while_loop(going_on, body, start)
    scores = scores / _penalty(lengths, plan)
    # The best one first: the penalty of the last step ranked them already.
    leaves = [apart(x)[:, 0] for x in leaves]
    states = keras.tree.pack_sequence_as(structure, leaves)
    return said[:, 0], lengths[:, 0], scores[:, 0], states, said, scores


def _penalty(lengths: Any, plan: _Plan) -> Any:
    lengths = keras.ops.cast(lengths, "float32")
    return keras.ops.power((5.0 + lengths) / 6.0, plan.length_penalty)


def _log_softmax(logits: Any) -> Any:
    return logits - keras.ops.logsumexp(logits, axis=-1, keepdims=True)


def _choose(rows: Any, old: Tensor, new: Tensor) -> Any:
    """Return the old rows where `rows` is true."""
    rows = keras.ops.reshape(rows, (-1, *[1] * (len(new.shape) - 1)))
    return keras.ops.where(rows, old, new)


def _draw(logits: Any, noise: Any, plan: _Plan) -> Any:
    """Draw one token per row, by the inverse of the cumulated probabilities."""
    logits = logits / plan.temperature
    vocabulary = logits.shape[-1]
    if plan.top_k is not None and plan.top_k < vocabulary:
        best, _ = keras.ops.top_k(logits, plan.top_k, sorted=True)
        logits = keras.ops.where(logits < best[:, -1:], _NEVER, logits)
    probabilities = keras.ops.exp(_log_softmax(logits))
    if plan.top_p is not None:
        ranked, _ = keras.ops.top_k(probabilities, vocabulary, sorted=True)
        before = keras.ops.cumsum(ranked, axis=-1) - ranked
        # The last of the most probable ones that is needed; the first always is.
        kept = keras.ops.where(before < plan.top_p, ranked, 2.0)
        least = keras.ops.min(kept, axis=-1, keepdims=True)
        probabilities = keras.ops.where(probabilities < least, 0.0, probabilities)
    total = keras.ops.cumsum(probabilities, axis=-1)
    # A little below the end, where rounding could go beyond the last token that may be drawn.
    reached = noise[:, None] * total[:, -1:] * (1 - 1e-6)
    chosen = keras.ops.sum(keras.ops.cast(total <= reached, "int32"), axis=-1)
    return keras.ops.cast(keras.ops.minimum(chosen, vocabulary - 1), "int32")


# --- checks ------------------------------------------------------------------------------------


def _features(layer: RNN) -> int:
    """Return the width of the one-hot inputs of a layer."""
    shapes = keras.tree.flatten(layer._memo.get("input_shapes") or ())
    if len(shapes) != 3:
        raise problem(
            "Tokens cannot be one-hot inputs of this layer.",
            received="a layer that takes several inputs, or more than one vector per step",
            expected="inputs (batch, time, vocabulary)",
            fix="pass `embed`, which makes the inputs of a step from tokens",
        )
    return int(shapes[-1])


def _checked_start(layer: Any, start: Any, embed: Any) -> Any:
    from cellkit.layers.rnn import RNN

    if not isinstance(layer, RNN):
        raise problem(
            "Only a recurrent layer can run on.",
            received=f"a {type(layer).__name__}",
            expected="a cellkit.RNN, which goes one step at a time",
            fix="pass the layer of the decoder; of a model, e.g. `model.get_layer('decoder')`",
        )
    _check_built(layer)
    tokens = np.asarray(keras.ops.convert_to_numpy(start) if keras.ops.is_tensor(start) else start)
    if tokens.ndim != 1 or tokens.dtype.kind not in "iu" or not len(tokens):
        raise problem(
            "The first tokens are not one integer per row.",
            received=f"start of shape {tokens.shape} and dtype {tokens.dtype}",
            expected="integers (batch,)",
            fix="pass e.g. np.full(batch, start_token); run what comes before through the layer, "
            "and pass its states as `initial_state`",
        )
    width = _features(layer) if embed is None else None
    if tokens.min() < 0 or (width is not None and tokens.max() >= width):
        raise problem(
            "There is no such token to start from.",
            received=f"start with tokens from {tokens.min()} to {tokens.max()}",
            expected="tokens of 0 or more" if width is None else f"tokens from 0 to {width - 1}",
            fix="pass tokens of the vocabulary that the decoder was trained with",
        )
    return tokens.astype("int32")


def _check_built(part: Any) -> None:
    if isinstance(part, keras.layers.Layer) and not part.built:
        raise problem(
            "A layer that was never built has nothing to say.",
            received=f"the layer {part.name!r}, which is not built",
            expected="a trained decoder, with its head and embedding",
            fix="train it, load its weights, or build it with `layer.build(shape)`",
        )


def _checked_stop(stop: Any, batch: int) -> np.ndarray:
    ends = np.asarray(keras.ops.convert_to_numpy(stop) if keras.ops.is_tensor(stop) else stop)
    if ends.dtype.kind not in "iu" or ends.shape not in ((), (batch,)):
        raise problem(
            "`stop` is neither a token nor one for each row.",
            received=f"stop of shape {ends.shape} and dtype {ends.dtype}",
            expected=f"an integer, or integers of shape ({batch},)",
            fix="pass e.g. stop=2",
        )
    return np.broadcast_to(ends, (batch,)).astype("int32")


def _checked_method(method: Any) -> str:
    if method in METHODS:
        return str(method)
    raise problem(
        "There is no such way to generate.",
        received=f"method={method!r}",
        expected="one of " + ", ".join(map(repr, METHODS)),
        fix="leave it out for 'greedy'",
    )


def _at_least_one(name: str, value: Any) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__") or int(value) < 1:
        raise problem(
            f"`{name}` is not a positive integer.",
            received=f"{name}={value!r}",
            expected="an int of 1 or more",
            fix=f"pass e.g. {name}=8",
        )
    return int(value)


def _integer(name: str, value: Any) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise problem(
            f"`{name}` is not an integer.",
            received=f"{name}={value!r}",
            expected="an int",
            fix=f"pass e.g. {name}=0",
        )
    return int(value)


def _is_real(value: Any) -> bool:
    """Tell numbers, NumPy's too, from what is none."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _exponent(value: Any) -> float:
    if not _is_real(value) or not math.isfinite(value):
        raise problem(
            "`length_penalty` is not a number.",
            received=f"length_penalty={value!r}",
            expected="a number: 0 favours short sequences, 1 long ones",
            fix="pass e.g. length_penalty=0.6",
        )
    return float(value)


def _check_constants(constants: Tree, batch: int) -> None:
    shapes = [np.shape(x) for x in keras.tree.flatten(constants)]
    if any(not shape or shape[0] != batch for shape in shapes):
        raise problem(
            "The constants of a beam search have no entry for each row.",
            received=f"constants of shape {', '.join(map(str, shapes))} for {batch} rows",
            expected=f"({batch}, ...), which are repeated for the beams of a row",
            fix="repeat what is the same for all rows with `keras.ops.repeat(x, batch, axis=0)`",
        )


def _positive(name: str, value: Any) -> float:
    if not _is_real(value) or not value > 0:
        raise problem(
            f"`{name}` is not a positive number.",
            received=f"{name}={value!r}",
            expected="a number above 0; near 0 draws become greedy",
            fix=f"pass e.g. {name}=0.8",
        )
    return float(value)


def _share(value: Any) -> float:
    if not _is_real(value) or not 0 < value <= 1:
        raise problem(
            "`top_p` is not a share.",
            received=f"top_p={value!r}",
            expected="a number above 0, at most 1",
            fix="pass e.g. top_p=0.9",
        )
    return float(value)


def _check_beams(beams: int, vocabulary: int) -> None:
    if beams > vocabulary:
        raise problem(
            "A beam search cannot keep more sequences than there are tokens.",
            received=f"beams={beams}, and a head with {vocabulary} tokens",
            expected=f"beams of at most {vocabulary}",
            fix=f"pass beams={vocabulary}, or fewer",
        )
