"""One module per command: its options, its calls, its JSON document and its tables."""
