"""The hot path: call sites, the table of proven choices, the breaker, opaque ops."""
