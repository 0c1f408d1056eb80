"""Long work seen from outside: told in phases, and stopped."""
