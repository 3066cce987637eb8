"""Who may do what: API keys at the door, quotas, the audit trail."""
