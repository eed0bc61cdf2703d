"""The testing kit: a team runs its own tasks, subscribers and schedules in its own pytest."""
