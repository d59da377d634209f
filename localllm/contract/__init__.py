"""The nouns that server and worker share: requests, events, models, errors. Standard library only."""
