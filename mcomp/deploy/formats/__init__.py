"""One file per format that a model is exported to; each writes the file and runs it again."""
