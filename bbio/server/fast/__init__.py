"""The fast engine: frames are handled where they arrive."""
