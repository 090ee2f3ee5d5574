"""The self-test: deliberately broken cells and layers, and the checks that notice them."""
