"""The operator's web pages: a client of the public API, served beside it."""
