"""Two models on the same rows: who gains, who loses, which fields changed their role, and whether to release."""
