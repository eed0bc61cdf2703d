"""`headrace demo`: a real order on a real stack, and what followed, as a person would like to watch it."""
