"""SER and DTY: configs, weights, files and dtypes."""

from __future__ import annotations

import re

import numpy as np

from cellkit_conformance.examples.strategies import Example
from cellkit_conformance.repro.recipes.common import (
    inputs_of,
    layer_of,
    limit_of,
    make,
    recipe,
    step,
    symbolic,
    wrapper,
)
from cellkit_conformance.repro.writer import NoScript, Writer
from cellkit_conformance.trees import map_trees


@recipe("SER-01")
def _round_trip(w: Writer) -> None:
    cell = w.cell()
    x, states = step(w)
    w.imports.add("import json")
    w.lines(
        f"config = {cell}.get_config()",
        f"again = type({cell}).from_config(config)",
        "plain = lambda value: json.dumps(value, default=str, sort_keys=True)",
        "assert plain(again.get_config()) == plain(config), (config, again.get_config())",
        f"again.build({w.shapes()})",
        f"for new, old in zip(again.weights, {cell}.weights, strict=True):",
        "    new.assign(old)",
        f"assert same(again({x}, {states}), {cell}({x}, {states})), 'the copy gives other results'",
    )


@recipe("SER-02")
def _complete(w: Writer) -> None:
    from cellkit_conformance.checks.serialization import parameters_of

    names = sorted({*parameters_of(type(w.subject.cell)), *w.subject.kwargs})
    w.imports.add("import json")
    w.lines(
        f"config = {w.make()}.get_config()",
        "json.dumps(config)",
        f"for name in {names!r}:",
        "    assert name in config, f'the argument {name!r} is not in the config'",
    )
    told = re.search(r"(\w+)=(.*) was given, and the config says", w.result.message)
    if told:
        name, given = told.groups()
        changed = w.make(**{name: "GIVEN"}).replace("'GIVEN'", given)
        w.lines(
            f"config = {changed}.get_config()",
            f"assert config[{name!r}] == {given}, config[{name!r}]",
        )


@recipe("SER-06")
def _hidden(w: Writer) -> None:
    make(w)
    x, states = step(w)
    w.lines(
        "one, other = make(), make()",
        "for cell in (one, other):",
        "    cell.build(shape)",
        "for mine, theirs in zip(one.variables, other.variables, strict=True):",
        "    theirs.assign(mine)",
        f"assert same(one({x}, {states}), other({x}, {states})), 'something is not tracked'",
        "tracked = {id(variable) for variable in one.variables}",
        "for name, value in vars(one).items():",
        "    if isinstance(value, (list, tuple, dict, keras.Variable)):",
        "        found = [v for v in keras.tree.flatten(value) if isinstance(v, keras.Variable)]",
        "        assert {id(v) for v in found} <= tracked, f'{name} is not tracked'",
    )


@recipe("SER-11")
def _older_configs(w: Writer) -> None:
    found = re.search(r"a config without '(\w+)'", w.result.message)
    if found is None:
        raise NoScript("the message names no argument")
    w.imports.add("import json")
    w.lines(
        f"cell = {w.make()}",
        "config = cell.get_config()",
        f"less = {{key: value for key, value in config.items() if key != {found[1]!r}}}",
        "again = type(cell).from_config(less).get_config()",
        "plain = lambda value: json.dumps(value, default=str, sort_keys=True)",
        "assert plain(again) == plain(config), (config, again)",
    )


@recipe("DTY-03", "DTY-04")
def _promotion(w: Writer) -> None:
    found = re.search(r"under (float32|mixed_\w+)", w.result.message)
    if found is None:
        raise NoScript("the message names no policy")
    compute = found[1].removeprefix("mixed_")
    x, _ = step(w)
    w.lines(
        f"cell = {w.make(dtype=found[1])}",
        f"cell.build({w.shapes()})",
        f"layer = {w.name_of_class(type(w.subject.layer()))}(cell, dtype={found[1]!r})",
        "states = layer.get_initial_state(batch_size=3)",
        f"x = keras.tree.map_structure(lambda a: keras.ops.cast(a, {compute!r}), {x})",
        "output, new = cell(x, list(states) if isinstance(states, tuple) else states)",
        "kind = lambda leaf: keras.backend.standardize_dtype(leaf.dtype)",
        "dtypes = lambda tree: [kind(leaf) for leaf in keras.tree.flatten(tree)]",
        f"assert set(dtypes(output)) == {{{compute!r}}}, dtypes(output)",
        "assert dtypes(new) == dtypes(states), (dtypes(states), dtypes(new))",
    )
    if w.result.requirement == "DTY-04":
        w.lines("assert {'float32', 'complex64'} & set(dtypes(new)), dtypes(new)")


