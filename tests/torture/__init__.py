"""The whole factory under faults of every kind, and a proof from its history that nothing was lost."""
