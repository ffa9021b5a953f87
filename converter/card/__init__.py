"""The model card: its text, tables and pictures, and how each library that was seen to load the like is used."""
