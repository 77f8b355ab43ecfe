"""Adapters: one folder an engine, one file an op. ``live`` holds what they share: how a call becomes a definition."""
