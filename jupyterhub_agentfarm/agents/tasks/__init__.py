"""Tasks: their states, the book that every change goes through, their files, and the API of tasks."""
