"""From the record to the belt: the leased leader that moves events and due jobs."""
