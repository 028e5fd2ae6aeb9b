"""What loads and runs a plan: one module per library, imported when a bundle asks for it."""
