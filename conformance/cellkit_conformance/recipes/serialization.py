"""SER and DTY: configs, weights, files and dtypes."""

from __future__ import annotations

import re

from cellkit_conformance.recipes.common import (
    CLOSE,
    SAME,
    inputs_of,
    layer_of,
    limit_of,
    make,
    recipe,
    step,
    symbolic,
    wrapper,
)
from cellkit_conformance.scripts import NoScript, Writer
from cellkit_conformance.strategies import Example


@recipe("SER-01")
def _round_trip(w: Writer) -> None:
    cell = w.cell()
    x, states = step(w)
    w.helpers["same"] = SAME
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
    told = re.search(r"(\w+)=.* was given, and the config says", w.result.message)
    if told:
        name = told.group(1)
        w.lines(f"assert config[{name!r}] == {w.subject.kwargs[name]!r}, config[{name!r}]")


@recipe("SER-06")
def _hidden(w: Writer) -> None:
    make(w)
    x, states = step(w)
    w.helpers["same"] = SAME
    w.lines(
        "one, other = make(), make()",
        "for cell in (one, other):",
        "    cell.build(shape)",
        "for mine, theirs in zip(one.variables, other.variables, strict=True):",
        "    theirs.assign(mine)",
        f"assert same(one({x}, {states}), other({x}, {states})), 'something is not tracked'",
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
    w.helpers["close"] = CLOSE
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
    w.helpers["same"] = SAME
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
    w.helpers["same"] = SAME
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
    w.helpers["close"] = CLOSE
    w.lines(
        f"options = 'return_sequences', 'return_state'",  # noqa: F541
        f"peer = keras.layers.{found[1]}({arguments}**dict.fromkeys(options, True))",
        f"peer.build({inputs}.shape)",
        "peer.set_weights(cell.get_weights())",
        f"want = peer({inputs}, initial_state={states})",
        f"got = {layer}({inputs}, initial_state={states})",
        f"close(list(got), list(want), {limit_of(w)!r})",
    )


@recipe("CMP-03", alone=True)
def _counted(w: Writer) -> None:
    cls = w.name_of_class(w.context.target.cls)
    inputs = inputs_of(w, time=3)
    made = w.make().replace(f"{cls}(", "Counting(", 1)
    w.lines(
        f"class Counting({cls}):",
        "    def build(self, input_shape):",
        "        super().build(input_shape)",
        "        options = {'dtype': 'int32', 'initializer': 'zeros', 'trainable': False}",
        "        self.count = self.add_weight(shape=(), name='count', **options)",
        "",
        "    def call(self, inputs, states, training=False):",
        "        self.count.assign(self.count.value + 1)",
        "        return super().call(inputs, states)",
        "",
        "",
        f"layer = {w.name_of_class(type(w.subject.layer()))}({made}, return_sequences=True)",
        f"layer({inputs})",
        "before = int(layer.cell.count.value)",
        f"layer({inputs})",
        "steps = int(layer.cell.count.value) - before",
        "assert steps == 3, f'a call of 3 steps ran what a step does {steps} times'",
    )
