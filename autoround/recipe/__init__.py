"""Recipes: YAML files that say what to do, read strictly and resolved once."""
