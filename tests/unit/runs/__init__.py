"""Tests of the extension that executes notebooks."""
