"""What several tests build on: checkpoints, stand-ins for models that cannot be fetched, servers, the upstream library."""
