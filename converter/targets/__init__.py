"""One target per runtime: pack a checkpoint into the files that the runtime loads."""
