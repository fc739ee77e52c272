"""The command line: ``main`` parses, one module per verb does."""
