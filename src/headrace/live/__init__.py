"""Live: events as they come, for whoever watches at the moment, and from where a watcher has left off."""
