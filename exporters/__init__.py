"""The service: collectors, the metric catalog, the exposition, the HTTP API."""
