"""A manifest of many pictures, edited on Ray Data."""
