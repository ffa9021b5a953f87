"""Where an original comes from, what its files say of it, and its tensors."""
