"""PromQL that several dashboards write alike."""
