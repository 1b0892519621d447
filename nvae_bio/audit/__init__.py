"""The audit: samples whose label or content the model doubts, and why."""
