"""Pictures of the dashboards over real data, drawn by Grafana's own components in a headless Chromium."""
