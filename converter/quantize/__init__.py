"""Pure functions over tensors: from weights to integer codes, scales and offsets."""
