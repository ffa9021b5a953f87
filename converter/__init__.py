"""Convert embedding and reranking checkpoints to MLX or ONNX, and prove the result against the original."""
