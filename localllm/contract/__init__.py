"""The nouns that the server process and the worker process share: requests, events, models, errors. Standard library only."""
