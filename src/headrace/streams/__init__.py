"""The belt: streams of Redis, one per lane and one per queue."""
