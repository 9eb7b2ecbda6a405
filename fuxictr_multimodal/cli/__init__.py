"""Commands: parse, call, print. Only the standard library is imported before the arguments are parsed."""
