"""Code that several test files use. No test file imports another one (tests/test_imports.py)."""
