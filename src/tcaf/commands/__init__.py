"""The command line: arguments in, one function of the package called, its result printed."""
