"""Cells with nested inputs."""
