"""Homes and what survives in them: rollback, restore, sync, and a look at what is lost."""
