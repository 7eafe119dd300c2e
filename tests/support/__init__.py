"""What the tests share: plain functions and classes. The fixtures are in the conftest files."""
