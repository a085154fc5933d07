"""Beyond one process: Ray places, vLLM or our engine samples, FSDP2 trains."""
