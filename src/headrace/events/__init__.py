"""Facts: what happened, in the order in which it is handled."""