@recipe("DTY-07")
def _refuses_quantisation(w: Writer) -> None:
    cell = w.cell()
    w.lines(
        "try:",
        f"    {cell}.quantize('int8')",
        "except (NotImplementedError, ValueError, TypeError) as error:",
        "    print(f'refused, as it must be: {error}')",
        "else:",
        "    raise AssertionError('int8 was accepted; the spec does not claim quantized')",
    )


@recipe("SER-08", alone=True)
def _copies(w: Writer) -> None:
    layer, inputs = layer_of(w), inputs_of(w)
    w.imports |= {"import copy", "import pickle"}
    w.lines(
        f"want = {layer}({inputs})",
        "for make in (copy.deepcopy, lambda la: pickle.loads(pickle.dumps(la))):",
        f"    again = make({layer})",
        f"    close(again({inputs}), want, {limit_of(w)!r})",
        "    for variable in again.weights:",
        "        if keras.backend.is_float_dtype(variable.dtype):",
        "            variable.assign(variable.value + 1)",
        f"    close({layer}({inputs}), want, 0.0)  # the copy shares nothing",
    )


@recipe("SER-09", alone=True)
def _holders(w: Writer) -> None:
    make(w)
    cls = w.name_of_class(type(w.subject.layer()))
    w.imports.add("import json")
    w.lines(
        "plain = lambda value: json.dumps(value, default=str, sort_keys=True)",
        f"for holder in ({wrapper(w)}({cls}(make())), {cls}([make(), make()])):",
        "    config = holder.get_config()",
        "    again = type(holder).from_config(config).get_config()",
        "    assert plain(again) == plain(config), (config, again)",
        f"layer = {cls}(make(), return_sequences=True)",
        f"symbolic = {symbolic(w)}",
        "model = keras.Model(symbolic, layer(symbolic))",
        "clone = keras.models.clone_model(model)",
        "shapes = [[y.shape for y in m.outputs] for m in (model, clone)]",
        "assert shapes[0] == shapes[1], shapes",
        "cls = type(make())",
        "with keras.saving.custom_object_scope({cls.__name__: cls}):",
        "    assert isinstance(cls.from_config(make().get_config()), cls)",
    )


@recipe("SER-07", alone=True)
def _weights_are_set(w: Writer) -> None:
    layer, inputs = layer_of(w), inputs_of(w)
    w.lines(
        f"want = {layer}({inputs})",
        f"stored = {layer}.get_weights()",
        f"{layer}.set_weights(stored)",
        f"assert same({layer}({inputs}), want), 'set_weights(get_weights()) changes the output'",
        "wrong = np.zeros((*stored[0].shape, 2), stored[0].dtype)",
        "for weights in ([wrong, *stored[1:]], stored[1:]):",
        "    try:",
        f"        {layer}.set_weights(weights)",
        "    except ValueError as error:",
        "        shape = str(tuple(stored[0].shape))",
        "        named = shape in str(error) or len(weights) < len(stored)",
        "        assert named, f'the error does not name {shape}: {error}'",
        "    else:",
        "        raise AssertionError('weights that do not fit were accepted')",
        f"    assert same({layer}({inputs}), want), 'weights that were refused changed the output'",
    )


@recipe("DTY-01", alone=True)
def _mixed(w: Writer) -> None:
    found = re.search(r"under (mixed_\w+)", w.result.message)
    if found is None:
        raise NoScript("the message names no policy")
    policy, inputs = found[1], inputs_of(w)
    w.lines(
        f"cell = {w.make(dtype=policy)}",
        f"layer = {w.name_of_class(type(w.subject.layer()))}(cell, dtype={policy!r})",
        f"output = layer({inputs})",
        "kind = lambda leaf: keras.backend.standardize_dtype(leaf.dtype)",
        "dtypes = {kind(y) for y in keras.tree.flatten(output)}",
        f"assert dtypes == {{{policy.removeprefix('mixed_')!r}}}, dtypes",
        "for variable in layer.trainable_variables:",
        "    assert kind(variable) == 'float32', (variable.path, kind(variable))",
    )


@recipe("DTY-06", alone=True)
def _policies(w: Writer) -> None:
    make(w)
    own = w.make(dtype="mixed_bfloat16")
    x, states = step(w)
    w.lines(
        f"own = {own}",
        "keras.config.set_dtype_policy('mixed_bfloat16')",
        "cell = make()",
        "keras.config.set_dtype_policy('float32')",
        "for one in (own, cell):",
        "    one.build(shape)",
        "cell.set_weights(own.get_weights())",
        f"x = keras.tree.map_structure(lambda a: keras.ops.cast(a, 'bfloat16'), {x})",
        f"want, got = own(x, {states}), cell(x, {states})",
        "kind = lambda leaf: keras.backend.standardize_dtype(leaf.dtype)",
        "dtypes = [[kind(y) for y in keras.tree.flatten(result)] for result in (want, got)]",
        "assert dtypes[0] == dtypes[1], dtypes",
        "wide = lambda y: keras.ops.cast(y, 'float32') if 'float' in kind(y) else y",
        "assert same(*(keras.tree.map_structure(wide, list(r)) for r in (want, got)))",
    )


