"""The clock process: `arq workers.cron.WorkerSettings`."""

import os

from headrace.cron.arq_settings import arq_settings
from headrace.resources import build_registry
from headrace.settings import Settings

settings = Settings.from_environment(os.environ)
WorkerSettings = arq_settings(settings, build_registry(settings))
