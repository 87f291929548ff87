"""What is known of the packages that this project depends on. `make audit` runs it."""
