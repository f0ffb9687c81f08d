"""A procedural world of captioned scenes, 128x128, in which every edit of one caption word has an
exact true picture."""
