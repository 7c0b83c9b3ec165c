"""PostgresStore: models, events and operations in a PostgreSQL database."""
