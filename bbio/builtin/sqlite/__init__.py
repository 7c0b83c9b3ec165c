"""SQLiteStore: models, events and operations in a file."""
