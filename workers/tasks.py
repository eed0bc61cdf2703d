"""The worker process: `taskiq worker workers.tasks:broker`."""

from headrace.resources import broker_from_environment

broker = broker_from_environment()
