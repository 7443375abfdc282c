"""The command line: one verb per function of the library, one file per verb: parse, call one function, print."""
