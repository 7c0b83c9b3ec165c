"""The middleware stack: layers, what runs them, and what happens once."""
