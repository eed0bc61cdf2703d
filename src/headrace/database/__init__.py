"""The ground: the record in PostgreSQL."""
