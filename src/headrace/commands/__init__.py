"""The commands of `headrace`, one module each: they read the settings and hand over to a station."""
