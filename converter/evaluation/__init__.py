"""What parity means to a user: figures of tasks, of the original and of the artifact, and how sure their difference is."""
