"""Matrix products in integers: how inputs are rounded, the weights that go with them, and what they cost."""
