"""Inlet 2, time: schedules are fired and the record is kept in order; nothing here does the work itself."""
