"""The whole of Headrace on one machine, for development and trying out: `headrace up`."""
