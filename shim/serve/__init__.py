"""The HTTP server: `run` starts it, `scheduler` owns the models, `app` has the routes, `dialects` the clients' shapes."""