@recipe("NUM-08", alone=True)
def _of_the_framework(w: Writer) -> None:
    found = re.search(r"keras\.layers\.(\w+)", w.result.message)
    if found is None:
        raise NoScript("the message names no layer")
    kwargs = {k: v for k, v in w.subject.kwargs.items() if "dropout" not in k and k != "seed"}
    arguments = "".join(f"{key}={value!r}, " for key, value in kwargs.items())
    example = Example(3, 5, seed=w.context.seed, initial_state=True)
    layer, inputs = layer_of(w), inputs_of(w)
    states = w.data("states", w.subject.random_states(example))
    w.lines(
        f"options = 'return_sequences', 'return_state'",  # noqa: F541
        f"peer = keras.layers.{found[1]}({arguments}**dict.fromkeys(options, True))",
        f"peer.build({inputs}.shape)",
        "peer.set_weights(cell.get_weights())",
        f"want = peer({inputs}, initial_state={states})",
        f"got = {layer}({inputs}, initial_state={states})",
        f"close(list(got), list(want), {limit_of(w)!r})",
    )


@recipe("DTY-02", alone=True)
def _double(w: Writer) -> None:
    w.double = True
    inputs = map_trees(lambda a: a.astype(np.float64), w.subject.inputs(Example(3, 3)))
    cls = w.name_of_class(type(w.subject.layer()))
    w.lines(
        f"cell = {w.make(dtype='float64')}",
        f"layer = {cls}(cell, dtype='float64', return_state=True)",
        f"result = layer({w.data('inputs', inputs)})",
        "kind = lambda leaf: keras.backend.standardize_dtype(leaf.dtype)",
        "for leaf in keras.tree.flatten(list(result)) + layer.weights:",
        "    narrow = keras.backend.is_float_dtype(kind(leaf)) and kind(leaf) != 'float64'",
        '    assert not narrow, f\'{getattr(leaf, "path", "a result")} is {kind(leaf)}\'',
    )


OBJECTS = {
    "activation": "soft_sign",
    "kernel_initializer": "keras.initializers.RandomNormal(0.0, 0.3, seed=4)",
    "recurrent_initializer": "keras.initializers.Orthogonal(0.7, seed=4)",
    "bias_initializer": "keras.initializers.RandomUniform(-0.2, 0.2, seed=4)",
    "kernel_regularizer": "keras.regularizers.L2(0.25)",
    "recurrent_regularizer": "keras.regularizers.L1L2(0.25, 0.5)",
    "bias_regularizer": "keras.regularizers.L1(0.25)",
    "kernel_constraint": "keras.constraints.MaxNorm(0.5)",
    "recurrent_constraint": "keras.constraints.UnitNorm()",
    "bias_constraint": "keras.constraints.NonNeg()",
}
"""What the check passes, as text."""

SOFT_SIGN = """\
@keras.saving.register_keras_serializable(package="of_this_program")
def soft_sign(x):
    return x / (1 + keras.ops.abs(x))
"""


@recipe("SER-10", alone=True)
def _objects(w: Writer) -> None:
    found = re.search(r"(\w+)=(.+?) does not (?:survive|change)", w.result.message)
    if found is None:
        raise NoScript("the message names no argument")
    name, said = found.groups()
    given = OBJECTS[name]
    if name == "activation" and "soft_sign" not in said:
        given = "keras.activations.tanh" if "tanh" in said else said
    if given == "soft_sign":
        w.helpers["soft_sign"] = SOFT_SIGN
    w.imports.add("import json")
    changed = w.make(**{name: "GIVEN"}).replace("'GIVEN'", "given")
    w.lines(
        "plain = lambda value: json.dumps(value, default=str, sort_keys=True)",
        f"given = {given}",
        f"config = {changed}.get_config()",
        f"again = {w.make()}.__class__.from_config(config).get_config()",
        "assert plain(again) == plain(config), (config, again)",
    )
    if "does not change" in w.result.message:
        w.lines(
            f"default = {w.make()}.get_config()",
            f"assert plain(config[{name!r}]) != plain(default[{name!r}]), config[{name!r}]",
        )
