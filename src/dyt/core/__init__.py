"""What everything shares: routes, the context of a forward, break-evens, linear maps, whose tensors are whose."""
