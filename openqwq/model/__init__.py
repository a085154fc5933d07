"""The Qwen2 transformer and its checkpoints."""
