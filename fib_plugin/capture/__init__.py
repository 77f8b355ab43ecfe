"""Capture: what a serving engine really ran, written down as FlashInfer Trace workloads without slowing it down."""
