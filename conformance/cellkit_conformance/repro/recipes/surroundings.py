"""CMP and PUR: symbolic calls, and what a layer leaves behind."""

from __future__ import annotations

from cellkit_conformance.examples.strategies import Example
from cellkit_conformance.repro.recipes.common import (
    inputs_of,
    layer_of,
    layers_of_all_pairs,
    recipe,
    symbolic,
)
from cellkit_conformance.repro.writer import Writer


@recipe("CMP-08")
def _symbolic(w: Writer) -> None:
    inputs = symbolic(w)
    layers_of_all_pairs(w)
    w.lines(
        f"        announced = keras.tree.flatten(layer({inputs}))",
        "        real = keras.tree.flatten(layer(inputs))",
        "        assert len(announced) == len(real), (len(announced), len(real))",
        "        for said, got in zip(announced, real):",
        "            pairs = zip(said.shape, got.shape, strict=True)",
        "            fits = all(a in (None, b) for a, b in pairs)",
        "            assert fits, f'announced {said.shape}, got {tuple(got.shape)}'",
        "            dtype = keras.backend.standardize_dtype(got.dtype)",
        "            assert said.dtype == dtype, f'announced {said.dtype}, got {dtype}'",
    )


@recipe("PUR-01")
def _untouched(w: Writer) -> None:
    example = Example(3, 5, seed=w.context.seed, initial_state=True)
    inputs, states = w.subject.inputs(example), w.subject.random_states(example)
    layer = w.layer(w.subject.layer(return_sequences=True))
    w.imports.add("import copy")
    masks = "masking" in w.context.target.traits
    mask = ", mask=np.array([[1, 1, 0, 1, 0]] * 3, bool)" if masks else ""
    w.lines(
        f"inputs, states = {w.literal(inputs)}, {w.literal(states)}",
        "numpy = lambda tree: keras.tree.map_structure(",
        "    lambda leaf: keras.ops.convert_to_numpy(leaf).copy(), tree",
        ")",
        "passed = numpy([inputs, states])",
        "before = copy.deepcopy(passed)",
        f"{layer}(passed[0], initial_state=passed[1]{mask})",
        "assert same(passed, before), 'the layer changed what it was given'",
        "before = list(states.values() if isinstance(states, dict) else states)",
        "cell.call(keras.tree.map_structure(lambda a: a[:, 0], inputs), states)",
        "after = list(states.values() if isinstance(states, dict) else states)",
        "untouched = len(after) == len(before) and all(a is b for a, b in zip(after, before))",
        "assert untouched, '`call` changed the list of states that it was given'",
    )


@recipe("PUR-02", alone=True)
def _not_kept(w: Writer) -> None:
    layer, inputs, other = layer_of(w), inputs_of(w), inputs_of(w, seed=1)
    w.lines(
        "numpy = lambda tree: keras.tree.map_structure(",
        "    lambda leaf: np.array(keras.ops.convert_to_numpy(leaf)), tree",
        ")",
        f"passed, want = numpy({inputs}), {layer}({other})",
        f"before = numpy({layer}.variables)",
        f"first = {layer}(passed)",
        "kept = numpy(first)",
        f"for array, new in zip(keras.tree.flatten(passed), keras.tree.flatten({other})):",
        "    array[...] = keras.ops.convert_to_numpy(new)",
        "assert same(first, kept), 'an earlier result changed with its inputs'",
        f"assert same({layer}(passed), want), 'the arrays of an earlier call were kept'",
        *(
            [
                f"for leaf in keras.tree.flatten({layer}({other})):",
                "    leaf.detach().zero_()",
                f"assert same({layer}({other}), want), 'a result that was overwritten came back'",
            ]
            if w.backend == "torch"
            else []
        ),
        f"assert same(numpy({layer}.variables), before), 'inference changed a variable'",
    )


@recipe("PUR-03", alone=True)
def _layers_apart(w: Writer) -> None:
    layer, inputs = layer_of(w), inputs_of(w)
    cls = w.name_of_class(type(w.subject.layer()))
    w.lines(
        f"want = {layer}({inputs})",
        f"other = {cls}({w.make()}, return_sequences=True)",
        f"other({inputs_of(w, batch=2)})",
        "try:",
        f"    other(keras.tree.map_structure(lambda x: keras.ops.reshape(x, -1)[:3], {inputs}))",
        "except Exception as error:",
        "    print(f'refused, as it must be: {type(error).__name__}')",
        *([] if w.backend == "torch" else ["keras.utils.clear_session(free_memory=False)"]),
        f"assert same({layer}({inputs}), want), 'another layer changed the result of this one'",
    )


@recipe("PUR-04", alone=True)
def _threads(w: Writer) -> None:
    layer, one, other = layer_of(w), inputs_of(w), inputs_of(w, seed=1)
    w.imports.add("from concurrent.futures import ThreadPoolExecutor")
    w.lines(
        f"want = [{layer}({one}), {layer}({other})]",
        "with ThreadPoolExecutor(2) as pool:",
        "    for _ in range(20):",
        f"        got = list(pool.map({layer}, [{one}, {other}]))",
        "        assert same(got, want), 'two threads get other results than one'",
    )


@recipe("PUR-06", alone=True)
def _import(w: Writer) -> None:
    name = w.name_of_class(w.context.target.cls)
    line = next(line for line in w.imports if line.endswith(f" import {name.split('.')[0]}"))
    w.imports.discard(line)
    w.imports.add("import sys")
    backends = sorted({"tensorflow", "torch", "jax"} - {w.backend})
    w.lines(
        "def settings():",
        "    policy = keras.config.dtype_policy().name",
        f"    others = [name for name in {backends} if sys.modules.get(name)]",
        "    image = keras.config.image_data_format()",
        "    backend = os.environ['KERAS_BACKEND']",
        "    return keras.config.floatx(), keras.config.epsilon(), policy, image, backend, others",
        "",
        "",
        "before = settings()",
        f"sys.modules.pop({line.split()[1]!r}, None)  # where it was imported before",
        line,
        "assert settings() == before, (before, settings())",
    )
