"""The migrations of Headrace's own tables, one Alembic branch."""
