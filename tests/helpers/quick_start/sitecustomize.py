"""Let processes that tests start import Keras without the other backends, as a worker does.

Python imports this module where its folder is on PYTHONPATH. Keras imports the other backends where
they are installed, and needs none of them; that, and looking for garbage among modules, is half of
a start. Whoever imports another backend later finds it. See `cellkit_conformance.run.startup`.
"""

import gc
import importlib.util
import os
import sys

NEEDED = {"tensorflow": {"tensorflow"}, "torch": {"torch"}, "jax": {"jax"}, "numpy": {"jax"}}


class Quick:
    """Finds Keras, and has it imported quickly."""

    def find_spec(self, name, path=None, target=None):
        """Return how to import Keras, and nothing for others."""
        needed = NEEDED.get(os.environ.get("KERAS_BACKEND", ""))
        if name != "keras" or needed is None:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec("keras")
        if spec is not None and spec.loader is not None:
            spec.loader = Loader(spec.loader, {"tensorflow", "torch", "jax"} - needed)
        return spec


class Loader:
    """Loads as another loader does, while some packages are hidden."""

    def __init__(self, loader, hidden):
        self.loader, self.hidden = loader, hidden

    def __getattr__(self, name):
        return getattr(self.loader, name)

    def create_module(self, spec):
        """Leave the making of the module to the other loader."""
        return self.loader.create_module(spec)

    def exec_module(self, module):
        """Import what the module imports."""
        hidden = self.hidden - {*sys.modules}
        sys.modules.update(dict.fromkeys(hidden))
        gc.disable()
        try:
            self.loader.exec_module(module)
        finally:
            gc.enable()
            for name in hidden:
                del sys.modules[name]
        gc.freeze()


sys.meta_path.insert(0, Quick())
