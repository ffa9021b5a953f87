"""The proof: the upstream library's own outputs, our reading of the checkpoint, and the artifact against them."""
