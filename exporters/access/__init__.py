"""Who may call the service: tokens, roles, the guard before every route, the audit log."""
