"""Small trained checkpoints, and full-size seeded ones, in the layouts of repositories that cannot be fetched here."""
