"""What Grafana reads: panels and dashboards as clean JSON, and how they get into a Grafana."""
