"""Who reacts to events: subscriptions, their deliveries, and the runner of `headrace consume`."""
