"""Test networks with the shapes of published architectures, made from a seed, not downloaded."""
