"""The Grafana dashboards as grafanalib code; the JSON they generate is committed in generated/."""
