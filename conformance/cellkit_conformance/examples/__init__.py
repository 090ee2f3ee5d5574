"""Examples: the data and options that properties are checked with, drawn and made small."""
