"""Small seeded bugs, each with the test that must notice it. `python -m tests.mutants` applies them one by one."""
