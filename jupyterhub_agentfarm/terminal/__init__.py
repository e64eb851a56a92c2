"""What the commands write: tables and progress on a terminal, plain lines and JSON everywhere else.

Data goes to stdout, everything said about it to stderr, so that output can be piped.
"""
