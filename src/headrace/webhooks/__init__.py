"""Other people's servers, told of events by signed calls: whom to call, how to call safely, what became of it."""
