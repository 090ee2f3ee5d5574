"""Cells that are right and unusual are not accused, and their broken neighbours still are."""

import keras
import pytest
from keras import ops

import cellkit
from cellkit_conformance.edition.profiles import PROFILES
from cellkit_conformance.judge import Judge
from cellkit_conformance.outcome import Outcome
from cellkit_conformance.subject.targets import describe

BACKEND = keras.backend.backend()


def register(cls):
    return keras.saving.register_keras_serializable("fairness")(cls)


class Base(keras.layers.Layer):
    def __init__(self, units=4, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = self.output_size = units

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], self.units), name="w")
        self.u = self.add_weight(shape=(self.units, self.units), name="u")

    def call(self, inputs, states):
        h = ops.tanh(ops.matmul(inputs, self.w) + ops.matmul(states[0], self.u))
        return h, [h]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@register
class Bare(Base):
    def call(self, inputs, states):
        h, _ = super().call(inputs, states)
        return h, h


@register
class BareAndWrong(Base):
    def call(self, inputs, states):
        h, _ = super().call(inputs, states)
        return h, h[:, :-1]


@register
class InnerDropout(Base):
    def __init__(self, units=4, backbone_dropout=0.1, **kwargs):
        super().__init__(units, **kwargs)
        self.backbone_dropout = backbone_dropout
        self.drop = keras.layers.Dropout(backbone_dropout)

    def call(self, inputs, states, training=False):
        return super().call(self.drop(inputs, training=training), states)

    def get_config(self):
        return {**super().get_config(), "backbone_dropout": self.backbone_dropout}


@register
class NoisyBeside(InnerDropout):
    def __init__(self, units=4, **kwargs):
        super().__init__(units, **kwargs)
        self.generator = keras.random.SeedGenerator(1)

    def call(self, inputs, states, training=False):
        if training:
            inputs = inputs + keras.random.normal(ops.shape(inputs), seed=self.generator)
        return super().call(inputs, states, training)


@register
class Objects(Base):
    def __init__(self, units=4, init="glorot_uniform", **kwargs):
        super().__init__(units, **kwargs)
        self.init = keras.initializers.get(init)

    def get_config(self):
        return {**super().get_config(), "init": self.init}


@register
class OtherObjects(Objects):
    """Makes another initializer than its config says."""

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "init": "zeros"})


@register
class NoJson(Objects):
    def get_config(self):
        return {**super().get_config(), "init": object()}


def verdict(cls, identifier):
    target = describe(cls.__name__, cls, None)
    judge = Judge(target, BACKEND, PROFILES["quick"], 0, cellkit.RNN, blame=False)
    return judge.run(identifier)


@pytest.mark.parametrize(
    ("cls", "ids"),
    [
        (
            Bare,
            [
                "STR-03",
                "SEQ-02",
                "SEQ-03",
                "SEQ-06",
                "SEQ-11",
                "STA-03",
                "MSK-02",
                "MSK-07",
                # Without a reference it takes the cell in float64, which JAX hasn't got.
                *([] if BACKEND == "jax" else ["NUM-12"]),
            ],
        ),
        (InnerDropout, ["RNG-08"]),
        (Objects, ["SER-01", "SER-02", "SER-11"]),
    ],
)
def test_an_unusual_cell_that_is_right_passes(cls, ids):
    found = {identifier: verdict(cls, identifier) for identifier in ids}
    assert {id: r.message for id, r in found.items() if r.outcome is not Outcome.PASS} == {}


@pytest.mark.parametrize(
    ("cls", "identifier"),
    [
        (BareAndWrong, "STR-03"),
        (NoisyBeside, "RNG-08"),
        (OtherObjects, "SER-01"),
        (NoJson, "SER-02"),
    ],
)
def test_its_broken_neighbour_is_found(cls, identifier):
    assert verdict(cls, identifier).outcome is Outcome.FAIL


def test_what_only_a_spec_can_claim_is_not_asked_of_a_cell_without_one():
    result = verdict(InnerDropout, "RNG-11")
    assert result.outcome is Outcome.NOT_APPLICABLE and "no spec" in result.message


def test_a_cell_that_is_no_plugin_is_told_so_and_not_refused(tmp_path, monkeypatch):
    source = (
        "import keras\nfrom keras import ops\n\n"
        "class Cell(keras.layers.Layer):\n"
        "    def __init__(self, units=4, **kwargs):\n"
        "        super().__init__(**kwargs)\n"
        "        self.units = self.state_size = units\n"
        "    def build(self, shape):\n"
        "        self.w = self.add_weight(shape=(shape[-1], self.units), name='w')\n"
        "    def call(self, inputs, states):\n"
        "        h = ops.tanh(ops.matmul(inputs, self.w) + 0.5 * states[0])\n"
        "        return h, [h]\n"
        "    def get_config(self):\n"
        "        return {**super().get_config(), 'units': self.units}\n"
    )
    (tmp_path / "not_a_plugin.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    import not_a_plugin

    result = verdict(not_a_plugin.Cell, "SER-03")
    assert result.outcome is Outcome.NOT_APPLICABLE
    assert "not a plugin" in result.message


@register
class Filter(keras.layers.Layer):
    """Filters every feature by itself, so its inputs are as wide as it is."""

    def __init__(self, size, **kwargs):
        super().__init__(**kwargs)
        self.size = self.state_size = self.output_size = int(size)

    def build(self, shape):
        self.tau = self.add_weight(shape=(1, self.size), initializer="ones", name="tau")

    def call(self, inputs, states):
        s = ops.sigmoid(self.tau)
        y = s * inputs + (1 - s) * states[0]
        return y, [y]

    def get_config(self):
        return {**super().get_config(), "size": self.size}


@register
class Mean(keras.layers.Layer):
    """Has no weight, and no `build`."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = self.output_size = units

    def call(self, inputs, states):
        y = 0.5 * (inputs + states[0])
        return y, [y]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@pytest.mark.parametrize("cls", [Filter, Mean])
def test_inputs_as_wide_as_the_states_are_found(cls):
    target = describe(cls.__name__, cls, None)
    (case,) = target.cases.values()
    assert target.inputs == tuple(case.values())
    for identifier in ("STR-03", "SEQ-02", "SEQ-12", "MSK-02", "ERR-02"):
        assert verdict(cls, identifier).outcome is Outcome.PASS


def test_a_cell_with_a_kernel_keeps_inputs_of_another_width():
    assert describe("Base", Base, None).inputs == ("features",)
