"""A module that changes a setting of the process when it is imported."""

from __future__ import annotations

import keras

from cellkit_conformance.subject.canaries import PlainCanary

keras.config.set_epsilon(keras.config.epsilon() * 2)


class Meddler(PlainCanary):
    """Computes what its base does."""
