"""The storefront's branch of Alembic: its tables, all named `storefront_*`, none of Headrace's."""
