"""The demo: a small Django project with one view for each way a response can be made."""
