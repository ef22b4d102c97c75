"""Sparse layers: how much, which connections, when they change, how they are stored."""
