"""The loop on OpenVINO: inference alone."""
