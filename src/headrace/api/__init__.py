"""The door: HTTP. It validates, commits one transaction, and answers; it carries nothing itself and keeps no state."""
