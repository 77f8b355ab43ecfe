"""HOT. Live tensors to definition inputs, for any engine: which site, which key, which shape comes back."""
