"""A trained model made faster: exact rewrites, break-evens, capacity, int8 weights."""
