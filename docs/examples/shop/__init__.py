"""A shop that takes an order once, however often it is asked for it."""
