"""The nouns that the functions share."""
