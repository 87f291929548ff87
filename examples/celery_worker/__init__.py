"""A Celery worker that tells users what their tasks do. See `docs/guides/workers.md`."""
