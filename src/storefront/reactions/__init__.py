"""What follows from an order's events: one file per reaction, each unknown to the code that publishes."""
