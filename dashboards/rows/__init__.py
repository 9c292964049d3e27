"""The panels of a dashboard's rows: what does not fit into the dashboard's own file."""
