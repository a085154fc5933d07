"""Tools, the agent loop over them, and environments in which to learn their use."""
