"""Text as it is published: files, tables and repositories."""
