"""One file per client dialect: what its requests and answers look like."""
