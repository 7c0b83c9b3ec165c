"""The commands of `bbio`, one module each."""
