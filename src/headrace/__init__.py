"""Headrace: everything that must happen after a request was answered."""
